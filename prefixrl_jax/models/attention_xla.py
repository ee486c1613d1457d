"""Attention of trunks and lanes in plain XLA: only the blocks that matter.

The same walk over `block_map`'s visits as the TPU kernel, as a loop of small
matrix products; what CPU and GPU run.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from prefixrl_jax.distributed import backends
from prefixrl_jax.models import attention, block_map

# As in attention_kernel: a query that sees nothing weighs everything exactly 0.
_FLOOR = attention.NEG_INF / 2


class _How(NamedTuple):
  """What is fixed when the loop is compiled."""

  block_q: int
  block_kv: int
  window: int | None
  soft_cap: float | None


def tree_block_attention(places, schedule, q, k, v, *, soft_cap=None):
  """Attention under `attention.visible`, any number of trees a row.

  Args:
    places: attention.Places, fields int32 [B, T].
    schedule: from `block_map.make_schedule`.
    q: [B, T, N, H].
    k, v: [B, T, K, H].
    soft_cap: as in `attention.dense_attention`.

  Returns:
    [B, T, N, H], in q's dtype; 0 where a query sees nothing.
  """
  how = _How(schedule.block_q, schedule.block_kv, schedule.window, soft_cap)
  pad = block_map.pad_to_multiple
  stacked = jnp.stack(places, axis=1)
  grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
  out = _attention(
    how,
    schedule.by_query,
    pad(stacked, how.block_q),
    pad(stacked, how.block_kv),
    pad(grouped.swapaxes(1, 2), how.block_q, axis=2),
    pad(k.swapaxes(1, 2), how.block_kv, axis=2),
    pad(v.swapaxes(1, 2), how.block_kv, axis=2),
  )
  return out[:, :, : q.shape[1]].swapaxes(1, 2).reshape(q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(how, visits, q_places, k_places, q, k, v):
  """places: int [B, 4, T]; q: [B, K, T, N/K, H]; k, v: [B, K, T, H]."""
  return _forward(how, visits, q_places, k_places, q, k, v)[0]


def _forward(how, visits, q_places, k_places, q, k, v):
  run = _over_rows(functools.partial(_forward_row, how), visits)
  out, logsumexp = run(q_places, k_places, q, k, v)
  return out, (visits, q_places, k_places, q, k, v, out, logsumexp)


def _backward(how, kept, d_out):
  visits, q_places, k_places, q, k, v, out, logsumexp = kept
  delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1)
  run = _over_rows(functools.partial(_backward_row, how), visits)
  grads = run(q_places, k_places, q, k, v, d_out, logsumexp, delta)
  return (
    None,
    None,
    None,
    *(g.astype(x.dtype) for g, x in zip(grads, (q, k, v))),
  )


_attention.defvjp(_forward, _backward)


def _over_rows(one_row, visits):
  """Runs rows one after another, or side by side."""

  def run(*arrays):
    if backends.in_force().rows_in_turn:
      each = lambda x: one_row(x[0].code, x[0].count, *x[1])
      return jax.lax.map(each, (visits, arrays))
    longest = jnp.max(visits.count)
    return jax.vmap(one_row, in_axes=(0, None, *(0 for _ in arrays)))(
      visits.code, longest, *arrays
    )

  return run


def _forward_row(how, codes, num_visits, q_places, k_places, q, k, v):
  """q [K, T, M, H]; k, v [K, T, H] -> out [K, T, M, H], logsumexp [K, T, M]."""
  block_shape = (q.shape[0], how.block_q, q.shape[2])

  def visit(i, carry):
    seen, most, total, sums, out, logsumexp = carry
    is_first = (codes[i] & block_map.FIRST) > 0
    most = jnp.where(is_first, _FLOOR, most)
    total = jnp.where(is_first, 0.0, total)
    sums = jnp.where(is_first, 0.0, sums)
    seen = _seen(how, codes[i], q_places, k_places, seen)
    at_q, (scores, _, _, values) = _scores(how, codes[i], seen, q, k, v)
    new_most = jnp.maximum(most, jnp.max(scores, axis=-1))
    shrink = jnp.exp(most - new_most)
    weights = jnp.exp(scores - new_most[..., None])
    total = total * shrink + jnp.sum(weights, axis=-1)
    sums = sums * shrink[..., None] + _product(
      "kqmc,kch->kqmh", weights.astype(v.dtype), values
    )
    # Every visit writes what is known so far; the last one is right.
    norm = jnp.where(total > 0, total, 1.0)
    out = _put(out, (sums / norm[..., None]).astype(out.dtype), at_q)
    logsumexp = _put(logsumexp, new_most + jnp.log(norm), at_q)
    return seen, new_most, total, sums, out, logsumexp

  zeros = jnp.zeros(block_shape, jnp.float32)
  start = (
    jnp.zeros((how.block_q, how.block_kv), bool),
    zeros,
    zeros,
    jnp.zeros((*block_shape, q.shape[-1]), jnp.float32),
    jnp.zeros_like(q),
    jnp.zeros(q.shape[:3], jnp.float32),
  )
  return jax.lax.fori_loop(0, num_visits, visit, start)[4:]


def _backward_row(
  how,
  codes,
  num_visits,
  q_places,
  k_places,
  q,
  k,
  v,
  d_out,
  logsumexp,
  delta,
):
  """Returns the gradients of q, k and v in float32."""

  def visit(i, carry):
    seen, dq, dk, dv = carry
    seen = _seen(how, codes[i], q_places, k_places, seen)
    at_q, (scores, queries, keys, values) = _scores(
      how, codes[i], seen, q, k, v
    )
    at_k = block_map.inner_of(codes[i]) * how.block_kv
    block = lambda x: _take(x, at_q, how.block_q)
    weights = jnp.exp(scores - block(logsumexp)[..., None])
    d_block = block(d_out)
    d_weights = _product("kqmh,kch->kqmc", d_block, values)
    d_scores = weights * (d_weights - block(delta)[..., None])
    if how.soft_cap is not None:
      # A masked score is no tanh's, but its weight is 0 already.
      d_scores *= 1 - jnp.square(jnp.maximum(scores / how.soft_cap, -1.0))
    d_scores = (d_scores * q.shape[-1] ** -0.5).astype(q.dtype)
    add = lambda x, new, at: _put(x, _take(x, at, new.shape[1]) + new, at)
    return (
      seen,
      add(dq, _product("kqmc,kch->kqmh", d_scores, keys), at_q),
      add(dk, _product("kqmc,kqmh->kch", d_scores, queries), at_k),
      add(
        dv,
        _product("kqmc,kqmh->kch", weights.astype(q.dtype), d_block),
        at_k,
      ),
    )

  start = (
    jnp.zeros((how.block_q, how.block_kv), bool),
    *(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v)),
  )
  return jax.lax.fori_loop(0, num_visits, visit, start)[1:]


def _seen(how, code, q_places, k_places, before):
  """Returns the visit's mask, bool [block_q, block_kv].

  Made anew only where it differs from the one before, and behind a branch:
  fused into the scores it would be made again for every head.
  """
  at_q = block_map.outer_of(code) * how.block_q
  at_k = block_map.inner_of(code) * how.block_kv
  is_active = (code & block_map.ACTIVE) > 0

  def make():
    seen = attention.sees(
      _take(q_places, at_q, how.block_q)[:, :, None],
      _take(k_places, at_k, how.block_kv)[:, None],
      how.window,
    )
    return seen & is_active

  is_new = ((code & block_map.NEW_MASK) > 0) | ~is_active
  return jax.lax.cond(is_new, make, lambda: before)


def _scores(how, code, seen, q, k, v):
  """Returns the query block's place, and the visit's masked scores and blocks.

  Scores are [K, block_q, M, block_kv] in float32.
  """
  at_q = block_map.outer_of(code) * how.block_q
  at_k = block_map.inner_of(code) * how.block_kv
  queries = _take(q, at_q, how.block_q)
  keys, values = (_take(x, at_k, how.block_kv) for x in (k, v))
  scores = _product("kqmh,kch->kqmc", queries, keys) * q.shape[-1] ** -0.5
  if how.soft_cap is not None:
    scores = how.soft_cap * jnp.tanh(scores / how.soft_cap)
  scores = jnp.where(seen[None, :, None], scores, attention.NEG_INF)
  return at_q, (scores, queries, keys, values)


def _take(x, start, size):
  return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)


def _put(x, block, start):
  return jax.lax.dynamic_update_slice_in_dim(x, block, start, axis=1)


def _product(equation, a, b):
  return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
