"""Scores of packed trees are those of separate sequences, each in its place."""

import numpy as np
import pytest
import scoring

from prefixrl_jax.learner.packing import layout_for
from prefixrl_jax.learner.scoring import Scorer

_TEMPERATURE = 0.7


def _scorer(model, mesh):
  layout = layout_for(
    longest_trunk=12,
    longest_completion=9,
    num_lanes=3,
    num_trees=(0, 4),
    row_length=64,
    rows_per_microbatch=2,
  )
  return Scorer(model, mesh, layout, temperature=_TEMPERATURE, chunk_length=16)


@pytest.mark.parametrize("devices", ["one_device", "eight_devices"])
def test_each_completion_has_its_own_log_probabilities(
  request, model, params, devices, rng
):
  """Trunks that begin one another are joined, longer trees come first."""
  mesh = request.getfixturevalue(devices)
  trunk = rng.integers(0, 17, 12).astype(np.int32)
  trunks = [trunk[:4], trunk, trunk[:7], rng.integers(0, 17, 5, np.int32)]
  draw = lambda n: rng.integers(0, 17, n).astype(np.int32)
  # Of 13 tokens each, so that what they are compared with compiles once.
  groups = [[draw(9)], [draw(1), draw(1), draw(1)], [draw(6)], [draw(8)]]
  scorer = _scorer(model, mesh)
  scored = scorer.logprobs(params, trunks, groups)
  assert [len(group) for group in scored] == [1, 3, 1, 1]
  for trunk, group, of_group in zip(trunks, groups, scored):
    for completion, logprobs in zip(group, of_group):
      assert logprobs.dtype == np.float32
      np.testing.assert_allclose(
        logprobs,
        scoring.teacher_forced(model, params, trunk, completion, _TEMPERATURE),
        atol=2e-5,
      )


def test_nothing_has_no_scores(model, params, one_device):
  scorer = _scorer(model, one_device)
  assert scorer.logprobs(params, [], []) == []
