"""The embedding's look-up in a table of which each device has a part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from prefixrl_jax.distributed import sharding

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Float, Int


def look_up(
  table: Float[Array, "V D"], tokens: Int[Array, "B T"]
) -> Float[Array, "B T D"]:
  """Returns rows of the table.

  On a mesh a device looks its own rows' tokens up in its part of the
  vocabulary, and those of `tensor` add up what they find. It gathers the
  features of that part alone, and of the gradient it is sent its own part:
  left to itself, XLA sums the gradient of all of the table on all devices.

  Args:
    table: sharded as its parameter is.
    tokens: packed rows.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return table[tokens]
  rows, length = sharding.fitted(mesh, tokens.shape, "rows", "residual")
  where = sharding.fitted(mesh, table.shape, "vocab", "embed")
  vocab_axis, width_axis = (
    axis if axis and mesh.shape[axis] > 1 else None for axis in where
  )
  # What is summed over an axis is sent on as its parts, if there are parts.
  scatters = vocab_axis and length == vocab_axis

  def one_device(table, tokens):
    if width_axis:
      table = jax.lax.all_gather(table, width_axis, axis=1, tiled=True)
    if not vocab_axis:
      return table[tokens]
    place = tokens - jax.lax.axis_index(vocab_axis) * table.shape[0]
    is_here = (place >= 0) & (place < table.shape[0])
    found = table[jnp.where(is_here, place, 0)]
    found = jnp.where(is_here[..., None], found, 0)
    if not scatters:
      return jax.lax.psum(found, vocab_axis)
    # With no axis of one row before the tokens': see Transformer.
    found = found[0] if len(tokens) == 1 else found
    parts = jax.lax.psum_scatter(
      found, vocab_axis, scatter_dimension=found.ndim - 2, tiled=True
    )
    return parts.reshape(len(tokens), -1, found.shape[-1])

  return jax.shard_map(
    one_device,
    in_specs=(where, PartitionSpec(rows)),
    out_specs=PartitionSpec(rows, length if scatters else None),
    check_vma=False,
  )(table, tokens)
