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
  ):
    """Takes the two pools.

    Args:
      problems: the originals.
      prefixed: with prefixes; may be empty if prefixed_share is 0.
      prompts_per_step: how many problems a step trains on.
      prefixed_share: of them; 0.75 is the paper's 3 : 1.
      cuts_together: prefixes of one trace follow each other, so that a step
        computes their trunk once; else all are shuffled.
      seed: of the order.
    """
    self.num_prefixed = round(prefixed_share * prompts_per_step)
    self.num_originals = prompts_per_step - self.num_prefixed
    originals = [
      PrefixedProblem(p.id, np.zeros(0, np.int32), 0.0, "", 0) for p in problems
    ]
    by_trace: dict[tuple, list[PrefixedProblem]] = {}
    for p in prefixed:
      trace = (p.problem_id, p.trace_policy, p.trace_attempt)
      by_trace.setdefault(trace, []).append(p)
    groups = by_trace.values() if cuts_together else [[p] for p in prefixed]
    self._pools = (
      (list(groups), self.num_prefixed),
      ([[p] for p in originals], self.num_originals),
    )
    self._seed = seed

  def draw(self, step: int) -> list[PrefixedProblem]:
    """Returns the step's problems, the prefixed ones first.

    Each pool is gone through epoch by epoch, in a new order every time.
    """
    drawn = []
    for kind, (groups, count) in enumerate(self._pools):
      size = sum(map(len, groups))
      for place in range(step * count, (step + 1) * count):
        epoch, i = divmod(place, size)
        drawn.append(self._epoch(kind, epoch)[i])
    return drawn

  def longest_prefix(self) -> int:
    """Returns the length of the longest prefix that draw can return."""
    return max(
      (
        len(p.prefix)
        for groups, count in self._pools
        if count
        for group in groups
        for p in group
      ),
      default=0,
    )

  def _epoch(self, kind: int, epoch: int) -> list[PrefixedProblem]:
    """Returns a pool in the order of one of its epochs."""
    groups, _ = self._pools[kind]
    rng = np.random.default_rng([self._seed, kind, epoch])
    return [p for g in rng.permutation(len(groups)) for p in groups[g]]
