"""Rejection sampling against a verifier that knows what it wants."""

import numpy as np
import pytest
from scoring import teacher_forced

from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.traces.rejection import collect
from prefixrl_jax.types import Completion, Problem, Verdict


class _Tokenizer:
  vocab_size, pad, stop_tokens = 17, 0, (5,)

  def encode(self, text):
    return [int(x) for x in text.split()]

  def encode_prompts(self, texts):
    return map(self.encode, texts)

  def decode(self, many):
    return [" ".join(map(str, ids)) for ids in many]


class _Contains:
  """Right if the answer's token is in the text."""

  def judge(self, problems, texts):
    return [
      Verdict(float(p.answer in t.split())) for p, t in zip(problems, texts)
    ]

  def close(self):
    pass


_PROBLEMS = [
  Problem("likely", "1 2", "5", "", "train", 0),
  Problem("impossible", "3 4 6", "none", "", "train", 1),
  Problem("seldom", "7", "9", "", "train", 2),
]


def _collect(model, params, mesh, **changes):
  shape = dict(rows=2, lanes=4) | changes.pop("shape", {})
  sampler = Sampler(
    model,
    mesh,
    trunk_length=8,
    completion_length=6,
    steps_per_dispatch=2,
    temperature=changes.pop("temperature", 1.0),
    top_k=0,
    top_p=1.0,
    stop_tokens=(5,),
    **shape,
  )
  sampler.load(params)
  progress = []
  traces = collect(
    sampler,
    _Contains(),
    _Tokenizer(),
    _PROBLEMS,
    **dict(
      budget=60,
      traces_per_problem=1,
      policy="tiny@0",
      seed=4,
      on_progress=lambda *x: progress.append(x),
    )
    | changes,
  )
  return traces, progress, sampler.pop_usage()


def test_stops_at_the_first_correct_trace(model, params, one_device):
  traces, progress, usage = _collect(model, params, one_device)
  assert [t.problem_id for t in traces] == ["likely", "seldom"]
  for t in traces:
    assert t.tokens[-1] == 5
    assert t.policy == "tiny@0"
    assert t.text == " ".join(map(str, t.tokens))
  assert progress[-1][0] == 2
  # The impossible one costs its budget, the others far less.
  assert 60 < usage.completions < 2.5 * 60


def test_traces_keep_the_log_probabilities_they_were_sampled_with(
  model, params, one_device
):
  traces, _, _ = _collect(model, params, one_device, temperature=0.6)
  assert {t.problem_id for t in traces} == {"likely", "seldom"}
  prompts = {p.id: _Tokenizer().encode(p.prompt) for p in _PROBLEMS}
  for t in traces:
    assert t.logprobs.dtype == np.float32
    np.testing.assert_allclose(
      t.logprobs,
      teacher_forced(model, params, prompts[t.problem_id], t.tokens, 0.6),
      atol=1e-5,
    )


@pytest.mark.parametrize("shape", [dict(rows=5), dict(lanes=1), dict(rows=1)])
def test_traces_do_not_depend_on_the_schedule(model, params, one_device, shape):
  expected, _, _ = _collect(model, params, one_device)
  traces, _, _ = _collect(model, params, one_device, shape=shape)
  for a, b in zip(traces, expected, strict=True):
    assert a.attempt == b.attempt
    np.testing.assert_array_equal(a.tokens, b.tokens)


def test_k_traces_a_problem(model, params, one_device):
  traces, _, _ = _collect(model, params, one_device, traces_per_problem=3)
  attempts = [t.attempt for t in traces if t.problem_id == "likely"]
  assert len(attempts) == 3
  first, _, _ = _collect(model, params, one_device)
  assert min(attempts) == first[0].attempt


class _Everything:
  """A sampler that finishes all attempts of a block at once.

  Attempts 1, 2 and 5 of each problem hold a 5; it remembers what it is asked.
  """

  lanes = 2

  def __init__(self):
    self.asked, self.cancelled = [], []

  def cancel(self, block, above):
    self.cancelled.append((block, above))

  def run(self, blocks, *, purpose, seed):
    del purpose, seed
    for number, (request,) in enumerate(blocks):
      attempts = range(
        request.first_attempt, request.first_attempt + request.num_completions
      )
      self.asked += attempts
      yield [
        (
          number,
          a,
          Completion(
            np.array([5 if a in (1, 2, 5) else 6], np.int32),
            np.zeros(1, np.float32),
            False,
          ),
        )
        for a in attempts
      ]


def _collect_all(**settings):
  sampler = _Everything()
  traces = collect(
    sampler,
    _Contains(),
    _Tokenizer(),
    settings.pop("problems"),
    policy="p",
    seed=0,
    on_progress=lambda *_: None,
    **settings,
  )
  return sampler, [t.attempt for t in traces]


@pytest.mark.parametrize("budget", [1, 7, 8, 13])
def test_no_problem_has_more_attempts_than_its_budget(budget):
  sampler, attempts = _collect_all(
    problems=_PROBLEMS[1:2], budget=budget, traces_per_problem=1
  )
  assert sampler.asked == list(range(budget))
  assert attempts == []


def test_all_behind_the_last_trace_that_is_kept_are_cancelled():
  sampler, attempts = _collect_all(
    problems=_PROBLEMS[:1], budget=100, traces_per_problem=2
  )
  assert attempts == [1, 2]
  # Attempt 5 is right as well, and not wanted.
  assert sampler.cancelled == [(0, 2)]
