"""Attention of trunks and lanes for TPU: tiles, and only those that matter.

Flash attention whose grid walks the visits of `block_map`. Scores lie with
keys along sublanes and queries along lanes, [block_kv, block_q], so that what
belongs to a query (its maximum, its sum, its logsumexp) is a row; queries,
outputs and their gradients come transposed, [H, block_q]. The query heads of
one key/value head are taken one after another, behind one mask and one copy of
the keys and values.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import attention, block_map

# Below every real score and above every masked one: their difference has the
# exponential 0, also for a query that sees nothing.
_FLOOR = attention.NEG_INF / 2
# Large groups of heads need more than the default of 16 MB.
_VMEM_LIMIT = 48 * 2**20


class _How(NamedTuple):
  """What is fixed when the kernels are compiled."""

  block_q: int
  block_kv: int
  scale: float
  soft_cap: float | None
  window: int | None
  interpret: bool


def tree_flash_attention(
  q,
  k,
  v,
  *,
  tree,
  branch,
  position,
  fork,
  block_q,
  block_kv,
  soft_cap=None,
  window=None,
  interpret=False,
  schedule=None,
):
  """Attention under `attention.visible`, any number of trees a row.

  Args:
    q: [B, T, N, H], float32 or bfloat16.
    k, v: [B, T, K, H], in q's dtype.
    tree, branch, position, fork: int32 [B, T], as in TrainBatch.
    block_q, block_kv: tokens in a tile, multiples of 128; T need not be one.
    soft_cap: as in `attention.dense_attention`.
    window: as in `attention.visible`.
    interpret: run without a TPU, slowly, with tiles of any size.
    schedule: from `block_map.make_schedule`, where it is known already.

  Returns:
    [B, T, N, H], in q's dtype; 0 where a query sees nothing.
  """
  places = (tree, branch, position, fork)
  sizes = dict(block_q=block_q, block_kv=block_kv, window=window)
  if schedule is None:
    schedule = block_map.make_schedule(*places, **sizes)
  made_for = {name: getattr(schedule, name) for name in sizes}
  assert made_for == sizes, (made_for, sizes)
  rows, length, num_heads, head_dim = q.shape
  how = _How(
    **sizes, scale=head_dim**-0.5, soft_cap=soft_cap, interpret=interpret
  )
  pad = block_map.pad_to_multiple
  places = jnp.stack(places, axis=1)
  out = _attention(
    how,
    schedule,
    pad(places, block_q),
    pad(places, block_kv),
    pad(
      q.reshape(rows, length, k.shape[2], -1, head_dim).transpose(
        0, 2, 3, 4, 1
      ),
      block_q,
    ),
    pad(k.swapaxes(1, 2), block_kv, axis=2),
    pad(v.swapaxes(1, 2), block_kv, axis=2),
  )
  return out[..., :length].transpose(0, 4, 1, 2, 3).reshape(q.shape)


def sharded_tree_flash_attention(
  q, k, v, *, tree, branch, position, fork, schedule=None, **kwargs
):
  """`tree_flash_attention` on the mesh in force, rows and heads apart.

  Heads that the mesh does not divide are computed on all its devices.

  Args:
    q, k, v, tree, branch, position, fork, schedule, **kwargs: as there.
  """

  def local(q, k, v, schedule, *places):
    names = ("tree", "branch", "position", "fork")
    kwargs.update(zip(names, places), schedule=schedule)
    return tree_flash_attention(q, k, v, **kwargs)

  places = (tree, branch, position, fork)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(q, k, v, schedule, *places)
  rows = sharding.sharding(mesh, tree.shape[:1], "rows").spec
  heads = sharding.sharding(mesh, k.shape, "rows", None, "kv_heads", None).spec
  return jax.shard_map(
    local,
    in_specs=(heads, heads, heads, *[rows] * 5),
    out_specs=heads,
    check_vma=False,  # a Pallas call does not say what its outputs vary over
  )(q, k, v, schedule, *places)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(how, schedule, q_places, k_places, q, k, v):
  """places: int [B, 4, T]; q: [B, K, N/K, H, T]; k, v: [B, K, T, H]."""
  return _forward(how, schedule, q_places, k_places, q, k, v)[0]


def _forward(how, schedule, *arrays):
  q, k, _ = arrays[2:]
  *heads, head_dim, length = q.shape
  row = (q.shape[2], 1, how.block_q)
  out, logsumexp = _call(
    _forward_kernel,
    how,
    schedule.by_query,
    _tiles(how, q, block_map.outer_block, block_map.inner_block),
    arrays,
    out_names=("q", "query"),
    out_shape=(
      jax.ShapeDtypeStruct(q.shape, q.dtype),
      jax.ShapeDtypeStruct((*heads, 1, length), jnp.float32),
    ),
    scratch=((q.shape[2], head_dim, how.block_q), row, row),
  )
  return out, (schedule, arrays, out, logsumexp.squeeze(3))


def _backward(how, kept, d_out):
  schedule, arrays, out, logsumexp = kept
  q, k, _ = arrays[2:]
  f32 = lambda x: x.astype(jnp.float32)
  delta = jnp.sum(f32(out) * f32(d_out), axis=3, keepdims=True)
  arrays = (*arrays, d_out, jnp.expand_dims(logsumexp, 3), delta)
  like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  (dq,) = _call(
    _dq_kernel,
    how,
    schedule.by_query,
    _tiles(how, q, block_map.outer_block, block_map.inner_block),
    arrays,
    out_names=("q",),
    out_shape=(like(q),),
    scratch=((*q.shape[2:4], how.block_q),),
  )
  dk, dv = _call(
    _dkv_kernel,
    how,
    schedule.by_key,
    _tiles(how, q, block_map.inner_block, block_map.outer_block),
    arrays,
    out_names=("k", "k"),
    out_shape=(like(k), like(k)),
    scratch=((how.block_kv, q.shape[3]),) * 2,
  )
  return None, None, None, dq, dk, dv


_attention.defvjp(_forward, _backward)

# Forward takes the first five.
_INPUTS = ("q_places", "k_places", "q", "k", "k", "q", "query", "query")


def _tiles(how, q, q_of, k_of) -> dict[str, pl.BlockSpec]:
  """Returns the block that a visit takes of each kind of array.

  Args:
    how: _How.
    q: [B, K, N/K, H, T].
    q_of, k_of: from a visit's code to its block of queries and of keys.
  """
  group, head_dim = q.shape[2:4]
  spec = lambda shape, index: pl.BlockSpec(
    (None, *shape), lambda b, h, s, codes: (b, *index(h, codes[b, s]))
  )
  of_query = lambda h, code: (h, 0, 0, q_of(code))
  return {
    "q": spec((None, group, head_dim, how.block_q), of_query),
    "query": spec((None, group, 1, how.block_q), of_query),
    "k": spec(
      (None, how.block_kv, head_dim), lambda h, code: (h, k_of(code), 0)
    ),
    "q_places": spec((4, how.block_q), lambda h, code: (0, q_of(code))),
    "k_places": spec((4, how.block_kv), lambda h, code: (0, k_of(code))),
  }


def _call(kernel, how, visits, tiles, arrays, *, out_names, out_shape, scratch):
  """Runs a kernel over rows, kv heads and as many visits as a row has."""
  mask = (how.block_kv, how.block_q)
  return pl.pallas_call(
    functools.partial(kernel, how),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(*arrays[2].shape[:2], visits.count.max()),
      in_specs=[tiles[name] for name, _ in zip(_INPUTS, arrays)],
      out_specs=[tiles[name] for name in out_names],
      scratch_shapes=[pltpu.VMEM(x, jnp.float32) for x in (mask, *scratch)],
    ),
    out_shape=out_shape,
    compiler_params=pltpu.CompilerParams(
      # A block's visits follow each other; rows and heads may go to two cores.
      dimension_semantics=("parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=_VMEM_LIMIT,
    ),
    interpret=how.interpret,
    name=kernel.__name__.strip("_"),
  )(visits.code, *arrays)


def _visit(how, codes, q_places, k_places, mask, start, work, finish):
  """Does what the step's visit asks for."""
  code = codes[pl.program_id(0), pl.program_id(2)]
  pl.when(code & block_map.FIRST != 0)(start)

  @pl.when(code & block_map.NEW_MASK != 0)
  def _():
    keys = k_places[...].T
    seen = attention.sees(
      [q_places[i : i + 1] for i in range(4)],
      [keys[:, i : i + 1] for i in range(4)],
      how.window,
    )
    mask[...] = jnp.where(seen, 0.0, attention.NEG_INF)

  pl.when(code & block_map.ACTIVE != 0)(work)
  pl.when(code & block_map.LAST != 0)(finish)


def _forward_kernel(
  how,
  codes,
  q_places,
  k_places,
  q,
  k,
  v,
  out,
  logsumexp,
  mask,
  total,
  top,
  mass,
):
  def start():
    total[...] = jnp.zeros_like(total)
    top[...] = jnp.full_like(top, _FLOOR)
    mass[...] = jnp.zeros_like(mass)

  def work():
    values = v[...].T

    @_each_head(q)
    def _(m):
      scores, _ = _scores(how, k[...], q[m], mask[...])
      new_top = jnp.maximum(top[m], scores.max(0, keepdims=True))
      weights = jnp.exp(scores - new_top)
      decay = jnp.exp(top[m] - new_top)
      mass[m] = mass[m] * decay + weights.sum(0, keepdims=True)
      total[m] = total[m] * decay + _dot(values, weights.astype(values.dtype))
      top[m] = new_top

  def finish():
    seen = mass[...] > 0
    divisor = jnp.where(seen, mass[...], 1.0)
    out[...] = (total[...] / divisor).astype(out.dtype)
    logsumexp[...] = jnp.where(seen, top[...] + jnp.log(divisor), 0.0)

  _visit(how, codes, q_places, k_places, mask, start, work, finish)


def _dq_kernel(
  how,
  codes,
  q_places,
  k_places,
  q,
  k,
  v,
  d_out,
  logsumexp,
  delta,
  dq,
  mask,
  total,
):
  def start():
    total[...] = jnp.zeros_like(total)

  def work():
    keys = k[...].T

    @_each_head(q)
    def _(m):
      _, d_scores = _score_gradients(
        how, k[...], v[...], q[m], d_out[m], logsumexp[m], delta[m], mask[...]
      )
      total[m] += _dot(keys, d_scores.astype(keys.dtype))

  def finish():
    dq[...] = (total[...] * how.scale).astype(dq.dtype)

  _visit(how, codes, q_places, k_places, mask, start, work, finish)


def _dkv_kernel(
  how,
  codes,
  q_places,
  k_places,
  q,
  k,
  v,
  d_out,
  logsumexp,
  delta,
  dk,
  dv,
  mask,
  dk_total,
  dv_total,
):
  def start():
    dk_total[...] = jnp.zeros_like(dk_total)
    dv_total[...] = jnp.zeros_like(dv_total)

  def work():
    @_each_head(q)
    def _(m):
      weights, d_scores = _score_gradients(
        how, k[...], v[...], q[m], d_out[m], logsumexp[m], delta[m], mask[...]
      )
      dv_total[...] += _dot(weights.astype(d_out.dtype), d_out[m], 1)
      dk_total[...] += _dot(d_scores.astype(q.dtype), q[m], 1)

  def finish():
    dk[...] = (dk_total[...] * how.scale).astype(dk.dtype)
    dv[...] = dv_total[...].astype(dv.dtype)

  _visit(how, codes, q_places, k_places, mask, start, work, finish)


def _each_head(q):
  """Decorates what is done for each query head; a loop, not one large body."""
  return lambda body: jax.lax.fori_loop(
    0, q.shape[0], lambda m, _: body(m), None
  )


def _scores(how, keys, q, mask):
  """Returns scores [block_kv, block_q] and the soft cap's derivative."""
  scores = _dot(keys, q) * how.scale
  slope = None
  if how.soft_cap is not None:
    share = jnp.tanh(scores / how.soft_cap)
    scores, slope = how.soft_cap * share, 1 - share * share
  return scores + mask, slope


def _score_gradients(how, keys, values, q, d_out, logsumexp, delta, mask):
  """Returns the softmax and the gradient of the scores before their scale."""
  scores, slope = _scores(how, keys, q, mask)
  weights = jnp.exp(scores - logsumexp)
  d_scores = weights * (_dot(values, d_out) - delta)
  return weights, d_scores if slope is None else d_scores * slope


def _dot(a, b, b_axis=0):
  """Contracts a's columns with an axis of b, in float32."""
  exact = a.dtype == jnp.float32
  return jax.lax.dot_general(
    a,
    b,
    (((1,), (b_axis,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT,
    preferred_element_type=jnp.float32,
  )
