"""What shows in a completion how its author went about the problem."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from prefixrl_jax.embedded.tasks import TASKS
from prefixrl_jax.text.tokenizer import Tokenizer
from prefixrl_jax.types import Completion


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


def marks_of(
  marker: Marker, tokenizer: Tokenizer, groups: Sequence[Sequence[Completion]]
) -> np.ndarray:
  """Returns the marker's number for each completion, [prompts, n].

  Args:
    marker: from `marker_of`.
    tokenizer: of the policy.
    groups: n completions of each prompt.
  """
  texts = [tokenizer.decode([c.tokens.tolist() for c in g]) for g in groups]
  return np.array([[*map(marker.measure, of_group)] for of_group in texts])
