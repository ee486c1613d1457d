"""What tasks that draw their problems share: numbering, and worked blocks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from prefixrl_jax.types import Problem


def draw_problems(
  source: str,
  draw: Callable[[np.random.Generator, int], dict[str, Any]],
  num_problems: int,
  *,
  seed: int,
  split: str,
  start: int,
) -> list[Problem]:
  """Returns problems with an id and an index each.

  Args:
    source: the task's name.
    draw: (rng, how many are drawn) -> prompt, answer and metadata.
    num_problems: how many.
    seed: seed for the draw, together with split.
    split: "train", "heldout" or "easy".
    start: index of the first; indices must be distinct within a run.
  """
  rng = np.random.default_rng([seed, ("train", "heldout", "easy").index(split)])
  return [
    Problem(
      id=f"{source}/{seed}/{split}/{start + i}",
      **draw(rng, i),
      source=source,
      split=split,
      index=start + i,
    )
    for i in range(num_problems)
  ]


@dataclasses.dataclass(frozen=True)
class BlockPhase:
  """A phase of pretraining on chains of blocks, and what it works out."""

  max_blocks: int
  lesson_share: float
  max_window: int  # blocks worked in a lesson, from 1
  worked_share: float  # of exam blocks
  noise: float  # chance that a running sum is wrong

  def draw_worked(
    self, rng: np.random.Generator, num_blocks: int
  ) -> tuple[bool, np.ndarray]:
    """Draws whether a document is a lesson, and which blocks it works out.

    Args:
      rng: for both.
      num_blocks: of the document.

    Returns:
      Whether it is one, and bool [num_blocks].
    """
    if rng.random() >= self.lesson_share:
      return False, rng.random(num_blocks) < self.worked_share
    width = int(rng.integers(1, min(self.max_window, num_blocks) + 1))
    first = int(rng.integers(0, num_blocks - width + 1))
    places = np.arange(num_blocks)
    return True, (first <= places) & (places < first + width)

  def draw_sum(self, rng: np.random.Generator, running: int) -> int:
    """Returns a running sum mod 3, or, by the phase's noise, any."""
    return int(rng.integers(0, 3)) if rng.random() < self.noise else running
