"""Verifiers by name, as the config's section has them made."""

import contextlib

import pytest

from prefixrl_jax.configs import code
from prefixrl_jax.rewards.verifiers import VERIFIERS, make_verifier
from prefixrl_jax.types import Problem, Verdict


def test_every_name_makes_one():
  config = code.get_config("trial=true").rewards
  config.sandbox = "unsafe_subprocess"
  for name in VERIFIERS:
    with contextlib.closing(make_verifier(name, config)) as verifier:
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
  with contextlib.closing(make_verifier("code", config)) as verifier:
    assert verifier.judge([problem], [program]) == [verdict]
