"""Questions: how a drawn problem and its prefix are put to the policy."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from prefixrl_jax.prefixes.hints import hint_text, hinter
from prefixrl_jax.prefixes.schedules import Schedule
from prefixrl_jax.rounding import round_up
from prefixrl_jax.run.rollout import encode
from prefixrl_jax.run.session import Session
from prefixrl_jax.settings import arms
from prefixrl_jax.types import PrefixedProblem, Problem, TrainData

_NOTHING = np.zeros(0, np.int32)


class Question(NamedTuple):
  """What a group of completions answers.

  Attributes:
    problem: without a hint, as verifiers want it.
    prompt: int32 [prompt length], with the hint, if there is one.
    prefix: int32 [prefix length], of the answer; empty: none.
    fraction: of a trace that is given, as a prefix or a hint; 0: nothing.
  """

  problem: Problem
  prompt: np.ndarray
  prefix: np.ndarray
  fraction: float


class Questions:
  """Every question that an arm's schedule can draw, encoded once."""

  def __init__(
    self,
    session: Session,
    data: TrainData,
    arm: ml_collections.ConfigDict,
    prompts: Mapping[str, np.ndarray],
  ):
    """Encodes hinted prompts, if the arm gives prefixes as hints.

    Args:
      session: of the run.
      data: of the run.
      arm: a row of config.arms.
      prompts: {problem id: int32 [prompt length]}, of the originals.
    """
    self._problems = {p.id: p for p in (*data.train, *data.easy)}
    self._prompts = prompts
    self._hinted: dict[tuple, np.ndarray] = {}
    self._gives_hints = arms.uses_hints(arm)
    if self._gives_hints:
      write = hinter(session.config.problems)
      problems = [
        write(
          self._problems[p.problem_id], hint_text(session.tokenizer, p.prefix)
        )
        for p in data.prefixed
      ]
      keys = map(_key, data.prefixed)
      self._hinted = dict(zip(keys, encode(session, problems)))

  def longest_trunk(self, schedule: Schedule) -> int:
    """Returns the tokens of the longest prompt and prefix, in whole eights.

    Args:
      schedule: the arm's.
    """
    prompts: Iterable[np.ndarray] = self._prompts.values()
    longest = max(map(len, prompts))
    if self._gives_hints:
      longest = max(longest, *map(len, self._hinted.values()))
    else:
      longest += schedule.longest_prefix()
    return round_up(longest, 8)

  def of(self, drawn: Sequence[PrefixedProblem]) -> list[Question]:
    """Returns the question of each problem that a schedule has drawn."""
    return [self._question(p) for p in drawn]

  def _question(self, p: PrefixedProblem) -> Question:
    problem = self._problems[p.problem_id]
    if self._gives_hints and len(p.prefix):
      return Question(problem, self._hinted[_key(p)], _NOTHING, p.fraction)
    prompt = self._prompts[p.problem_id]
    return Question(problem, prompt, p.prefix, p.fraction)


def _key(p: PrefixedProblem) -> tuple:
  return p.problem_id, p.trace_policy, p.trace_attempt, len(p.prefix)
