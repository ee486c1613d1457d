"""The attention rule of trunks and lanes: a reference, and the fast paths.

A key is seen by a query of the same tree if it comes no later and lies either
on the query's own branch, or on the trunk before the query's fork.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

NEG_INF = -1e30


class Places(NamedTuple):
  """Where tokens stand in their trees; TrainBatch has the same fields."""

  tree: jax.Array
  branch: jax.Array
  position: jax.Array
  fork: jax.Array


def places_of(rows) -> Places:
  """Returns the places of a TrainBatch's tokens."""
  return Places(*(getattr(rows, name) for name in Places._fields))


def trunk_places(num_rows: int, length: int) -> Places:
  """Returns the places of rows that hold one trunk each, int32 [B, T]."""
  zeros = jnp.zeros((num_rows, length), jnp.int32)
  return Places(zeros + 1, zeros, zeros + jnp.arange(length), zeros)


def visible(tree, branch, position, fork, window=None):
  """Returns which key (last axis) each query sees: bool [..., T, T].

  Args:
    tree: int [..., T], 0 on padding.
    branch: int [..., T], 0 on the trunk.
    position: int [..., T].
    fork: int [..., T], trunk tokens that the token's lane sees.
    window: if given, how many positions back a query sees, its own included.
  """
  places = (tree, branch, position, fork)
  return sees(
    [x[..., :, None] for x in places],
    [x[..., None, :] for x in places],
    window,
  )


def sees(query, key, window=None):
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


def dense_attention(q, k, v, mask, soft_cap=None):
  """The reference: every pair of tokens, masked.

  Args:
    q: [B, T, N, H].
    k, v: [B, T, K, H].
    mask: bool [B, T, T], what each query sees.
    soft_cap: if given, scores become soft_cap * tanh(score / soft_cap).

  Returns:
    [B, T, N, H], in q's dtype; 0 where a query sees nothing.
  """
  q = _group(q, k.shape[2])
  scores = _scale(q, jnp.einsum("btkmh,bskh->bkmts", q, k, **_F32))
  if soft_cap is not None:
    scores = soft_cap * jnp.tanh(scores / soft_cap)
  weights = _softmax(jnp.where(mask[:, None, None], scores, NEG_INF))
  out = jnp.einsum("bkmts,bskh->btkmh", weights.astype(v.dtype), v)
  return _ungroup(jnp.where(mask.any(-1)[..., None, None, None], out, 0))


def decode_attention(q, cache, *, fork, length):
  """One new token a lane, whose key is already in the cache.

  The trunk's keys are read once for all lanes of a row.

  Args:
    q: [R, G, N, H].
    cache: KVCache of this layer.
    fork: int [R, G]; the lane sees trunk tokens before fork - 1, and the one
      at fork - 1 in slot 0 of its own.
    length: int [R, G], the slot of the new token.

  Returns:
    [R, G, N, H].
  """
  q = _group(q, cache.trunk_key.shape[1])
  rows, lanes, kv_heads, per_kv, _ = q.shape
  seen = lambda n, limit: (jnp.arange(n) < limit[..., None])[:, :, None, None]

  # A trunk is met by the stacked queries of all lanes, [R, K, G M, H].
  stack = lambda x: x.swapaxes(1, 2).reshape(rows, kv_heads, -1, x.shape[-1])
  unstack = lambda x: x.reshape(
    rows, kv_heads, lanes, per_kv, x.shape[-1]
  ).swapaxes(1, 2)
  to_trunk = unstack(jnp.matmul(stack(q), cache.trunk_key, **_F32))
  to_lane = jnp.matmul(q, cache.lane_key, **_F32)
  to_trunk = jnp.where(
    seen(to_trunk.shape[-1], fork - 1), _scale(q, to_trunk), NEG_INF
  )
  to_lane = jnp.where(
    seen(to_lane.shape[-1], length + 1), _scale(q, to_lane), NEG_INF
  )
  # One softmax over both, without joining them.
  most = jnp.maximum(
    jnp.max(to_trunk, -1, keepdims=True), jnp.max(to_lane, -1, keepdims=True)
  )
  to_trunk, to_lane = jnp.exp(to_trunk - most), jnp.exp(to_lane - most)
  total = jnp.sum(to_trunk, -1, keepdims=True)
  total += jnp.sum(to_lane, -1, keepdims=True)
  dtype = cache.lane_value.dtype
  out = unstack(
    jnp.matmul(stack(to_trunk.astype(dtype)), cache.trunk_value, **_F32)
  ) + jnp.matmul(to_lane.astype(dtype), cache.lane_value, **_F32)
  return _ungroup((out / total).astype(q.dtype))


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


def _softmax(scores):
  return jax.nn.softmax(scores, axis=-1)
