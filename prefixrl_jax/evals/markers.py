"""What shows in a completion how its author went about the problem."""

import re
from collections.abc import Callable
from typing import NamedTuple

import ml_collections

from prefixrl_jax.embedded.tasks import TASKS


class Marker(NamedTuple):
  """A number from 0 to 1 for each completion.

  Attributes:
    label: what its mean is, on an axis.
    measure: the text of a completion, without its prefix -> the number.
  """

  label: str
  measure: Callable[[str], float]


def marker_of(config: ml_collections.ConfigDict) -> Marker | None:
  """Returns config.evals.marker, else the task's own; None: there is neither.

  Args:
    config: the whole of it, validated.
  """
  if config.evals.marker:
    found = re.compile(config.evals.marker).search
    return Marker(
      f"share of completions with {config.evals.marker}",
      lambda text: float(found(text) is not None),
    )
  own = getattr(TASKS.get(config.problems.task), "MARKER", None)
  return Marker(*own) if own else None
