"""Where a trace is cut: traces become prefixed problems."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from prefixrl_jax.types import PrefixedProblem, Trace

# 0.7 * 10 is a little more than 7, and 0.29 * 100 a little less than 29.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Cuts:
  """The prefixes, and what became of the cuts requested.

  Attributes:
    prefixed: the prefixes, trace by trace.
    cut_earlier: of them, how many contained the answer at their first place.
    left_out: cuts whose earlier places all contained it too, or were taken.
    too_short: cuts for which a short trace had no place left.
  """

  prefixed: list[PrefixedProblem]
  cut_earlier: int
  left_out: int
  too_short: int


def cut(
  traces: Sequence[Trace],
  problem_indices: dict[str, int],
  *,
  num_cuts: int,
  low: float,
  high: float,
  seed: int,
  hold_answer: Callable[[Sequence[str], Sequence[np.ndarray]], Sequence[bool]],
) -> Cuts:
  """Cuts each trace at distinct random places, once and offline.

  A cut keeps between 1 token and all but the last one, and a share of the trace
  within the bounds if there is such a place. A prefix that contains the answer
  would be rewarded whatever follows it; it is cut at an earlier place instead,
  or left out. The places are a function of (seed, problem, attempt), so adding
  traces changes no other cut.

  Args:
    traces: correct ones.
    problem_indices: problem id -> Problem.index.
    num_cuts: prefixes per trace (paper: 3); fewer if it has fewer places.
    low, high: bounds of the share of the trace's tokens that is kept, uniform
      between them (paper: 0.4 to 0.8; 0 to 1 draws over the whole trace).
    seed: seed for the draw.
    hold_answer: (problem ids, prefixes) -> whether each contains the answer.
  """
  missing = 0
  free: list[list[int]] = []  # per trace: places not tried yet, in order
  pending: list[tuple[int, int, int]] = []  # trace, cut, tokens kept
  for t, trace in enumerate(traces):
    rng = np.random.default_rng(
      [seed, problem_indices[trace.problem_id], trace.attempt]
    )
    order = rng.permutation(_places(len(trace.tokens), low, high)).tolist()
    missing += max(0, num_cuts - len(order))
    pending += [(t, n, kept) for n, kept in enumerate(order[:num_cuts])]
    free.append(order[num_cuts:])
  found: dict[tuple[int, int], int] = {}
  moved: set[tuple[int, int]] = set()
  left_out = 0
  while pending:
    held = hold_answer(
      [traces[t].problem_id for t, _, _ in pending],
      [traces[t].tokens[:kept] for t, _, kept in pending],
    )
    again = []
    for (t, n, kept), holds in zip(pending, held):
      if not holds:
        found[t, n] = kept
        continue
      moved.add((t, n))
      earlier = next((place for place in free[t] if place < kept), None)
      if earlier is None:
        left_out += 1
      else:
        free[t].remove(earlier)
        again.append((t, n, earlier))
    pending = again
  return Cuts(
    [_prefixed(traces[t], kept) for (t, _), kept in sorted(found.items())],
    cut_earlier=len(moved) - left_out,
    left_out=left_out,
    too_short=missing,
  )


def longest_cut(length: int, low: float, high: float) -> int:
  """Returns how many tokens a cut of a trace keeps at most.

  Args:
    length: of the trace, in tokens.
    low, high: see `cut`.
  """
  return max(_places(length, low, high), default=0)


def _places(length: int, low: float, high: float) -> range:
  """Returns the lengths a cut may keep; the nearest if none is in bounds."""
  if length < 2:
    return range(0)  # nothing to keep without giving everything away
  first = max(1, math.ceil(low * length - _ROUNDING))
  last = min(length - 1, revealed_length(length, high))
  if first > last:
    first = last = min(max(1, round((low + high) / 2 * length)), length - 1)
  return range(first, last + 1)


def _prefixed(trace: Trace, kept: int) -> PrefixedProblem:
  return PrefixedProblem(
    problem_id=trace.problem_id,
    prefix=trace.tokens[:kept],
    fraction=kept / len(trace.tokens),
    trace_policy=trace.policy,
    trace_attempt=trace.attempt,
  )


def revealed_length(length: int, fraction: float) -> int:
  """Returns how many whole tokens a fraction of a trace's length is."""
  return math.floor(fraction * length + _ROUNDING)


def reveal(trace: Trace, fraction: float) -> np.ndarray:
  """Returns the first `fraction` of a trace's tokens, for evaluation."""
  return trace.tokens[: revealed_length(len(trace.tokens), fraction)]
