"""Problems of a task that draws them: numbered, each split's for itself."""

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
