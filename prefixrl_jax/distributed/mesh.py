"""The device mesh."""

import math

import jax
import numpy as np

from prefixrl_jax.types import UserError

MESH_AXES = ("data", "fsdp", "tensor", "expert")


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  expert: int = 1,
  devices=None,
) -> jax.sharding.Mesh:
  """Returns a mesh with axes data, fsdp, tensor and expert.

  Args:
    data: replicas of the parameters; -1 takes the remaining devices.
    fsdp: shards of the parameters and the batch.
    tensor: shards of heads, MLP width and vocabulary.
    expert: shards of the experts and the batch.
    devices: defaults to all.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = [data, fsdp, tensor, expert]
  if shape.count(-1) > 1 or any(n == 0 or n < -1 for n in shape):
    raise UserError(
      f"config.mesh {dict(zip(MESH_AXES, shape))}: sizes must be positive, and"
      " at most one may be -1 (= the rest)."
    )
  if -1 in shape:
    shape[shape.index(-1)] = max(len(devices) // -math.prod(shape), 1)
  if math.prod(shape) != len(devices):
    raise UserError(
      f"config.mesh {dict(zip(MESH_AXES, shape))} needs {math.prod(shape)}"
      f" devices; there are {len(devices)}."
    )
  return jax.sharding.Mesh(np.asarray(devices).reshape(shape), MESH_AXES)
