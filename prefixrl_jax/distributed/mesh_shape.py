"""How many devices each of the mesh's axes has; needs no JAX."""

import math

from prefixrl_jax.types import UserError

MESH_AXES = ("data", "fsdp", "tensor", "expert")


def mesh_shape(
  num_devices: int,
  *,
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  expert: int = 1,
  slices: int = 1,
) -> list[int]:
  """Returns the size of each of MESH_AXES.

  Args:
    num_devices: that there are.
    data: replicas of the parameters; -1, here or of one other axis, is what
      the others leave.
    fsdp: shards of the parameters and the batch.
    tensor: shards of heads, MLP width and vocabulary.
    expert: shards of the experts and the batch.
    slices: that the devices are of.

  Raises:
    UserError: the sizes do not multiply to the number of devices, or the data
      axis is no multiple of the slices.
  """
  shape = [data, fsdp, tensor, expert]
  said = f"config.mesh {dict(zip(MESH_AXES, shape))}"
  if shape.count(-1) > 1 or any(n == 0 or n < -1 for n in shape):
    raise UserError(
      f"{said}: sizes must be positive, and at most one may be -1 (= the rest)."
    )
  if -1 in shape:
    shape[shape.index(-1)] = max(num_devices // -math.prod(shape), 1)
  if math.prod(shape) != num_devices:
    raise UserError(
      f"config.mesh {dict(zip(MESH_AXES, shape))} needs {math.prod(shape)}"
      f" devices; there are {num_devices}."
    )
  if shape[0] % slices:
    raise UserError(
      f"config.mesh.data = {shape[0]} must be a multiple of the {slices}"
      " slices: parameters are not sharded across them."
    )
  return shape
