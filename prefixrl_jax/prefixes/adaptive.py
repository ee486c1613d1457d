"""A schedule that seeks each trace's prefix of medium difficulty.

As in prefix sampling (arXiv 2605.05112) and AdaPrefix-GRPO (2607.07674), the
target is a success rate: a prefix that is solved too often is shortened, one
that is solved too rarely is lengthened, one cut at a time.
"""

import collections
from collections.abc import Sequence

import numpy as np

from prefixrl_jax.prefixes.mixture import Mixture
from prefixrl_jax.types import PrefixedProblem, Problem


class Adaptive:
  """The mixture's problems, each with the cut that its last groups call for."""

  def __init__(
    self,
    problems: Sequence[Problem],
    prefixed: Sequence[PrefixedProblem],
    *,
    low: float,
    high: float,
    **mixture,
  ):
    """Starts with the longest cut of every trace.

    Args:
      problems: the originals.
      prefixed: all cuts of all traces.
      low: share of correct completions below which the next cut is longer.
      high: share above which it is shorter.
      **mixture: see `Mixture`.
    """
    self._low, self._high = low, high
    self._cuts: dict[str, list[PrefixedProblem]] = collections.defaultdict(list)
    for p in sorted(prefixed, key=lambda p: len(p.prefix)):
      self._cuts[_trace(p)].append(p)
    self._level = {t: len(cuts) - 1 for t, cuts in self._cuts.items()}
    longest = [cuts[-1] for cuts in self._cuts.values()]
    self._mixture = Mixture(problems, longest, **mixture)
    self.num_prefixed = self._mixture.num_prefixed
    self.num_originals = self._mixture.num_originals
    self.longest_prefix = self._mixture.longest_prefix

  def draw(self, step: int) -> list[PrefixedProblem]:
    """Returns the step's problems, the prefixed ones first."""
    return [
      self._cuts[_trace(p)][self._level[_trace(p)]] if len(p.prefix) else p
      for p in self._mixture.draw(step)
    ]

  def observe(
    self, drawn: Sequence[PrefixedProblem], rewards: np.ndarray
  ) -> None:
    """Moves each trace's cut by one where it was too easy or too hard.

    Args:
      drawn: by the last `draw`.
      rewards: float [problems drawn, n].
    """
    for p, rate in zip(drawn, np.mean(np.asarray(rewards) == 1, axis=1)):
      if not len(p.prefix):
        continue
      trace = _trace(p)
      level = (
        self._level[trace] + int(rate < self._low) - int(rate > self._high)
      )
      self._level[trace] = min(max(level, 0), len(self._cuts[trace]) - 1)

  def state(self) -> dict:
    """Returns {"levels": {trace: which of its cuts, by length}}."""
    return {"levels": dict(self._level)}

  def restore(self, state: dict) -> None:
    """Resumes from what `state` returned."""
    self._level |= state["levels"]


def _trace(p: PrefixedProblem) -> str:
  return f"{p.problem_id} {p.trace_policy} {p.trace_attempt}"
