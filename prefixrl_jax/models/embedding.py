"""The embedding's look-up in a table of which each device has a part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from prefixrl_jax.distributed import sharding
from prefixrl_jax.models.linear import rows_of

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Float, Int


def look_up(
  table: Float[Array, "V D"],
  tokens: Int[Array, "*B"],
  axes: tuple[str, ...],
) -> Float[Array, "*B D"]:
  """Returns rows of the table.

  On a mesh a device looks its own rows' tokens up in its part of the
  vocabulary, and those of `tensor` add up what they find. It gathers the
  features of that part alone, and of the gradient it is sent its own part:
  left to itself, XLA sums the gradient of all of the table on all devices.

  Args:
    table: sharded as its parameter is.
    tokens: packed rows, or the tokens of all rows as one axis.
    axes: logical axes of what is returned.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return table[tokens]
  parts = sharding.fitted(mesh, tokens.shape, *axes[:-1])
  whole = sharding.fitted(mesh, tokens.shape, *rows_of(axes))
  where = sharding.fitted(mesh, table.shape, "vocab", "embed")
  vocab_axis, width_axis = (
    axis if axis and mesh.shape[axis] > 1 else None for axis in where
  )
  # What is summed over an axis is sent on as its parts, if there are parts.
  scatters = vocab_axis and parts != whole

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
    last = tokens.ndim - 1
    return jax.lax.psum_scatter(
      found, vocab_axis, scatter_dimension=last, tiled=True
    )

  return jax.shard_map(
    one_device,
    in_specs=(where, whole),
    out_specs=parts if scatters else whole,
    check_vma=False,
  )(table, tokens)
