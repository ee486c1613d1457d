"""Chains of twelve kinds: each with its own symbols, rule and rate."""

import collections
import re

import numpy as np
import pytest

from prefixrl_jax.embedded import checksum, skills
from prefixrl_jax.types import Problem


def test_each_kind_has_its_rule_and_its_symbols():
  problems = skills.make_problems(24, 2, seed=0, split="heldout", start=3)
  rules = set()
  for problem, kind in zip(problems, "ABCDEFGHIJKL" * 2, strict=True):
    blocks = problem.prompt.removesuffix(f"{kind}?").split()
    assert problem.metadata["kind"] == kind
    rule = skills.RULES[kind]
    rules.add(rule)
    for block, answer in zip(blocks, problem.answer.split(), strict=True):
      letters, (label, x, y) = block[::2], block[1::2]
      assert letters == 3 * kind
      first, second = rule.weights
      total = rule.start + first * int(x) + second * int(y)
      assert answer == f"{label}={total % 3}"
  assert len(rules) == 12
  assert [p.index for p in problems] == list(range(3, 27))


def test_a_trace_by_rule_works_every_block_of_each_kind():
  problems = skills.make_problems(12, 7, seed=0, split="train", start=0)
  texts = [text for p in problems for text in skills.write_traces(p)]
  assert [v.reward for v in skills.SkillsVerifier().judge(problems, texts)] == (
    [1.0] * 12
  )
  assert {skills.worked_share(text) for text in texts} == {1.0}


def _judged(text, prompt="CaC4C3 CbC1C5C?"):
  problem = Problem("p", prompt, "a=0 b=2", "skills", "train", 0)
  [verdict] = skills.SkillsVerifier().judge([problem], [text])
  return verdict.reward


@pytest.mark.parametrize(
  ("text", "reward"),
  [
    ("CaC=0CbC=2;", 1),
    ("CaC4C:0C3C=0CbC=2;", 1),
    ("CaC=0CbC=1;", 0),
    ("CaC=0CbC=2", 0),
    ("DaD=0DbD=2;", 0),  # of another kind
    ("CaC=0CbD=2;", 0),
    ("CaC4D:0C3C=0CbC=2;", 0),
    ("a=0b=2;", 0),
    ("CCaC=0CbC=2;", 0),
    (";", 0),
  ],
)
def test_only_symbols_of_the_problem_s_kind_count(text, reward):
  assert _judged(text) == reward


def test_documents_work_out_each_kind_at_its_own_rate():
  phase = skills.Phase(
    max_blocks=7,
    lesson_share=0.3,
    max_window=4,
    worked_share=0.4,
    rarest_share=0.1,
    noise=0.0,
  )
  rng = np.random.default_rng(0)
  shares = collections.defaultdict(list)
  for _ in range(6000):
    prompt, completion = skills.make_document(rng, phase)
    kind = prompt[0]
    plain = skills._without_kind(completion, kind)
    assert not re.search("[A-L]", plain)
    if prompt.endswith("?"):
      shares[kind].append(skills.worked_share(completion))
    for label, x, y, answer in re.findall(r"([a-j])(\d):\d(\d)=(\d)", plain):
      rule = skills.RULES[kind]
      total = rule.start + np.dot(rule.weights, (int(x), int(y)))
      assert int(answer) == total % 3, (prompt, completion, label)
  assert sorted(shares) == sorted("ABCDEFGHIJKL")
  assert np.mean(shares["A"]) == pytest.approx(0.4, abs=0.06)
  assert np.mean(shares["L"]) == pytest.approx(0.1, abs=0.04)


def test_a_hint_is_before_the_end_and_symbols_differ():
  assert skills.hinted("CaC4C3C?", "CaC4") == "CaC4C3CaC4C?"
  assert len(set(skills.SYMBOLS)) == 2 + 12 * (len(checksum.SYMBOLS) - 2)
