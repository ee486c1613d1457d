"""The attention rule of trunks and lanes: a reference, and the fast paths.

A key is seen by a query of the same tree if it comes no later and is either
on the query's own branch, or on the trunk before the query's fork.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from prefixrl_jax.batches import KVCache
from prefixrl_jax.distributed import backends
from prefixrl_jax.rounding import ceil_div

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Bool, Float, Int

NEG_INF = -1e30


class Places(NamedTuple):
  """Where tokens stand in their trees; TrainBatch has the same fields.

  All are int32 [B, T], as in `visible`.
  """

  tree: Int[Array, "B T"]
  branch: Int[Array, "B T"]
  position: Int[Array, "B T"]
  fork: Int[Array, "B T"]


def places_of(rows) -> Places:
  """Returns the places of tokens.

  Args:
    rows: TrainBatch or Places, fields [..., T].
  """
  return Places(*(getattr(rows, name) for name in Places._fields))


def trunk_places(num_rows: int, length: int) -> Places:
  """Returns the places of rows that hold one trunk each, int32 [B, T]."""
  zeros = jnp.zeros((num_rows, length), jnp.int32)
  return Places(zeros + 1, zeros, zeros + jnp.arange(length), zeros)


def visible(
  tree: Int[Array, "*B T"],
  branch: Int[Array, "*B T"],
  position: Int[Array, "*B T"],
  fork: Int[Array, "*B T"],
  window: int | None = None,
) -> Bool[Array, "*B T T"]:
  """Returns which key (last axis) each query sees.

  Args:
    tree: 0 on padding.
    branch: 0 on the trunk.
    position: place in the token's sequence.
    fork: trunk tokens that the token's lane sees.
    window: if given, how many positions back a query sees, its own included.
  """
  places = (tree, branch, position, fork)
  return sees(
    [x[..., :, None] for x in places],
    [x[..., None, :] for x in places],
    window,
  )


def sees(query, key, window: int | None = None) -> Bool[Array, "*pairs"]:
  """The rule for pairs: every fast path that masks asks here.

  Args:
    query, key: (tree, branch, position, fork), whose shapes broadcast to pairs.
    window: as in `visible`.

  Returns:
    bool, of the pairs' shape.
  """
  tree, branch, position, fork = query
  key_tree, key_branch, key_position, _ = key
  same_tree = (tree == key_tree) & (tree > 0)
  earlier = key_position <= position
  if window is not None:
    earlier &= position - key_position < window
  same_branch = branch == key_branch
  below_fork = (key_branch == 0) & (key_position < fork)
  return same_tree & earlier & (same_branch | below_fork)


def dense_attention(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K H"],
  mask: Bool[Array, "B T T"],
  soft_cap: float | None = None,
) -> Float[Array, "B T N H"]:
  """The reference: every pair of tokens, masked.

  Args:
    q, k, v: queries, keys and values.
    mask: what each query sees.
    soft_cap: if given, scores become soft_cap * tanh(score / soft_cap).

  Returns:
    The output, in q's dtype; 0 where a query sees nothing.
  """
  q = _group(q, k.shape[2])
  scores = _scale(q, jnp.einsum("btkmh,bskh->bkmts", q, k, **_F32))
  scores = _capped(scores, soft_cap)
  weights = _softmax(jnp.where(mask[:, None, None], scores, NEG_INF))
  out = jnp.einsum("bkmts,bskh->btkmh", weights.astype(v.dtype), v)
  return _ungroup(jnp.where(mask.any(-1)[..., None, None, None], out, 0))


def key_blocks(length: int) -> tuple[int, int]:
  """Returns how many blocks a cache of this length has, and their size."""
  backend = backends.current_backend()
  is_whole = length <= backend.whole_cache
  count = 1 if is_whole else ceil_div(length, backend.key_block)
  return count, ceil_div(length, count)


class Reach(NamedTuple):
  """How many blocks of its caches a decode step reads."""

  trunk: Int[Array, ""]
  lane: Int[Array, ""]


def decode_reach(
  cache: KVCache,
  *,
  fork: Int[Array, "R G"],
  length: Int[Array, "R G"],
  active: Bool[Array, "R G"],
) -> Reach:
  """Returns what the active lanes have to see, the furthest of them.

  Args:
    cache: of any layer.
    fork, length: as in `decode_attention`.
    active: which lanes count.
  """
  furthest = lambda seen: jnp.max(jnp.where(active, seen, 1))
  return Reach(
    trunk=ceil_div(furthest(fork - 1), cache.trunk_key.shape[-1]),
    lane=ceil_div(furthest(length + 1), cache.lane_key.shape[-1]),
  )


def num_keys(cache: KVCache, reach: Reach) -> Int[Array, ""]:
  """Returns how many keys each lane's query meets."""
  block_sizes = cache.trunk_key.shape[-1], cache.lane_key.shape[-1]
  return reach.trunk * block_sizes[0] + reach.lane * block_sizes[1]


def write_trunks(
  cache: KVCache,
  row_ids: Int[Array, "r"],
  k: Float[Array, "r P K H"],
  v: Float[Array, "r P K H"],
) -> KVCache:
  """Returns the cache with trunks' keys and values in its rows.

  Args:
    cache: of one layer.
    row_ids: the rows; a number beyond the last is ignored.
    k, v: keys and values.
  """

  def blocks(x):
    """[r, P, K, H] -> [r, K, blocks, size, H]."""
    count, size = key_blocks(x.shape[1])
    padding = ((0, 0), (0, count * size - x.shape[1]), (0, 0), (0, 0))
    x = jnp.pad(x, padding).swapaxes(1, 2)
    return x.reshape(*x.shape[:2], count, size, -1)

  return dataclasses.replace(
    cache,
    trunk_key=cache.trunk_key.at[row_ids].set(blocks(k).swapaxes(-1, -2)),
    trunk_value=cache.trunk_value.at[row_ids].set(blocks(v)),
  )


def write_lanes(
  cache: KVCache,
  slot: Int[Array, "R G"],
  k: Float[Array, "R G K H"],
  v: Float[Array, "R G K H"],
) -> KVCache:
  """Returns the cache with one more key and value in every lane.

  Args:
    cache: of one layer.
    slot: where to write; a slot beyond the last is ignored.
    k, v: one key and value per lane.
  """
  size = cache.lane_key.shape[-1]

  def of_lanes(write):
    """A lane's own write, so that no device asks another for it."""
    of_head = jax.vmap(write)
    return jax.vmap(jax.vmap(of_head, in_axes=(0, 0, None, None)))

  write_key = of_lanes(lambda old, new, b, i: old.at[b, :, i].set(new))
  write_value = of_lanes(lambda old, new, b, i: old.at[b, i].set(new))
  place = slot // size, slot % size
  return dataclasses.replace(
    cache,
    lane_key=write_key(cache.lane_key, k.swapaxes(1, 2), *place),
    lane_value=write_value(cache.lane_value, v.swapaxes(1, 2), *place),
  )


def decode_attention(
  q: Float[Array, "R G N H"],
  cache: KVCache,
  reach: Reach,
  *,
  fork: Int[Array, "R G"],
  length: Int[Array, "R G"],
  window: int | None = None,
  soft_cap: float | None = None,
) -> Float[Array, "R G N H"]:
  """One new token a lane, whose key is already in the cache.

  The trunk's keys are read once for all lanes of a row, and of no cache more
  than some lane has reached.

  Args:
    q: one query per lane.
    cache: of this layer.
    reach: from `decode_reach`.
    fork: the lane sees trunk tokens before fork - 1, and the one
      at fork - 1 in slot 0 of its own.
    length: the slot of the new token.
    window: as in `visible`.
    soft_cap: as in `dense_attention`.
  """
  q = _group(q, cache.trunk_key.shape[1]).swapaxes(1, 2)
  *lead, head_dim = q.shape

  def times_trunk(x, trunk):
    """Stacks what belongs to all lanes of a row, [R, K, G M, .]."""
    x = x.reshape(*lead[:2], -1, x.shape[-1])
    x = jnp.matmul(x, trunk, **_F32)
    return x.reshape(*lead, x.shape[-1])

  times_lane = functools.partial(jnp.matmul, **_F32)
  softmax = (  # max score, sum of exponentials and of values so far
    jnp.full((*lead, 1), NEG_INF, jnp.float32),
    jnp.zeros((*lead, 1), jnp.float32),
    jnp.zeros((*lead, head_dim), jnp.float32),
  )
  add_keys = functools.partial(_add_keys, soft_cap=soft_cap)
  # Of the trunk's tokens and of the lane's slots, the first within reach.
  first_token = first_slot = None
  if window is not None:
    first_token, first_slot = fork + length - window, length + 1 - window
  softmax = add_keys(
    softmax,
    q,
    cache.trunk_key,
    cache.trunk_value,
    times=times_trunk,
    first_seen=first_token,
    num_seen=fork - 1,
    num_blocks=reach.trunk,
  )
  _, exp_sum, out = add_keys(
    softmax,
    q,
    cache.lane_key,
    cache.lane_value,
    times=times_lane,
    first_seen=first_slot,
    num_seen=length + 1,
    num_blocks=reach.lane,
  )
  return _ungroup((out / exp_sum).astype(q.dtype).swapaxes(1, 2))


def _add_keys(
  softmax, q, key, value, *, times, first_seen, num_seen, num_blocks, soft_cap
):
  """Adds a cache's keys to a softmax under way.

  Args:
    softmax: float32 [R, K, G, M, 1] twice, [R, K, G, M, H].
    q: [R, K, G, M, H].
    key, value: [..., blocks, H, size], [..., blocks, size, H].
    times: multiplies [R, K, G, M, .] with a block of a cache.
    first_seen: int [R, G], keys before it are out of a lane's window; or None.
    num_seen: int [R, G], keys before it have been written.
    num_blocks: int [], how many to read.
    soft_cap: as in `dense_attention`.
  """
  blocks, size = key.shape[-3], key.shape[-1]

  def add(i, softmax):
    max_score, exp_sum, out = softmax
    places = i * size + jnp.arange(size)
    seen = places < num_seen[..., None]
    if first_seen is not None:
      seen &= places >= first_seen[..., None]
    block = lambda x: jax.lax.dynamic_index_in_dim(x, i, -3, keepdims=False)
    scores = _capped(_scale(q, times(q, block(key))), soft_cap)
    scores = jnp.where(seen[:, None, :, None], scores, NEG_INF)
    new_max = jnp.maximum(max_score, jnp.max(scores, -1, keepdims=True))
    # Where nothing has been seen yet, the next key seen makes this 0.
    decay, exp_scores = jnp.exp(max_score - new_max), jnp.exp(scores - new_max)
    exp_sum = decay * exp_sum + jnp.sum(exp_scores, -1, keepdims=True)
    new = times(exp_scores.astype(value.dtype), block(value))
    return new_max, exp_sum, decay * out + new

  if blocks == 1:
    return add(0, softmax)
  return jax.lax.fori_loop(0, num_blocks, add, softmax)


_F32 = dict(preferred_element_type=jnp.float32)


def _group(q, num_kv_heads):
  """[..., N, H] -> [..., K, N/K, H]: the query heads of each kv head."""
  *lead, n, h = q.shape
  return q.reshape(*lead, num_kv_heads, n // num_kv_heads, h)


def _ungroup(x):
  *lead, k, m, h = x.shape
  return x.reshape(*lead, k * m, h)


def _scale(q, scores):
  return scores * q.shape[-1] ** -0.5


def _capped(scores, soft_cap):
  if soft_cap is None:
    return scores
  return soft_cap * jnp.tanh(scores / soft_cap)


def _softmax(scores):
  return jax.nn.softmax(scores, axis=-1)
