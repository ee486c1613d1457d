"""The math verifier: extraction by rule, equivalence, hopeless inputs."""

import json
import pathlib
import time

import pytest

from prefixrl_jax.rewards.math import MathVerifier, extract_answer
from prefixrl_jax.types import Problem

_GSM8K = (
  pathlib.Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "test.jsonl"
)


@pytest.fixture(scope="module")
def verifier():
  verifier = MathVerifier(num_workers=2, timeout_seconds=5.0)
  yield verifier
  verifier.close()


def _judge(verifier, gold, text):
  problem = Problem("p", "?", gold, "", "train", 0)
  (verdict,) = verifier.judge([problem], [text])
  return verdict


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    (r"so \boxed{4}", "4"),
    (r"\boxed{3} no, \boxed{\frac{1}{2}} done", r"\frac{1}{2}"),
    (r"\boxed{\text{a}\{1\}}", r"\text{a}\{1\}"),
    (r"\boxed{4", None),
    ("The answer is 12.\nGoodbye 5", "12."),
    ("#### 1,234", "1,234"),
    ("Answer: $x+1$", "$x+1$"),
    ("first 3 and then 4.5 apples", "4.5"),
    ("none", None),
    ("", None),
  ],
)
def test_extracts_by_rule(text, answer):
  assert extract_answer(text) == answer


@pytest.mark.parametrize(
  ("gold", "text", "reward"),
  [
    ("18", r"\boxed{18}", 1),
    ("18", "The answer is $18.", 1),
    ("0.5", r"\boxed{\frac{1}{2}}", 1),
    (r"\frac{3}{4}", r"\boxed{0.75}", 1),
    ("1234", "#### 1,234", 1),
    ("x^2+2x+1", r"\boxed{(x+1)^2}", 1),
    ("18", r"\boxed{19}", 0),
    ("18", r"\boxed{}", 0),
    ("18", "I do not know", 0),
    ("18", r"\boxed{18} or rather \boxed{17}", 0),
  ],
)
def test_judges(verifier, gold, text, reward):
  assert _judge(verifier, gold, text).reward == reward


def test_hopeless_input_costs_its_own_limit_only():
  verifier = MathVerifier(num_workers=2, timeout_seconds=1.5)
  try:
    problem = Problem("p", "?", "7", "", "train", 0)
    _judge(verifier, "7", r"\boxed{8}")  # starts the workers
    started = time.monotonic()
    texts = [r"\boxed{9^{9^{9^{9}}}!}", r"\boxed{7.0}", r"\boxed{6}"] * 2
    verdicts = verifier.judge([problem] * len(texts), texts)
  finally:
    verifier.close()
  assert [v.reward for v in verdicts] == [0, 1, 0] * 2
  assert time.monotonic() - started < 30
  assert [v.timed_out for v in verdicts[1:3]] == [False, False]


@pytest.mark.skipif(not _GSM8K.exists(), reason=f"{_GSM8K} is absent")
def test_gsm8k_answers_accept_themselves_and_not_the_next(verifier):
  with _GSM8K.open() as f:
    golds = [json.loads(line)["answer"] for line, _ in zip(f, range(200))]
  problems = [
    Problem(str(i), "?", g, "", "train", i) for i, g in enumerate(golds)
  ]
  same = verifier.judge(problems, [rf"\boxed{{{g}}}" for g in golds])
  assert all(v.reward == 1 for v in same)
  following = golds[1:] + golds[:1]
  other = verifier.judge(problems, [rf"\boxed{{{g}}}" for g in following])
  assert [v.reward == 1 for v in other] == [
    float(a.replace(",", "")) == float(b.replace(",", ""))
    for a, b in zip(golds, following)
  ]
