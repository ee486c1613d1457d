"""The block map against the dense mask, and the visits against the map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefixrl_jax.models import attention, block_map


def _by_force(places, block_q, block_kv, window):
  """bool [B, nq, block_q, nk, block_kv]: the dense mask, cut into blocks."""
  mask = np.asarray(attention.visible(*places, window=window))
  rows, length, _ = mask.shape
  pad = [(0, 0), (0, -length % block_q), (0, -length % block_kv)]
  mask = np.pad(mask, pad)
  num_q, num_kv = mask.shape[1] // block_q, mask.shape[2] // block_kv
  return mask.reshape(rows, num_q, block_q, num_kv, block_kv)


@pytest.mark.parametrize("window", [None, 1, 9])
@pytest.mark.parametrize(
  ("block_q", "block_kv"), [(16, 16), (8, 32), (25, 10), (128, 128)]
)
def test_map_is_the_dense_mask_reduced(
  rng, packed_rows, block_q, block_kv, window
):
  places = packed_rows(rng, 100, 6)
  expected = _by_force(places, block_q, block_kv, window)
  sizes = dict(block_q=block_q, block_kv=block_kv, window=window)
  blocks = jax.jit(functools.partial(block_map.block_map, **sizes))(*places)
  np.testing.assert_array_equal(blocks.active, expected.any((2, 4)))
  np.testing.assert_array_equal(blocks.full, expected.all((2, 4)))


@pytest.mark.parametrize("outer", ["query", "key"])
def test_visits_walk_the_map(rng, packed_rows, outer):
  """Outer blocks in order, each whole, under a mask that is the block's."""
  places = packed_rows(rng, 100, 6)
  schedule = block_map.make_block_schedule(*places, block_q=16, block_kv=8)
  blocks = block_map.block_map(*places, block_q=16, block_kv=8)
  visits = schedule.by_query if outer == "query" else schedule.by_key
  if outer == "key":
    blocks = [x.swapaxes(1, 2) for x in blocks]
  active, full = map(np.asarray, blocks)
  assert visits.code.shape == (active.shape[0], active[0].size)
  for row, (codes, count) in enumerate(zip(*map(np.asarray, _parts(visits)))):
    walked, written, mask, place = [], [], None, (0, 0)
    for code in codes[:count]:
      last_place = place
      place = block_map.outer_of(code), block_map.inner_of(code)
      if code & block_map.FIRST:
        assert len(written) == place[0]
        started = place[0]
      if code & block_map.NEW_MASK:
        mask = "full" if full[(row, *place)] else place
      if code & block_map.ACTIVE:
        assert mask == ("full" if full[(row, *place)] else place)
        walked.append(place)
      else:
        assert place[1] == last_place[1]  # nothing is copied
      assert started == place[0]
      if code & block_map.LAST:
        written.append(place[0])
    assert walked == list(map(tuple, np.argwhere(active[row])))
    assert written == list(range(active.shape[1]))
    idle = codes[count:]
    assert not (idle & (2**block_map._FLAG_BITS - 1)).any()
    assert (block_map.outer_of(idle) == place[0]).all()
    assert (block_map.inner_of(idle) == place[1]).all()


def _parts(visits):
  return visits.code, visits.count


def test_a_mask_of_full_blocks_is_made_once():
  """A long trunk and a lane that sees all of it."""
  n = 64
  places = attention.Places(
    tree=np.ones((1, 2 * n), np.int32),
    branch=np.repeat([[0, 1]], n, axis=1).astype(np.int32),
    position=np.arange(2 * n, dtype=np.int32)[None],
    fork=np.repeat([[0, n]], n, axis=1).astype(np.int32),
  )
  schedule = block_map.make_block_schedule(*places, block_q=16, block_kv=16)
  code = schedule.by_query.code[0, : int(schedule.by_query.count[0])]
  assert len(code) == 36
  # Each of 8 diagonal blocks, and the first full one after it.
  assert int(jnp.sum(code & block_map.NEW_MASK != 0)) == 8 + 7


def test_skipped_by_hand():
  """A trunk of 2 blocks, a lane of 1 forked in the first, padding of 1."""
  active = np.zeros((1, 4, 4), bool)
  active[0, [0, 1, 1, 2, 2], [0, 0, 1, 0, 2]] = True
  places = attention.Places(
    tree=[1] * 12 + [0] * 4,
    branch=[0] * 8 + [1] * 4 + [0] * 4,
    position=[*range(8), *range(3, 7), *[0] * 4],
    fork=[0] * 8 + [3] * 4 + [0] * 4,
  )
  places = [np.array([x], np.int32) for x in places]
  blocks = block_map.block_map(*places, block_q=4, block_kv=4)
  np.testing.assert_array_equal(blocks.active, active)
  skipped = block_map.skipped(blocks.active, block_q=4, block_kv=4)
  np.testing.assert_allclose(skipped.of_all, 1 - 5 / 16, rtol=1e-6)
  np.testing.assert_allclose(skipped.of_causal, 1 - 5 / 10, rtol=1e-6)


def test_a_long_row_never_holds_its_square():
  length = 36_864
  shape = jax.ShapeDtypeStruct((1, length), jnp.int32)
  make = functools.partial(
    block_map.make_block_schedule, block_q=512, block_kv=512
  )
  memory = jax.jit(make).lower(*[shape] * 4).compile().memory_analysis()
  assert memory.temp_size_in_bytes < length**2 // 8


def test_true_first_is_a_stable_sort(rng):
  mask = rng.random((5, 33)) < [[0.0], [0.1], [0.5], [0.9], [1.0]]
  order, place = block_map.true_first(jnp.asarray(mask))
  np.testing.assert_array_equal(order, np.argsort(~mask, axis=1, kind="stable"))
  np.testing.assert_array_equal(place, np.argsort(order, axis=1))
