"""Sums over each completion of packed rows."""

import numpy as np

from prefixrl_jax.learner import segments


def _loops(values, goes_on):
  """Sums to the end, and of the whole completion, token by token."""
  to_end, whole = values.copy(), values.copy()
  for row in range(len(values)):
    start = 0
    for t in range(values.shape[1]):
      if not goes_on[row, t]:
        for i in range(start, t + 1):
          to_end[row, i] = values[row, i : t + 1].sum()
          whole[row, i] = values[row, start : t + 1].sum()
        start = t + 1
  return to_end, whole


def test_sums_reach_to_the_end_of_a_completion_and_no_further(rng):
  values = rng.integers(0, 9, (3, 37)).astype(np.float32)
  goes_on = rng.random((3, 37)) < 0.7
  goes_on[:, -1] = False
  to_end, whole = _loops(values, goes_on)
  np.testing.assert_array_equal(segments.sum_to_end(values, goes_on), to_end)
  np.testing.assert_array_equal(
    segments.sum_of_completion(values, goes_on), whole
  )
