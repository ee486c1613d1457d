"""Where a trace is cut: traces become prefixed problems."""

from collections.abc import Sequence

import numpy as np

from prefixrl_jax.types import PrefixedProblem, Trace


def cut(
  traces: Sequence[Trace],
  problem_indices: dict[str, int],
  *,
  num_cuts: int,
  low: float,
  high: float,
  seed: int,
) -> list[PrefixedProblem]:
  """Cuts each trace at fixed random places, once and offline.

  A cut keeps between 1 token and all but the last one. The places are a
  function of (seed, problem, attempt), so more traces change no earlier cut.

  Args:
    traces: correct ones.
    problem_indices: problem id -> Problem.index.
    num_cuts: prefixes a trace (paper: 3).
    low, high: bounds of the share of the trace's tokens that is kept, drawn
      uniformly (paper: 0.4 to 0.8; 0 to 1 is a draw over the whole trace).
    seed: of the draw.
  """
  prefixed = []
  for trace in traces:
    rng = np.random.default_rng(
      [seed, problem_indices[trace.problem_id], trace.attempt]
    )
    length = len(trace.tokens)
    if length < 2:
      continue  # nothing to keep without giving everything away
    for share in rng.uniform(low, high, num_cuts):
      kept = int(np.clip(np.floor(share * length), 1, length - 1))
      prefixed.append(
        PrefixedProblem(
          problem_id=trace.problem_id,
          prefix=trace.tokens[:kept],
          fraction=kept / length,
          trace_policy=trace.policy,
          trace_attempt=trace.attempt,
        )
      )
  return prefixed


def reveal(trace: Trace, fraction: float) -> np.ndarray:
  """Returns the first `fraction` of a trace's tokens, for evaluation."""
  return trace.tokens[: int(np.floor(fraction * len(trace.tokens)))]
