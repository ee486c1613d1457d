"""Which verifier a task has."""

from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from prefixrl_jax.text.thoughts import without_thoughts
from prefixrl_jax.types import Problem

VERIFIERS = (
  "math",
  "code",
  "logic",
  "countdown",
  "gym",
  "checksum",
  "countdown_steps",
)


def make_verifier(name: str, config: ml_collections.ConfigDict) -> Any:
  """Returns a `Verifier`.

  Args:
    name: one of VERIFIERS.
    config: section `rewards`.
  """
  return {
    "math": _math,
    "code": _code,
    "logic": _logic,
    "countdown": _countdown,
    "gym": _gym,
    "checksum": _checksum,
    "countdown_steps": _countdown_steps,
  }[name](config)


def answer_finder(name: str) -> Callable[[str], bool]:
  """Returns what says whether a wrong text gives a final answer at all."""
  if name == "code":
    return lambda text: "```" in without_thoughts(text)
  # What is an answer is the task's to say.
  if name in ("checksum", "countdown_steps", "gym"):
    return lambda text: bool(text.strip())
  if name == "math":
    from prefixrl_jax.rewards.math import has_answer

    return has_answer
  from prefixrl_jax.rewards import answers

  return lambda text: bool(answers.given(text))


def unreadable(
  name: str, config: ml_collections.ConfigDict, problems: Sequence[Problem]
) -> list[Problem]:
  """Returns the problems whose own answer their verifier does not take.

  Answers that are empty are not looked at: there are many, or tests judge.

  Args:
    name, config: see `make_verifier`.
    problems: any of the task.
  """
  forms = {
    "math": "\\boxed{{{}}}",
    "logic": "Answer: {}",
    "countdown": "\\boxed{{{}}}",
    "gym": "<answer>{}</answer>",
  }
  if name not in forms:
    return []
  asked = [p for p in problems if p.answer]
  verifier = make_verifier(name, config)
  try:
    texts = [forms[name].format(p.answer) for p in asked]
    verdicts = verifier.judge(asked, texts)
    bad = {i for i, verdict in enumerate(verdicts) if verdict.reward != 1}
    if name == "math":  # equal as text is not yet read
      bad |= set(verifier.unparseable([p.answer for p in asked]))
  finally:
    verifier.close()
  return [asked[i] for i in sorted(bad)]


# Imported where they are used: a run has one, and some are slow to import.


def _math(config):
  from prefixrl_jax.rewards.math import MathVerifier

  return MathVerifier(
    num_workers=config.num_workers, timeout_seconds=config.timeout_seconds
  )


def _code(config):
  from prefixrl_jax.rewards.code import CodeVerifier

  return CodeVerifier(
    num_workers=config.num_workers,
    timeout_seconds=config.timeout_seconds,
    total_seconds=config.total_seconds,
    memory_mb=config.memory_mb,
    sandbox=config.sandbox,
    partial=config.partial,
  )


def _logic(config):
  from prefixrl_jax.rewards.logic import LogicVerifier

  return LogicVerifier()


def _countdown(config):
  from prefixrl_jax.rewards.countdown import CountdownVerifier

  return CountdownVerifier()


def _gym(config):
  from prefixrl_jax.rewards.gym import GymVerifier

  return GymVerifier(
    num_workers=config.num_workers, timeout_seconds=config.timeout_seconds
  )


def _checksum(config):
  from prefixrl_jax.embedded.checksum import ChecksumVerifier

  return ChecksumVerifier()


def _countdown_steps(config):
  from prefixrl_jax.embedded.countdown_steps import StepsVerifier

  return StepsVerifier()
