"""Rows in which trees of all shapes are packed one after another."""

import numpy as np
import pytest

from prefixrl_jax.models.attention import Places


def _row(length, trees):
  """trees: (trunk length, [(fork, lane length), ...]) each."""
  columns = []
  for number, (trunk, lanes) in enumerate(trees, 1):
    columns += [(number, 0, i, 0) for i in range(trunk)]
    for lane, (fork, n) in enumerate(lanes, 1):
      columns += [(number, lane, fork + i, fork) for i in range(n)]
  assert len(columns) <= length, (len(columns), length)
  columns += [(0, 0, 0, 0)] * (length - len(columns))
  return np.array(columns, np.int32).reshape(length, 4).T


def _random_row(rng, length):
  """Trees until the row is full, or nearly."""
  trees, room = [], length
  while room > rng.integers(0, 8):
    trunk = int(rng.integers(1, min(room, length // 2) + 1))
    room -= trunk
    lanes = []
    for _ in range(rng.integers(0, 5)):
      n = int(rng.integers(1, length // 4))
      if n <= room:
        lanes.append((int(rng.integers(1, trunk + 1)), n))
        room -= n
    trees.append((trunk, lanes))
  return _row(length, trees)


@pytest.fixture
def packed_rows():
  """Returns (rng, length, num_random) -> tree, branch, position, fork."""

  def make(rng, length, num_random):
    assert length >= 60, length
    rows = [
      _row(length, []),
      _row(length, [(length, [])]),
      _row(length, [(1, [(1, 1)]), (20, [(1, 7), (20, 1), (11, 9)])]),
      _row(length, [(30, [(17, length - 30)])]),  # exactly full
      _row(length, [(25, [(25, 3), (1, 12), (9, 1)]), (7, []), (2, [(2, 5)])]),
    ]
    rows += [_random_row(rng, length) for _ in range(num_random)]
    return Places(*np.stack(rows, axis=1))

  return make
