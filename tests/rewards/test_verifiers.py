"""Verifiers by name, as the config's section has them made."""

import contextlib
import os

import pytest

from prefixrl_jax.configs import code
from prefixrl_jax.rewards.verifiers import VERIFIERS
from prefixrl_jax.types import Problem, Verdict


def test_every_name_makes_one(tmp_path):
  config = code.get_config("trial=true").rewards
  config.sandbox = "unsafe_subprocess"
  own = tmp_path / "own.py"
  own.write_text("def reward(problems, texts):\n  return [0] * len(texts)\n")
  config.function = f"{own}:reward"
  for name in VERIFIERS:
    with contextlib.closing(VERIFIERS[name].make(config)) as verifier:
      assert verifier.judge([], []) == []


@pytest.mark.parametrize(
  ("partial", "total_seconds", "verdict"),
  [
    (False, 60.0, Verdict(0.0)),
    (True, 60.0, Verdict(0.5)),
    (False, 1.0, Verdict(0.0, timed_out=True)),
  ],
)
def test_programs_are_judged_as_the_config_says(
  partial, total_seconds, verdict
):
  config = code.get_config("trial=true").rewards
  config.update(
    sandbox="unsafe_subprocess", partial=partial, total_seconds=total_seconds
  )
  metadata = {
    "format": "stdin",
    "tests": [{"input": x, "output": "1"} for x in ("0.01", "9")],
    "entry_point": "",
    "prompt_code": "",
    "whole_completion": True,
    "tolerance": None,
  }
  problem = Problem("p", "?", "", "", "train", 0, metadata)
  program = "x = input()\nprint(1 if x < '1' else 2)"
  if total_seconds == 1.0:
    program = f"import time; time.sleep(2)\n{program}"
  with contextlib.closing(VERIFIERS["code"].make(config)) as verifier:
    assert verifier.judge([problem], [program]) == [verdict]


def test_no_number_of_workers_means_one_a_core(monkeypatch):
  config = code.get_config().rewards
  assert config.num_workers == 0
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3})
  asked = []

  class Verifier:
    def __init__(self, *, num_workers: int, timeout_seconds: float):
      asked.append((num_workers, timeout_seconds))

  monkeypatch.setattr("prefixrl_jax.rewards.math.MathVerifier", Verifier)
  VERIFIERS["math"].make(config)
  config.num_workers = 7
  VERIFIERS["math"].make(config)
  assert asked == [(3, 5.0), (7, 5.0)]


@pytest.mark.parametrize(
  ("name", "without", "with_one"),
  [
    ("math", "I do not know.", "so \\boxed{2}"),
    ("code", "It cannot be done.", "```python\npass\n```"),
    ("logic", "Who knows?", "Answer: True"),
    ("countdown", "Who knows?", "\\boxed{1+2}"),
    ("gym", " ", "7"),
    ("checksum", "", "a"),
    ("countdown_steps", "", "a"),
  ],
)
def test_what_gives_an_answer_at_all(name, without, with_one):
  assert not VERIFIERS[name].has_answer(without)
  assert VERIFIERS[name].has_answer(with_one)
