"""One table: logical axis -> mesh axes. Nothing else names a mesh axis."""

import functools
import math
from collections.abc import Iterator

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS_RULES = {
  # parameters
  "layers": None,
  "embed": "fsdp",
  "heads": "tensor",
  "kv_heads": "tensor",
  "head_dim": None,
  "mlp": "tensor",
  "experts": "expert",
  "vocab": "tensor",
  # activations
  "rows": ("data", "fsdp", "expert"),
  "lanes": None,
  "length": None,
  "residual": "tensor",  # length, in operations that treat all tokens alike
  "tokens": ("data", "fsdp", "expert", "tensor"),  # rows and residual, as one
  "features": None,
  "routes": None,
}


def spec(*logical_axes: str | None) -> PartitionSpec:
  """Returns the partition of an array whose axes have these names."""
  return PartitionSpec(*(AXIS_RULES[a] if a else None for a in logical_axes))


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
  """Shards an activation as the table says, on the current mesh, if any.

  Args:
    x: of any shape.
    *logical_axes: see `fitted`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(
    x, fitted(mesh, x.shape, *logical_axes)
  )


def fitted(mesh, shape, *logical_axes: str | None) -> PartitionSpec:
  """Returns the partition of an array of this shape.

  Axes that the mesh does not divide are not sharded (e.g. 3 kv heads over 2).

  Args:
    mesh: the devices, or an abstract mesh.
    shape: of the whole array.
    *logical_axes: a key of AXIS_RULES or None for each of its first axes; the
      others are not sharded.
  """

  def size(axes):
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)

  partition = spec(*logical_axes)
  padded = tuple(partition) + (None,) * (len(shape) - len(partition))
  return PartitionSpec(
    *(a if n % size(a) == 0 else None for a, n in zip(padded, shape))
  )


def sharding(mesh: Mesh, shape, *logical_axes) -> NamedSharding:
  """Returns how an array of this shape and these logical axes is sharded."""
  return NamedSharding(mesh, fitted(mesh, shape, *logical_axes))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding that replicates an array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def tree_shardings(mesh: Mesh, boxed):
  """Returns shardings for a tree of `nn.Partitioned` shapes (eval_shape)."""

  def one(x):
    if is_boxed(x):
      return sharding(mesh, x.value.shape, *x.names)
    return replicated(mesh)

  return jax.tree.map(one, boxed, is_leaf=is_boxed)


def unbox(boxed):
  """Returns the tree without its axis names, which are not mesh axes."""
  return jax.tree.map(
    lambda x: x.value if is_boxed(x) else x, boxed, is_leaf=is_boxed
  )


def is_boxed(x) -> bool:
  """Returns whether a leaf has names for its axes."""
  return isinstance(x, nn.Partitioned)


def num_row_shards(mesh) -> int:
  """Returns into how many shards the mesh, if there is one, divides rows."""
  return math.prod(mesh.shape.get(axis, 1) for axis in AXIS_RULES["rows"] or ())


def shares_lengths_out(shape) -> bool:
  """Returns whether devices share rows' lengths out beside the rows.

  Args:
    shape: of an array [rows, length, ...] on the mesh that is set, if any.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or shape[0] % num_row_shards(mesh):
    return False
  parts = mesh.shape["tensor"]
  return parts > 1 and shape[1] % parts == 0


def rows_sharding(mesh: Mesh, shape, axis: int) -> NamedSharding:
  """Returns the sharding of an array whose rows, if any, are on `axis`."""
  names: list[str | None] = [None] * len(shape)
  if len(shape) > axis:
    names[axis] = "rows"
  return sharding(mesh, shape, *names)


def put(x, where: NamedSharding):
  """Puts a host array on the mesh, each process its own devices' shards.

  Args:
    x: a numpy array, the same on all processes; or an array of JAX's.
    where: how it is sharded.
  """
  if where.is_fully_addressable:
    return jax.device_put(x, where)
  # (device_put would have all processes compare their copies on all devices.)
  host = np.asarray(x)
  return jax.make_array_from_callback(host.shape, where, lambda at: host[at])


def abstract_rows(mesh: Mesh, tree, axis: int = 0):
  """Returns the shapes, with shardings, of what `put_rows` makes.

  Args:
    mesh: the devices, which may be absent.
    tree, axis: see `put_rows`.
  """
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=rows_sharding(mesh, x.shape, axis)
    ),
    tree,
  )


def put_rows(mesh: Mesh, tree, axis: int = 0):
  """Puts host arrays on the mesh, sharded over rows along `axis`.

  Args:
    mesh: the devices.
    tree: of numpy arrays [..., rows, ...]; those without such an axis are
      replicated.
    axis: the axis of the rows.
  """
  return jax.tree.map(
    lambda x: put(x, rows_sharding(mesh, x.shape, axis)), tree
  )


def fetched(x, block_bytes: int = 1 << 28) -> Iterator[np.ndarray]:
  """Yields an array's values on every process, in blocks of its first axis.

  All processes take part. An array whose values are all here is one block.

  Args:
    x: of numpy or JAX.
    block_bytes: of a block, which every device has for a moment; a row of the
      first axis is the smallest.
  """
  if not isinstance(x, jax.Array) or x.is_fully_addressable:
    yield np.asarray(x)
    return
  rows = x.shape[0] if x.ndim else 1
  size = max(1, min(rows, rows * block_bytes // max(x.nbytes, 1)))
  assert isinstance(x.sharding, NamedSharding)
  assert isinstance(x.sharding.mesh, Mesh)
  whole = replicated(x.sharding.mesh)
  for start in range(0, rows, size):
    block = _whole(x, np.int32(start), min(size, rows - start), whole)
    yield np.asarray(block.addressable_data(0))


@functools.partial(jax.jit, static_argnames=("size", "whole"))
def _whole(x, start, size, whole):
  if x.ndim:
    x = jax.lax.dynamic_slice_in_dim(x, start, size)
  return jax.lax.with_sharding_constraint(x, whole)


def fetch(x) -> np.ndarray:
  """Returns an array's values, on every process; all of them take part."""
  return np.concatenate(list(fetched(x))) if np.ndim(x) else next(fetched(x))
