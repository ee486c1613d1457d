"""What the next batch trains on: prefixed and original problems, mixed."""

from collections.abc import Sequence

import numpy as np

from prefixrl_jax.types import PrefixedProblem, Problem


class Mixture:
  """Draws each step's problems; a function of (seed, step) alone."""

  def __init__(
    self,
    problems: Sequence[Problem],
    prefixed: Sequence[PrefixedProblem],
    *,
    prompts_per_step: int,
    prefixed_share: float,
    cuts_together: bool,
    seed: int,
    easy: Sequence[Problem] = (),
    easy_share: float = 0.0,
  ):
    """Sets the two pools.

    Args:
      problems: the originals.
      prefixed: prefixed problems; may be empty if prefixed_share is 0.
      prompts_per_step: how many problems a step trains on.
      prefixed_share: share of them that is prefixed; 0.75 is the paper's 3:1.
      cuts_together: whether prefixes of one trace follow each other, so that a
        step computes their trunk once; otherwise all are shuffled.
      seed: seed for the order.
      easy: problems that are not hard; may be empty if easy_share is 0.
      easy_share: share of a step's problems that are easy.
    """
    num_easy = round(easy_share * prompts_per_step)
    self.num_prefixed = round(prefixed_share * prompts_per_step)
    self.num_originals = prompts_per_step - self.num_prefixed
    self._pools = (
      (list(prefixed), self.num_prefixed),
      (_without_prefix(problems), self.num_originals - num_easy),
      (_without_prefix(easy), num_easy),
    )
    self._cuts_together = cuts_together
    self._seed = seed

  def draw(self, step: int) -> list[PrefixedProblem]:
    """Returns the step's problems, the prefixed ones first.

    Each pool is used epoch by epoch, in a new order every time.
    """
    drawn: list[PrefixedProblem] = []
    for kind, (pool, count) in enumerate(self._pools):
      start, end = step * count, (step + 1) * count
      while start < end:
        epoch, i = divmod(start, len(pool))
        some = self._epoch(kind, epoch)[i : i + end - start]
        drawn += some
        start += len(some)
    return drawn

  def observe(
    self, drawn: Sequence[PrefixedProblem], rewards: np.ndarray
  ) -> None:
    """Ignores rewards: the draws do not depend on them."""

  def state(self) -> dict:
    """Returns what a checkpoint keeps: nothing."""
    return {}

  def restore(self, state: dict) -> None:
    """Restores nothing: there is no state."""

  def longest_prefix(self) -> int:
    """Returns the length of the longest prefix that draw can return."""
    return max(
      (len(p.prefix) for pool, count in self._pools if count for p in pool),
      default=0,
    )

  def _epoch(self, kind: int, epoch: int) -> list[PrefixedProblem]:
    """Returns a pool in the order of one of its epochs."""
    groups: dict[object, list[PrefixedProblem]] = {}
    for i, p in enumerate(self._pools[kind][0]):
      trace = (p.problem_id, p.trace_policy, p.trace_attempt)
      groups.setdefault(trace if self._cuts_together else i, []).append(p)
    rng = np.random.default_rng([self._seed, kind, epoch])
    in_order = list(groups.values())
    return [p for g in rng.permutation(len(in_order)) for p in in_order[g]]


def _without_prefix(problems: Sequence[Problem]) -> list[PrefixedProblem]:
  none = np.zeros(0, np.int32)
  return [PrefixedProblem(p.id, none, 0.0, "", 0) for p in problems]
