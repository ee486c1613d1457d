"""Evaluation by share revealed: nobody is paid for what was given away."""

import types

import numpy as np

from prefixrl_jax.evals.accuracy import by_fraction
from prefixrl_jax.rewards.countdown import CountdownVerifier
from prefixrl_jax.types import Completion, Problem, Trace

_TOKENIZER = types.SimpleNamespace(
  encode=lambda text: [ord(c) for c in text],
  encode_prompts=lambda texts: ([ord(c) for c in text] for text in texts),
  decode=lambda many: ["".join(map(chr, ids)) for ids in many],
)
_SESSION = types.SimpleNamespace(
  verifier=CountdownVerifier(), tokenizer=_TOKENIZER
)
_PUZZLE = {"numbers": [4, 6], "target": 24, "use_all": True}


class _Rambler:
  """A policy that adds some words, whatever it is asked."""

  def sample(self, requests, **_):
    self.asked = _TOKENIZER.decode([r.trunk for r in requests])
    words = np.array(_TOKENIZER.encode(" and so on"), np.int32)
    nothing = Completion(words, np.zeros(len(words), np.float32), False)
    return [[nothing] * r.num_completions for r in requests]


def _trace(name, text):
  tokens = np.array(_TOKENIZER.encode(text), np.int32)
  return Trace(name, tokens, text, 1.0, "made up", 0, 0, 1)


def _evaluate(texts, fractions):
  problems = {
    name: Problem(name, "?", "", "", "train", i, _PUZZLE)
    for i, name in enumerate(texts)
  }
  policy = _Rambler()
  results, samples, given_away = by_fraction(
    _SESSION,
    policy,
    problems,
    [_trace(name, text) for name, text in texts.items()],
    fractions,
    num_samples=2,
    step=0,
    purpose="evaluation",
    seed=0,
  )
  assert len(results) == len(samples)
  return policy, results, given_away


def test_what_is_revealed_with_its_answer_is_not_asked_but_counted():
  early = r"\boxed{4*6} is what I found."  # its box ends at 10 of 28
  late = r"The product of both is \boxed{4*6}"
  policy, results, given_away = _evaluate(
    {"early": early, "late": late}, (0.25, 0.5, 0.9)
  )
  assert sorted((r.problem_id, r.fraction) for r in results) == [
    ("early", 0.25),
    ("late", 0.25),
    ("late", 0.5),
    ("late", 0.9),
  ]
  assert given_away == {0.5: 1, 0.9: 1}
  assert "?The prod" in policy.asked
  assert all(r.num_correct == 0 for r in results)


def test_it_is_a_problem_s_first_trace_that_is_revealed():
  policy = _Rambler()
  by_fraction(
    _SESSION,
    policy,
    {"p": Problem("p", "?", "", "", "train", 0, _PUZZLE)},
    [_trace("p", "first words"), _trace("p", "other words")],
    (0.5,),
    num_samples=1,
    step=0,
    purpose="evaluation",
    seed=0,
  )
  assert policy.asked == ["?first"]


def test_nothing_is_asked_where_every_share_gives_the_answer_away():
  policy, results, given_away = _evaluate({"p": r"\boxed{4*6} "}, (0.95,))
  assert results == []
  assert given_away == {0.95: 1}
  assert not hasattr(policy, "asked")
