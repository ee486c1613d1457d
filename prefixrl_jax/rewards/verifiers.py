"""Which verifier a task has: a row each."""

import dataclasses
import inspect
import os
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from prefixrl_jax.text.thoughts import without_thoughts
from prefixrl_jax.types import Problem


def _says_something(text: str) -> bool:
  return bool(text.strip())


def _has_code(text: str) -> bool:
  return "```" in without_thoughts(text)


def _has_given(text: str) -> bool:
  from prefixrl_jax.rewards import answers

  return bool(answers.given(text))


def _has_math(text: str) -> bool:
  from prefixrl_jax.rewards.math import has_answer

  return has_answer(text)


@dataclasses.dataclass(frozen=True)
class VerifierSpec:
  """A verifier.

  Attributes:
    place: "module:class", imported when it is made: a run has one, and some are
      slow to import. What its constructor takes are fields of config.rewards.
    has_answer: whether a wrong text gives a final answer at all.
    form: how an answer is written, so that it can be tried on itself; empty:
      it is not tried.
  """

  place: str
  # What counts as an answer depends on the task.
  has_answer: Callable[[str], bool] = _says_something
  form: str = ""

  def make(self, config: ml_collections.ConfigDict) -> Any:
    """Returns the `Verifier`.

    Args:
      config: section `rewards`; num_workers = 0 is a process for each core that
        this process may run on.
    """
    verifier = pkgutil.resolve_name(self.place)
    settings = dict(config)
    settings["num_workers"] = config.num_workers or len(os.sched_getaffinity(0))
    taken = inspect.signature(verifier).parameters
    return verifier(**{k: v for k, v in settings.items() if k in taken})


VERIFIERS = {
  "math": VerifierSpec(
    "prefixrl_jax.rewards.math:MathVerifier", _has_math, "\\boxed{{{}}}"
  ),
  "code": VerifierSpec("prefixrl_jax.rewards.code:CodeVerifier", _has_code),
  "logic": VerifierSpec(
    "prefixrl_jax.rewards.logic:LogicVerifier", _has_given, "Answer: {}"
  ),
  "countdown": VerifierSpec(
    "prefixrl_jax.rewards.countdown:CountdownVerifier",
    _has_given,
    "\\boxed{{{}}}",
  ),
  "gym": VerifierSpec(
    "prefixrl_jax.rewards.gym:GymVerifier", form="<answer>{}</answer>"
  ),
  "function": VerifierSpec("prefixrl_jax.rewards.own:FunctionVerifier"),
  "checksum": VerifierSpec("prefixrl_jax.embedded.checksum:ChecksumVerifier"),
  "skills": VerifierSpec("prefixrl_jax.embedded.skills:SkillsVerifier"),
  "stories": VerifierSpec("prefixrl_jax.embedded.stories:StoriesVerifier"),
  "countdown_steps": VerifierSpec(
    "prefixrl_jax.embedded.countdown_steps:StepsVerifier"
  ),
}


def unreadable(
  name: str, config: ml_collections.ConfigDict, problems: Sequence[Problem]
) -> list[Problem]:
  """Returns the problems whose own answer their verifier rejects.

  Empty answers are skipped: there are many right ones, or tests judge.

  Args:
    name: one of VERIFIERS.
    config: section `rewards`.
    problems: any of the task's.
  """
  row = VERIFIERS[name]
  if not row.form:
    return []
  asked = [p for p in problems if p.answer]
  verifier = row.make(config)
  try:
    texts = [row.form.format(p.answer) for p in asked]
    verdicts = verifier.judge(asked, texts)
    bad = {i for i, verdict in enumerate(verdicts) if verdict.reward != 1}
    if name == "math":  # equality as text does not show that it can be read
      bad |= set(verifier.unparseable([p.answer for p in asked]))
  finally:
    verifier.close()
  return [asked[i] for i in sorted(bad)]
