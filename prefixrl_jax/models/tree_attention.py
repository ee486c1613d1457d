"""Attention over packed rows of trees: the way that suits the devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.models import (
  attention,
  attention_kernel,
  attention_xla,
  block_map,
)
from prefixrl_jax.rounding import round_up

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Float


def block_schedule(
  rows, *, window: int | None = None
) -> block_map.BlockSchedule:
  """Returns which blocks meet in these rows; every layer needs to know.

  Args:
    rows: TrainBatch without its micro-batch axis, or Places; fields [B, T].
    window: as in `attention.visible`.
  """
  places = attention.places_of(rows)
  block_q, block_kv = _block_sizes(places.tree.shape[1])
  return block_map.make_block_schedule(
    *places, block_q=block_q, block_kv=block_kv, window=window
  )


def _block_sizes(length: int) -> tuple[int, int]:
  length = round_up(length, 8)
  backend = backends.current_backend()
  block_q, block_kv = backend.attention_blocks
  if backend.has_attention_kernel:
    return block_q, block_kv
  return min(block_q, length), min(block_kv, length)


def attend(
  rows,
  schedule: block_map.BlockSchedule,
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K H"],
  *,
  soft_cap: float | None = None,
  implementation: Callable | None = None,
) -> Float[Array, "B T N H"]:
  """Attention under `attention.visible` on the mesh in force, if any.

  Every device computes its own rows and heads; heads that the mesh does not
  divide are computed on all its devices.

  Args:
    rows: as in `block_schedule`.
    schedule: from there.
    q, k, v: queries, keys and values.
    soft_cap: as in `attention.dense_attention`.
    implementation: None: the one for the backend.

  Returns:
    The output, in q's dtype; 0 where a query sees nothing.
  """
  if implementation is None:
    implementation = _implementation(q.shape[1])
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
    rows: as in `block_schedule`.

  Returns:
    attend(q, k, v, window) -> out, with shapes as in `attend` and window an
    index of config.windows, int []; and the pairs of tokens that its blocks
    hold in a layer, float32 [], the mean of all layers.
  """
  schedules = [block_schedule(rows, window=w) for w in config.windows]
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


def trunk_pairs(config, length: int) -> float:
  """Returns the pairs of tokens in the blocks of a row that holds one trunk.

  Args:
    config: TransformerConfig; the mean of its layers is taken.
    length: of the trunk, P.
  """
  block_q, block_kv = _block_sizes(length)
  query = np.arange(0, length, block_q)[:, None]  # the first of each block
  key = np.arange(0, length, block_kv)
  is_earlier = key < query + block_q
  num_blocks = [
    np.sum(
      is_earlier & (query - (key + block_kv - 1) < (kind.window or np.inf))
    )
    for kind in config.kinds
  ]
  return float(np.mean(num_blocks)) * block_q * block_kv


def backward_passes(length: int) -> float:
  """Returns what the backward pass costs, in forward passes.

  Forward, a pair is in two products. Backward it is in four, in one more where
  its score is computed again, and in two more where queries' and keys'
  gradients have a kernel each.

  Args:
    length: of the rows, T.
  """
  if backends.current_backend().has_attention_kernel:
    return 7 / 2
  return 4 / 2 if _is_one_block(length) else 5 / 2


def _implementation(length):
  if backends.current_backend().has_attention_kernel:
    return attention_kernel.tree_flash_attention
  if _is_one_block(length):
    return _one_block
  return attention_xla.tree_block_attention


def _is_one_block(length):
  return length <= min(backends.current_backend().attention_blocks)


def _one_block(places: attention.Places, schedule, q, k, v, *, soft_cap):
  """Nothing to skip, and a third of the loop's time to compile."""
  mask = attention.visible(*places, window=schedule.window)
  return attention.dense_attention(q, k, v, mask, soft_cap)


def num_pairs(schedule: block_map.BlockSchedule) -> Float[Array, ""]:
  """Returns how many pairs of tokens the blocks of all rows hold.

  Args:
    schedule: from `block_schedule`.
  """
  visits = jnp.sum(schedule.by_query.count).astype(jnp.float32)
  return visits * schedule.block_q * schedule.block_kv
