"""What the benchmark of updates says is the least that one can take."""

import numpy as np
import pytest

from benchmarks import measuring, ours
from prefixrl_jax.learner.packing import Lane, Tree


def test_a_pass_of_the_head_more_where_logits_are_computed_again(model):
  """By hand: a trunk of 3, two lanes of 2 behind all of it."""
  fields = np.zeros(2, np.int32), np.zeros(2, np.float32)
  lanes = [Lane(3, fields[0], fields[1], fields[1]) for _ in range(2)]
  trees = [Tree(np.zeros(3, np.int32), lanes, False)]
  roofline = measuring.Roofline(1.0, 1.0)  # so that seconds are FLOPs
  # The model's two layers: width 24, 6 heads on 2 of 8, an MLP of 40 gated.
  layer = 2 * 24 * (48 + 16 + 16 + 48 + 3 * 40)
  pairs = (1 + 2 + 3) + 2 * (4 + 5)
  attention = 2 * pairs * 6 * 8 * 2  # scores and values
  head = 4 * 2 * 24 * 17
  three = 3 * 2 * (7 * layer + attention) + 3 * head
  of = lambda length: ours.least_seconds(model, trees, roofline, length)
  assert of(ours.CHUNK_LENGTH) == pytest.approx(three)
  assert of(ours.CHUNK_LENGTH + 256) == pytest.approx(three + head)
