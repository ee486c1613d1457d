"""Cuts: where they may fall, that they stay there, and give nothing away."""

import numpy as np
import pytest

from prefixrl_jax.prefixes.cuts import cut, reveal, revealed_length
from prefixrl_jax.types import Trace


def _trace(name, length, attempt=0):
  return Trace(
    name, np.arange(length, dtype=np.int32), "", 1.0, "base", attempt, 0, 3
  )


def _cut(traces, *, held_from=None, **settings):
  """Cuts; prefixes of `held_from` tokens or more hold the answer."""
  held_from = 10**9 if held_from is None else held_from
  settings = dict(num_cuts=3, low=0.4, high=0.8, seed=7) | settings
  return cut(
    traces,
    {t.problem_id: i for i, t in enumerate(traces)},
    hold_answer=lambda _, prefixes: [len(p) >= held_from for p in prefixes],
    **settings,
  )


def _lengths(cuts):
  return [len(p.prefix) for p in cuts.prefixed]


@pytest.mark.parametrize(
  ("length", "low", "high", "places"),
  [
    (50, 0.4, 0.8, range(20, 41)),  # both ends
    (7, 0.4, 0.8, range(3, 6)),  # of 2.8 to 5.6
    (10, 0.7, 0.7, [7]),  # 0.7 * 10 is more than 7 in floats
    (100, 0.29, 0.29, [29]),  # and 0.29 * 100 less than 29
    (50, 0.0, 1.0, range(1, 50)),  # never nothing, never all
    (9, 0.4, 0.42, [4]),  # of 3.6 to 3.78 there is none; 4 is nearest
    (2, 0.4, 0.8, [1]),
    (2, 0.0, 0.1, [1]),
    (3, 1.0, 1.0, [2]),
    (1, 0.4, 0.8, []),
    (0, 0.4, 0.8, []),
  ],
)
def test_cuts_lie_at_every_place_of_their_band(length, low, high, places):
  cuts = _cut([_trace("a", length)], num_cuts=60, low=low, high=high)
  assert sorted(_lengths(cuts)) == list(places)
  assert cuts.too_short == 60 - len(places)
  assert (cuts.cut_earlier, cuts.left_out) == (0, 0)
  for p in cuts.prefixed:
    np.testing.assert_array_equal(p.prefix, np.arange(len(p.prefix)))
    assert p.fraction == len(p.prefix) / length


def test_no_place_is_preferred_and_none_taken_twice():
  traces = [_trace(f"t{i}", 11) for i in range(700)]  # places 5 to 8
  cuts = _cut(traces, num_cuts=2)
  by_trace = np.array(_lengths(cuts)).reshape(-1, 2)
  assert (by_trace[:, 0] != by_trace[:, 1]).all()
  counts = np.bincount(by_trace.ravel())
  assert set(np.flatnonzero(counts)) == {5, 6, 7, 8}
  assert counts[5:9] / 1400 == pytest.approx(np.full(4, 0.25), abs=0.05)
  assert cuts.too_short == 0


def test_more_traces_move_no_cut():
  settings = dict(num_cuts=3, low=0.4, high=0.8, seed=7)
  indices = {"a": 1, "b": 5}

  def lengths(*traces):
    nothing = lambda ids, _: [False] * len(ids)
    return _lengths(cut(traces, indices, hold_answer=nothing, **settings))

  some = lengths(_trace("b", 90))
  assert lengths(_trace("a", 80), _trace("b", 90))[3:] == some
  assert lengths(_trace("b", 90, attempt=1)) != some


def test_a_prefix_that_holds_the_answer_is_cut_earlier():
  traces = [_trace(f"t{i}", 100) for i in range(50)]
  free = _cut(traces)
  held = sum(n >= 60 for n in _lengths(free))
  assert 20 < held < 130  # 60 to 80 of 40 to 80
  cuts = _cut(traces, held_from=60)
  assert len(cuts.prefixed) == 150
  assert max(_lengths(cuts)) < 60
  assert min(_lengths(cuts)) >= 40
  assert (cuts.cut_earlier, cuts.left_out) == (held, 0)
  for i in range(0, 150, 3):
    assert len(set(_lengths(cuts)[i : i + 3])) == 3
  # What held nothing stays where it was.
  for before, after in zip(_lengths(free), _lengths(cuts)):
    assert before == after or before >= 60


def test_it_is_never_cut_later_instead():
  # An answer that is taken back further on: only where it was first cut does
  # the prefix hold it, and every later place would do.
  for seed in range(20):
    trace, tried = _trace("a", 50), []

    def hold_answer(_, prefixes, tried=tried):
      tried.extend(len(p) for p in prefixes)
      return [len(p) == tried[0] for p in prefixes]

    cuts = cut(
      [trace],
      {"a": 0},
      num_cuts=1,
      low=0.2,
      high=0.8,
      seed=seed,
      hold_answer=hold_answer,
    )
    assert all(length < tried[0] for length in _lengths(cuts))
    assert cuts.cut_earlier + cuts.left_out == 1


def test_what_cannot_be_cut_earlier_is_left_out_and_counted():
  traces = [_trace("a", 100), _trace("b", 5)]  # 40 to 80; 2, 3, 4
  cuts = _cut(traces, held_from=3)
  assert [(p.problem_id, len(p.prefix)) for p in cuts.prefixed] == [("b", 2)]
  assert cuts.left_out == 5
  assert cuts.cut_earlier == 0
  assert _cut(traces, held_from=1).prefixed == []


def test_reveal_is_a_share_of_the_tokens():
  assert len(reveal(_trace("a", 10), 0.35)) == 3
  assert len(reveal(_trace("a", 10), 0.0)) == 0
  assert len(reveal(_trace("a", 100), 0.29)) == 29
  assert revealed_length(10, 0.7) == 7
