"""Which requests share a row, and how rows without work get some."""

import numpy as np

from prefixrl_jax.rollouts.requests import (
  Request,
  bundle_by_trunk,
  fill_rows,
)


def _request(trunk, count=1, **fields):
  return Request(np.array(trunk, np.int32), count, 0, 0, **fields)


def test_what_begins_alike_shares_a_row_and_the_longest_come_first():
  requests = [
    _request([1, 2], max_tokens=5),
    _request([4]),
    _request([1, 2, 3]),
    _request([1, 3], max_tokens=9),
  ]
  places = [[i for i, _ in shared] for shared in bundle_by_trunk(requests)]
  assert places == [[3], [2, 0], [1]]


def test_the_largest_is_halved_until_every_row_has_work():
  request = _request([1], 9, first_attempt=10)
  small = _request([2], 1, first_attempt=3)
  spread_out = fill_rows([[(0, request)], [(1, small)]], rows=4, lanes=2)
  found = [
    [(i, r.first_attempt, r.num_completions) for i, r in shared]
    for shared in spread_out
  ]
  # 9 is 4 and 5, and 5 is 2 and 3.
  assert found == [[(0, 10, 4)], [(0, 14, 2)], [(0, 16, 3)], [(1, 3, 1)]]


def test_a_row_of_lanes_is_not_divided():
  shared = [(0, _request([1, 2], 2)), (1, _request([1], 1))]
  assert fill_rows([shared], rows=4, lanes=3) == [shared]
