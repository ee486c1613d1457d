"""Cuts: where they may fall, and that they stay where they fell."""

import numpy as np
import pytest

from prefixrl_jax.prefixes.cut import cut, reveal
from prefixrl_jax.types import Trace


def _trace(name, length, attempt=0):
  return Trace(
    name, np.arange(length, dtype=np.int32), "", 1.0, "base", attempt, 0, 3
  )


@pytest.mark.parametrize("bounds", [(0.4, 0.8), (0.0, 1.0), (0.5, 0.5)])
def test_cuts_lie_in_their_band(bounds):
  traces = [_trace("a", 50), _trace("b", 2), _trace("c", 1)]
  cuts = cut(
    traces,
    {"a": 0, "b": 1, "c": 2},
    num_cuts=40,
    low=bounds[0],
    high=bounds[1],
    seed=0,
  )
  assert [p.problem_id for p in cuts] == ["a"] * 40 + ["b"] * 40
  lengths = [len(p.prefix) for p in cuts[:40]]
  assert min(lengths) >= max(1, int(bounds[0] * 50))
  assert max(lengths) <= min(49, bounds[1] * 50)
  if bounds != (0.5, 0.5):
    assert len(set(lengths)) > 10
  for p in cuts:
    np.testing.assert_array_equal(p.prefix, np.arange(len(p.prefix)))
  assert {len(p.prefix) for p in cuts[40:]} == {1}


def test_more_traces_move_no_cut():
  settings = dict(num_cuts=3, low=0.4, high=0.8, seed=7)
  some = cut([_trace("b", 90)], {"b": 5}, **settings)
  more = cut([_trace("a", 80), _trace("b", 90)], {"a": 1, "b": 5}, **settings)
  assert [len(p.prefix) for p in some] == [len(p.prefix) for p in more[3:]]
  other = cut([_trace("b", 90, attempt=1)], {"b": 5}, **settings)
  assert [len(p.prefix) for p in some] != [len(p.prefix) for p in other]


def test_reveal_is_a_share_of_the_tokens():
  assert len(reveal(_trace("a", 10), 0.35)) == 3
  assert len(reveal(_trace("a", 10), 0.0)) == 0
