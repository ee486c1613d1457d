"""What rows and lanes are given to do, step by step; nothing is compiled."""

import numpy as np
import pytest

from prefixrl_jax.rollouts.grid import Grid
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.types import UserError


def _request(trunk, completions, problem=0, **fields):
  return Request(np.array(trunk, np.int32), completions, 9, problem, **fields)


def _grid(rows=2, lanes=2):
  return Grid(rows, lanes, trunk_length=4, completion_length=6)


def _places(mask):
  return list(zip(*np.nonzero(mask)))


def _prefills(plan):
  return [(r, trunk.tolist()) for r, trunk in plan.prefills]


def _finish(grid, *places, length=3):
  """Has the lanes named finish, and all others go on."""
  active = np.ones((2, 2), bool)
  for place in places:
    active[place] = False
  return grid.settle(active, np.full((2, 2), length))


def test_lanes_are_refilled_by_their_row_and_rows_by_what_waits():
  grid = _grid()
  trunks = [1, 2, 3], [4], [5, 6]
  grid.begin([[_request(trunk, 3, i)] for i, trunk in enumerate(trunks)])
  plan = grid.plan()
  assert _prefills(plan) == [(0, trunks[0]), (1, trunks[1])]
  assert plan.lanes.all()
  assert plan.fork.tolist() == [[3, 3], [1, 1]]
  assert plan.limit.tolist() == [[6, 6], [6, 6]]
  # step, problem, attempt
  assert plan.key_ids[1].tolist() == [[9, 1, 0], [9, 1, 1]]
  assert grid.is_busy
  assert grid.has_more
  # One lane of each row finishes: each row owes one completion more.
  done, places = _finish(grid, (0, 1), (1, 0))
  assert done == [(0, 1, 3), (1, 0, 3)]
  assert places == [(0, 1), (1, 0)]
  plan = grid.plan()
  assert plan.prefills == []
  assert _places(plan.lanes) == [(0, 1), (1, 0)]
  assert plan.key_ids[1, 0].tolist() == [9, 1, 2]
  # The second row owes nothing, and takes the third trunk.
  done, _ = _finish(grid, (1, 0), (1, 1))
  assert done == [(1, 2, 3), (1, 1, 3)]
  plan = grid.plan()
  assert _prefills(plan) == [(1, trunks[2])]
  assert _places(plan.lanes) == [(1, 0), (1, 1)]
  _finish(grid, (0, 0), (0, 1), (1, 0), (1, 1))
  grid.plan()  # the third's last completion
  assert grid.is_busy
  assert not grid.has_more
  done, _ = _finish(grid, (1, 0))
  assert done == [(2, 2, 3)]
  assert not grid.plan().lanes.any()
  assert not grid.is_busy


def test_forks_of_a_trunk_share_its_row():
  grid = _grid(rows=1)
  grid.begin([[_request([1, 2, 3], 1, 0), _request([1, 2], 2, 1)]])
  plan = grid.plan()
  assert len(plan.prefills) == 1
  assert plan.fork.tolist() == [[3, 2]]
  assert plan.key_ids[0, :, 1].tolist() == [0, 1]


def test_a_trunk_in_its_row_s_cache_is_not_run_again():
  grid = _grid()
  grid.begin([[_request([1], 1)], [_request([2], 1)]])
  grid.plan()
  _finish(grid, (0, 0), (1, 0))
  # In another order; each finds the row that has its trunk.
  grid.begin([[_request([2], 1)], [_request([1], 1)]])
  plan = grid.plan()
  assert plan.prefills == []
  assert plan.key_ids[:, 0, 2].tolist() == [0, 0]
  grid.forget()
  grid.begin([[_request([2], 1)]])
  assert len(grid.plan().prefills) == 1


def test_what_is_cancelled_stops_and_is_told():
  grid = _grid(rows=1, lanes=3)
  grid.begin([[_request([1], 6)]])
  grid.plan()
  grid.settle(np.ones((1, 3), bool), np.array([[4, 5, 2]]))
  grid.cancel(0, above=0)
  grid.cancel(0, above=3)  # brings nothing back
  plan = grid.plan()
  # Attempt 0 goes on; 1 and 2 stop; 3 to 5 never start.
  assert plan.lanes.tolist() == [[False, True, True]]
  assert plan.limit.tolist() == [[0, 0, 0]]
  assert plan.dropped == [(0, 5), (0, 2)]
  assert grid.is_busy
  grid.cancel(0, above=-1)
  assert grid.plan().dropped == [(0, 4)]
  assert not grid.is_busy


def test_a_request_s_limit_and_first_attempt():
  grid = _grid(rows=1)
  grid.begin([[_request([1], 1, first_attempt=7, max_tokens=2)]])
  plan = grid.plan()
  assert plan.limit[0, 0] == 2
  assert plan.key_ids[0, 0].tolist() == [9, 0, 7]
  grid.begin([[_request([1], 1, max_tokens=99)]])
  assert grid.plan().limit[0, 0] == 6  # there is no room for more


@pytest.mark.parametrize("trunk", [[], [1] * 5])
def test_a_trunk_that_does_not_fit(trunk):
  grid = _grid()
  grid.begin([[_request(trunk, 1)]])
  with pytest.raises(UserError, match=f"a trunk of {len(trunk)} tokens"):
    grid.plan()
