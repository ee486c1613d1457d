"""Answers in blocks, some of them worked out: what tasks with such share."""

import dataclasses
import re

import numpy as np


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


def share_worked(block: re.Pattern[str], text: str) -> float:
  """Returns the share of a text's blocks that are worked out.

  Args:
    block: matches one; of its three groups the second is the working, if any.
    text: of a completion.
  """
  found = block.findall(text)
  return sum(bool(work) for _, work, _ in found) / max(1, len(found))
