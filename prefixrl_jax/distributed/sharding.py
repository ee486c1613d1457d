"""One table: logical axis -> mesh axes. Nothing else names a mesh axis."""

import math

import flax.linen as nn
import jax
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


def rows_sharding(mesh: Mesh, shape, axis: int) -> NamedSharding:
  """Returns the sharding of an array whose rows, if any, are on `axis`."""
  names: list[str | None] = [None] * len(shape)
  if len(shape) > axis:
    names[axis] = "rows"
  return sharding(mesh, shape, *names)


def put_rows(mesh: Mesh, tree, axis: int = 0):
  """Puts host arrays on the mesh, sharded over rows along `axis`.

  Args:
    mesh: the devices.
    tree: of numpy arrays [..., rows, ...]; those without such an axis are
      replicated.
    axis: the axis of the rows.
  """
  return jax.tree.map(
    lambda x: jax.device_put(x, rows_sharding(mesh, x.shape, axis)), tree
  )
