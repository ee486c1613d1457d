"""Schedules: which problems, with which prefixes, a step trains on.

To add one, write a class with these methods, give it a row of `SCHEDULES` and
its options one in settings/fields.py (docs/extending.md).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from prefixrl_jax.prefixes.adaptive import Adaptive
from prefixrl_jax.prefixes.mixture import Mixture
from prefixrl_jax.types import PrefixedProblem, Problem


class Schedule(Protocol):
  """The interface of a schedule to the training loop.

  A draw depends on the seed, the step and what was observed before, so that a
  resumed run draws what it would have drawn anyway.

  Attributes:
    num_prefixed, num_originals: maximum numbers of each in a step.
  """

  num_prefixed: int
  num_originals: int

  def longest_prefix(self) -> int:
    """Returns the tokens of the longest prefix that may be drawn."""

  def draw(self, step: int) -> list[PrefixedProblem]:
    """Returns the problems of a step, counted from 0."""

  def observe(
    self, drawn: Sequence[PrefixedProblem], rewards: np.ndarray
  ) -> None:
    """Receives the rewards of a step, float [problems, n]."""

  def state(self) -> dict:
    """Returns what a checkpoint keeps, as JSON values."""

  def restore(self, state: dict) -> None:
    """Resumes from what `state` returned."""


SCHEDULES: dict[str, Callable[..., Schedule]] = {
  "mixture": Mixture,
  "adaptive": Adaptive,
}


def make_schedule(
  name: str,
  problems: Sequence[Problem],
  prefixed: Sequence[PrefixedProblem],
  **settings: Any,
) -> Schedule:
  """Returns a schedule.

  Args:
    name: a key of SCHEDULES.
    problems: the originals.
    prefixed: all cuts of the problems' traces.
    **settings: those of `Mixture`, and the schedule's own options.
  """
  return SCHEDULES[name](problems, prefixed, **settings)
