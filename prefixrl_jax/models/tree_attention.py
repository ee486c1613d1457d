"""Attention over packed rows of trees: the way that suits the devices."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.models import (
  attention,
  attention_kernel,
  attention_xla,
  block_map,
)


def make_schedule(rows, *, window=None) -> block_map.Schedule:
  """Returns which blocks meet in these rows; every layer needs to know.

  Args:
    rows: TrainBatch without its micro-batch axis, or Places; fields [B, T].
    window: as in `attention.visible`.
  """
  places = attention.places_of(rows)
  length = -(-places.tree.shape[1] // 8) * 8
  backend = backends.in_force()
  block_q, block_kv = backend.attention_blocks
  if not backend.has_attention_kernel:
    block_q, block_kv = min(block_q, length), min(block_kv, length)
  return block_map.make_schedule(
    *places, block_q=block_q, block_kv=block_kv, window=window
  )


def attend(rows, schedule, q, k, v, *, soft_cap=None, implementation=None):
  """Attention under `attention.visible` on the mesh in force, if any.

  Every device computes its own rows and heads; heads that the mesh does not
  divide are computed on all its devices.

  Args:
    rows: as in `make_schedule`.
    schedule: from there.
    q: [B, T, N, H].
    k, v: [B, T, K, H].
    soft_cap: as in `attention.dense_attention`.
    implementation: None is the one for the backend.

  Returns:
    [B, T, N, H], in q's dtype; 0 where a query sees nothing.
  """
  if implementation is None:
    implementation = _implementation(schedule, q.shape[1])
  local = functools.partial(implementation, soft_cap=soft_cap)
  places = attention.places_of(rows)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(places, schedule, q, k, v)
  heads = sharding.fitted(mesh, k.shape, "rows", "length", "kv_heads", None)
  own_rows = PartitionSpec(*heads[:1])
  return jax.shard_map(
    local,
    in_specs=(own_rows, own_rows, heads, heads, heads),
    out_specs=heads,
    check_vma=False,  # a Pallas call does not say what its outputs vary over
  )(places, schedule, q, k, v)


def for_layers(config, rows):
  """Returns the attention of a decoder's layers over these rows.

  Args:
    config: TransformerConfig.
    rows: as in `make_schedule`.

  Returns:
    attend(q, k, v, window) -> out, where window is an index of config.windows,
    int []; and the pairs of tokens that its blocks hold in a layer, float [],
    the mean of all layers.
  """
  schedules = [make_schedule(rows, window=w) for w in config.windows]
  branches = [
    functools.partial(attend, rows, s, soft_cap=config.attention_soft_cap)
    for s in schedules
  ]

  def attend_layer(q, k, v, window):
    if len(branches) == 1:
      return branches[0](q, k, v)
    return jax.lax.switch(window, branches, q, k, v)

  layers = [kind.window for kind in config.kinds]
  pairs = sum(
    num_pairs(schedule) * (layers.count(window) / len(layers))
    for window, schedule in zip(config.windows, schedules)
  )
  return attend_layer, pairs


def _implementation(schedule, length):
  if backends.in_force().has_attention_kernel:
    return attention_kernel.tree_flash_attention
  if length <= min(schedule.block_q, schedule.block_kv):
    return _one_block
  return attention_xla.tree_block_attention


def _one_block(places: attention.Places, schedule, q, k, v, *, soft_cap):
  """Nothing to skip, and a third of the loop's time to compile."""
  mask = attention.visible(*places, window=schedule.window)
  return attention.dense_attention(q, k, v, mask, soft_cap)


def num_pairs(schedule):
  """Returns how many pairs of tokens the blocks hold, all rows: float []."""
  visits = jnp.sum(schedule.by_query.count).astype(jnp.float32)
  return visits * schedule.block_q * schedule.block_kv
