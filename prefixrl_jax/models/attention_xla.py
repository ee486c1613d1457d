"""Attention of trunks and lanes in plain XLA: only the blocks that matter.

The same walk over `block_map`'s visits as the TPU kernel, as a loop of small
matrix products; what CPU and GPU run.
"""

import functools

import jax
import jax.numpy as jnp

from prefixrl_jax.distributed import backends
from prefixrl_jax.models import attention, block_map
from prefixrl_jax.models.attention_blocks import (
  FLOOR,
  KernelConfig,
  run_in_blocks,
)
from prefixrl_jax.rounding import ceil_div


def tree_block_attention(places, schedule, q, k, v, *, soft_cap=None):
  """Attention under `attention.visible`, any number of trees a row.

  Args:
    places: attention.Places, fields int32 [B, T].
    schedule: from `block_map.make_block_schedule`.
    q: [B, T, N, H].
    k, v: [B, T, K, H].
    soft_cap: as in `attention.dense_attention`.

  Returns:
    [B, T, N, H], in q's dtype; 0 where a query sees nothing.
  """
  config = KernelConfig.of(schedule, soft_cap)
  run = functools.partial(_attention, config, schedule.by_query)
  return run_in_blocks(run, config, places, q, k, v, order=(0, 2, 1, 3, 4))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(config, visits, q_places, k_places, q, k, v):
  """places: int [B, 4, T]; q: [B, K, T, N/K, H]; k, v: [B, K, T, H]."""
  return _attention_fwd(config, visits, q_places, k_places, q, k, v)[0]


def _attention_fwd(config, visits, q_places, k_places, q, k, v):
  run = _over_rows(functools.partial(_forward_row, config), visits)
  out, logsumexp = run(q_places, k_places, q, k, v)
  return out, (visits, q_places, k_places, q, k, v, out, logsumexp)


def _attention_bwd(config, kept, d_out):
  visits, q_places, k_places, q, k, v, out, logsumexp = kept
  delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1)
  run = _over_rows(functools.partial(_backward_row, config), visits)
  grads = run(q_places, k_places, q, k, v, d_out, logsumexp, delta)
  return (
    None,
    None,
    None,
    *(g.astype(x.dtype) for g, x in zip(grads, (q, k, v))),
  )


_attention.defvjp(_attention_fwd, _attention_bwd)


def _over_rows(one_row, visits):
  """Runs rows one after another, or side by side."""

  def run(*arrays):
    if backends.current_backend().rows_in_turn:
      each = lambda x: one_row(x[0].code, x[0].count, *x[1])
      return jax.lax.map(each, (visits, arrays))
    longest = jnp.max(visits.count)
    return jax.vmap(one_row, in_axes=(0, None, *(0 for _ in arrays)))(
      visits.code, longest, *arrays
    )

  return run


def _forward_row(config, codes, num_visits, q_places, k_places, q, k, v):
  """q [K, T, M, H]; k, v [K, T, H] -> out [K, T, M, H], logsumexp [K, T, M]."""
  block_shape = (q.shape[0], config.block_q, q.shape[2])

  def visit(code, carry):
    seen, max_score, exp_sum, out_sum, out, logsumexp = carry
    is_first = (code & block_map.FIRST) > 0
    max_score = jnp.where(is_first, FLOOR, max_score)
    exp_sum = jnp.where(is_first, 0.0, exp_sum)
    out_sum = jnp.where(is_first, 0.0, out_sum)
    seen = _seen(config, code, q_places, k_places, seen)
    at_q, (scores, _, _, values) = _visit_scores(config, code, seen, q, k, v)
    new_max = jnp.maximum(max_score, jnp.max(scores, axis=-1))
    decay = jnp.exp(max_score - new_max)
    weights = jnp.exp(scores - new_max[..., None])
    exp_sum = exp_sum * decay + jnp.sum(weights, axis=-1)
    out_sum = out_sum * decay[..., None] + _product(
      "kqmc,kch->kqmh", weights.astype(v.dtype), values
    )
    # Every visit writes what is known so far; the last one is right.
    norm = jnp.where(exp_sum > 0, exp_sum, 1.0)
    out = _put(out, (out_sum / norm[..., None]).astype(out.dtype), at_q)
    logsumexp = _put(logsumexp, new_max + jnp.log(norm), at_q)
    return seen, new_max, exp_sum, out_sum, out, logsumexp

  zeros = jnp.zeros(block_shape, jnp.float32)
  start = (
    jnp.zeros((config.block_q, config.block_kv), bool),
    zeros,
    zeros,
    jnp.zeros((*block_shape, q.shape[-1]), jnp.float32),
    jnp.zeros_like(q),
    jnp.zeros(q.shape[:3], jnp.float32),
  )
  return _walk(codes, num_visits, visit, start)[4:]


def _backward_row(
  config,
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

  def visit(code, carry):
    seen, dq, dk, dv = carry
    seen = _seen(config, code, q_places, k_places, seen)
    at_q, (scores, queries, keys, values) = _visit_scores(
      config, code, seen, q, k, v
    )
    at_k = block_map.inner_of(code) * config.block_kv
    block = lambda x: _take(x, at_q, config.block_q)
    weights = jnp.exp(scores - block(logsumexp)[..., None])
    d_block = block(d_out)
    d_weights = _product("kqmh,kch->kqmc", d_block, values)
    d_scores = weights * (d_weights - block(delta)[..., None])
    if config.soft_cap is not None:
      # A masked score is no tanh's, but its weight is 0 already.
      d_scores *= 1 - jnp.square(jnp.maximum(scores / config.soft_cap, -1.0))
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
    jnp.zeros((config.block_q, config.block_kv), bool),
    *(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v)),
  )
  return _walk(codes, num_visits, visit, start)[1:]


def _walk(codes, num_visits, visit, carry):
  """Returns carry after visit(code, carry) for the first of the codes."""
  per_turn = backends.current_backend().visits_a_turn
  # What fills the last turn stays where the last visit was, and adds nothing.
  more = codes[-1] & ~(block_map.ACTIVE | block_map.FIRST)
  codes = jnp.concatenate([codes, jnp.full(per_turn - 1, more)])

  def turn(i, carry):
    for j in range(per_turn):
      carry = visit(codes[i * per_turn + j], carry)
    return carry

  return jax.lax.fori_loop(0, ceil_div(num_visits, per_turn), turn, carry)


def _seen(config, code, q_places, k_places, before):
  """Returns the visit's mask, bool [block_q, block_kv].

  Made anew only where it differs from the one before, and inside a branch:
  fused into the scores it would be made again for every head.
  """
  at_q = block_map.outer_of(code) * config.block_q
  at_k = block_map.inner_of(code) * config.block_kv
  is_active = (code & block_map.ACTIVE) > 0

  def make():
    seen = attention.sees(
      _take(q_places, at_q, config.block_q)[:, :, None],
      _take(k_places, at_k, config.block_kv)[:, None],
      config.window,
    )
    return seen & is_active

  is_new = ((code & block_map.NEW_MASK) > 0) | ~is_active
  return jax.lax.cond(is_new, make, lambda: before)


def _visit_scores(config, code, seen, q, k, v):
  """Returns the query block's place, and the visit's masked scores and blocks.

  Scores are [K, block_q, M, block_kv] in float32.
  """
  at_q = block_map.outer_of(code) * config.block_q
  at_k = block_map.inner_of(code) * config.block_kv
  queries = _take(q, at_q, config.block_q)
  keys, values = (_take(x, at_k, config.block_kv) for x in (k, v))
  scores = _product("kqmh,kch->kqmc", queries, keys) * q.shape[-1] ** -0.5
  if config.soft_cap is not None:
    scores = config.soft_cap * jnp.tanh(scores / config.soft_cap)
  scores = jnp.where(seen[None, :, None], scores, attention.NEG_INF)
  return at_q, (scores, queries, keys, values)


def _take(x, start, size):
  return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)


def _put(x, block, start):
  return jax.lax.dynamic_update_slice_in_dim(x, block, start, axis=1)


def _product(equation, a, b):
  return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
