"""Attention of trunks and lanes for TPU: tiles, and only those that matter.

Flash attention whose grid walks the visits of `block_map`. Scores have their
keys along sublanes and queries along lanes, [block_kv, block_q], so that what
belongs to a query (its maximum, its sum, its logsumexp) is a row; queries,
outputs and their gradients come transposed, [H, block_q]. The query heads of
one key/value head are taken one after another, with one mask and one copy of
the keys and values.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from prefixrl_jax.models import attention, block_map
from prefixrl_jax.models.attention_blocks import (
  FLOOR,
  KernelConfig,
  run_in_blocks,
)
from prefixrl_jax.types import UserError

# Large groups of heads need more than the default of 16 MB.
_VMEM_LIMIT = 48 * 2**20
# Visits of all rows that fit in a core's scalar memory, of 1 MiB, beside what
# the compiler keeps there: one row of 504 blocks, more rows of fewer.
_MAX_VISITS = 504**2


def tree_flash_attention(
  places, schedule, q, k, v, *, soft_cap=None, interpret=False
):
  """Attention under `attention.visible`, any number of trees a row.

  Args:
    places: attention.Places, fields int32 [B, T].
    schedule: from `block_map.make_block_schedule`; block sizes are multiples of
      128, T need not be one.
    q: [B, T, N, H], float32 or bfloat16.
    k, v: [B, T, K, H], in q's dtype.
    soft_cap: as in `attention.dense_attention`.
    interpret: run without a TPU, slowly, with tiles of any size.

  Returns:
    [B, T, N, H], in q's dtype; 0 where a query sees nothing.

  Raises:
    UserError: more or longer rows than a device's scalar memory has room for.
  """
  config = KernelConfig.of(schedule, soft_cap, interpret=interpret)
  rows, num_visits = schedule.by_query.code.shape
  if rows * num_visits > _MAX_VISITS and not interpret:
    raise UserError(
      f"a device cannot list the blocks of {rows} rows of {q.shape[1]} tokens:"
      f" {rows * num_visits}, of {_MAX_VISITS} that it has room for. Of packed"
      " rows, lower config.learner.rows_per_microbatch or row_length (a tree's"
      " lanes may lie in several rows); of trunks, the sampler's rows."
    )
  run = functools.partial(_attention, config, schedule)
  return run_in_blocks(run, config, places, q, k, v, order=(0, 2, 3, 4, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(config, schedule, q_places, k_places, q, k, v):
  """places: int [B, 4, T]; q: [B, K, N/K, H, T]; k, v: [B, K, T, H]."""
  return _attention_fwd(config, schedule, q_places, k_places, q, k, v)[0]


def _attention_fwd(config, schedule, *arrays):
  q = arrays[2]
  *heads, head_dim, length = q.shape
  row = (heads[-1], 1, config.block_q)
  out, logsumexp = _call(
    _forward_kernel,
    config,
    schedule,
    arrays,
    outer="q",
    outs={"q": _like(q), "row": _like(q, (*heads, 1, length), jnp.float32)},
    scratch=((heads[-1], head_dim, config.block_q), row, row),
  )
  return out, (schedule, arrays, out, logsumexp.squeeze(3))


def _attention_bwd(config, kept, d_out):
  schedule, arrays, out, logsumexp = kept
  _, _, q, k, v = arrays
  product = out.astype(jnp.float32) * d_out.astype(jnp.float32)
  delta = jnp.sum(product, axis=3, keepdims=True)
  arrays = (*arrays, d_out, jnp.expand_dims(logsumexp, 3), delta)
  (dq,) = _call(
    _dq_kernel,
    config,
    schedule,
    arrays,
    outer="q",
    outs={"q": _like(q)},
    scratch=((*q.shape[2:4], config.block_q),),
  )
  dk, dv = _call(
    _dkv_kernel,
    config,
    schedule,
    arrays,
    outer="k",
    outs={"k": _like(k), "v": _like(v)},
    scratch=((config.block_kv, k.shape[3]),) * 2,
  )
  return None, None, None, dq, dk, dv


_attention.defvjp(_attention_fwd, _attention_bwd)


def _like(x, shape=None, dtype=None):
  return jax.ShapeDtypeStruct(shape or x.shape, dtype or x.dtype)


# Forward takes the first five.
_INPUTS = ("q_places", "k_places", "q", "k", "v", "q", "row", "row")


def _call(kernel, config, schedule, arrays, *, outer, outs, scratch):
  """Runs a kernel over rows, kv heads and as many visits as any row has.

  Args:
    kernel: makes (start, work, finish) of the tiles that a visit is about.
    config: KernelConfig.
    schedule: block_map.BlockSchedule.
    arrays: as many as the kernel takes of `_INPUTS`.
    outer: "q" or "k", whose blocks are written one after another.
    outs: shapes by kind.
    scratch: shapes of what lives from a block's first visit to its last.
  """
  visits, q_of, k_of = schedule.by_query, block_map.outer_of, block_map.inner_of
  if outer == "k":
    visits, q_of, k_of = schedule.by_key, k_of, q_of
  group, head_dim = arrays[2].shape[2:4]
  spec = lambda shape, index: pl.BlockSpec(
    (None, *shape), lambda b, h, s, codes: (b, *index(h, codes[b, s]))
  )
  of_query = lambda h, code: (h, 0, 0, q_of(code))
  of_key = lambda h, code: (h, k_of(code), 0)
  tiles = {
    "q": spec((None, group, head_dim, config.block_q), of_query),
    "k": spec((None, config.block_kv, head_dim), of_key),
    "v": spec((None, config.block_kv, head_dim), of_key),
    "row": spec((None, group, 1, config.block_q), of_query),
    "q_places": spec((4, config.block_q), lambda h, code: (0, q_of(code))),
    "k_places": spec((4, config.block_kv), lambda h, code: (0, k_of(code))),
  }
  scratch = (*scratch, (config.block_kv, config.block_q))
  return pl.pallas_call(
    functools.partial(_visit, kernel, config),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(*arrays[2].shape[:2], visits.count.max()),
      in_specs=[tiles[name] for name, _ in zip(_INPUTS, arrays)],
      out_specs=[tiles[name] for name in outs],
      scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
    ),
    out_shape=list(outs.values()),
    compiler_params=pltpu.CompilerParams(
      # A block's visits follow each other; rows and heads may go to two cores.
      dimension_semantics=("parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=_VMEM_LIMIT,
    ),
    interpret=config.interpret,
    name=kernel.__name__.strip("_"),
  )(visits.code, *arrays)


def _visit(kernel, config, codes, q_places, k_places, *refs):
  """Does what the step's visit asks for; the mask outlives it."""
  mask = refs[-1]
  start, work, finish = kernel(config, mask, *refs[:-1])
  code = codes[pl.program_id(0), pl.program_id(2)]
  pl.when(code & block_map.FIRST != 0)(start)

  @pl.when(code & block_map.NEW_MASK != 0)
  def _():
    keys = k_places[...].T
    seen = attention.sees(
      [q_places[i : i + 1] for i in range(4)],
      [keys[:, i : i + 1] for i in range(4)],
      config.window,
    )
    mask[...] = jnp.where(seen, 0.0, attention.NEG_INF)

  pl.when(code & block_map.ACTIVE != 0)(work)
  pl.when(code & block_map.LAST != 0)(finish)


def _forward_kernel(
  config, mask, q, k, v, out, logsumexp, out_sum, max_score, exp_sum
):
  def start():
    out_sum[...] = jnp.zeros_like(out_sum)
    max_score[...] = jnp.full_like(max_score, FLOOR)
    exp_sum[...] = jnp.zeros_like(exp_sum)

  def work():
    values = v[...].T

    @_each_head(q)
    def _(m):
      scores, _ = _scores(config, k[...], q[m], mask[...])
      new_max = jnp.maximum(max_score[m], scores.max(0, keepdims=True))
      weights = jnp.exp(scores - new_max)
      decay = jnp.exp(max_score[m] - new_max)
      exp_sum[m] = exp_sum[m] * decay + weights.sum(0, keepdims=True)
      out_sum[m] = out_sum[m] * decay + _dot(
        config, values, weights.astype(values.dtype)
      )
      max_score[m] = new_max

  def finish():
    seen = exp_sum[...] > 0
    divisor = jnp.where(seen, exp_sum[...], 1.0)
    out[...] = (out_sum[...] / divisor).astype(out.dtype)
    logsumexp[...] = jnp.where(seen, max_score[...] + jnp.log(divisor), 0.0)

  return start, work, finish


def _dq_kernel(config, mask, q, k, v, d_out, logsumexp, delta, dq, dq_sum):
  def start():
    dq_sum[...] = jnp.zeros_like(dq_sum)

  def work():
    keys = k[...].T

    @_each_head(q)
    def _(m):
      rows = q[m], d_out[m], logsumexp[m], delta[m]
      _, d_scores = _score_gradients(config, k[...], v[...], *rows, mask[...])
      dq_sum[m] += _dot(config, keys, d_scores.astype(keys.dtype))

  def finish():
    dq[...] = (dq_sum[...] * _scale(k)).astype(dq.dtype)

  return start, work, finish


def _dkv_kernel(
  config, mask, q, k, v, d_out, logsumexp, delta, dk, dv, dk_sum, dv_sum
):
  def start():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  def work():
    @_each_head(q)
    def _(m):
      rows = q[m], d_out[m], logsumexp[m], delta[m]
      weights, d_scores = _score_gradients(
        config, k[...], v[...], *rows, mask[...]
      )
      dv_sum[...] += _dot(config, weights.astype(d_out.dtype), d_out[m], 1)
      dk_sum[...] += _dot(config, d_scores.astype(q.dtype), q[m], 1)

  def finish():
    dk[...] = (dk_sum[...] * _scale(k)).astype(dk.dtype)
    dv[...] = dv_sum[...].astype(dv.dtype)

  return start, work, finish


def _each_head(q):
  """Decorates what is done for each query head; a loop, not one large body."""
  return lambda body: jax.lax.fori_loop(
    0, q.shape[0], lambda m, _: body(m), None
  )


def _scale(keys):
  return keys.shape[-1] ** -0.5


def _scores(config, keys, q, mask):
  """Returns scores [block_kv, block_q] and the soft cap's derivative."""
  scores = _dot(config, keys, q) * _scale(keys)
  slope = None
  if config.soft_cap is not None:
    share = jnp.tanh(scores / config.soft_cap)
    scores, slope = config.soft_cap * share, 1 - share * share
  return scores + mask, slope


def _score_gradients(config, keys, values, q, d_out, logsumexp, delta, mask):
  """Returns the softmax and the gradient of the scores before their scale."""
  scores, slope = _scores(config, keys, q, mask)
  weights = jnp.exp(scores - logsumexp)
  d_scores = weights * (_dot(config, values, d_out) - delta)
  return weights, d_scores if slope is None else d_scores * slope


def _dot(config, a, b, b_axis=0):
  """Contracts a's columns with an axis of b, in float32."""
  if config.interpret:  # XLA:CPU has no such product of bfloat16 for all shapes
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  exact = a.dtype == jnp.float32
  return jax.lax.dot_general(
    a,
    b,
    (((1,), (b_axis,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT,
    preferred_element_type=jnp.float32,
  )
