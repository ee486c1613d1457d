"""The device mesh."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from prefixrl_jax.distributed.mesh_shape import MESH_AXES, mesh_shape


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
    UserError: the sizes do not fit the devices; see `mesh_shape`.
  """
  devices = jax.devices() if devices is None else devices
  shape = mesh_shape(
    len(devices),
    data=data,
    fsdp=fsdp,
    tensor=tensor,
    expert=expert,
    slices=num_slices(devices),
  )
  return jax.sharding.Mesh(arranged(devices, shape), MESH_AXES)


def arranged(devices: Sequence[Any], shape: Sequence[int]) -> np.ndarray:
  """Returns devices in a mesh's shape, neighbours in it near each other.

  Chips of a TPU slice are placed by its torus. Slices divide the data axis:
  what crosses their slower network is then a sum of gradients.

  Args:
    devices: as many as there are places.
    shape: of data, fsdp, tensor and expert.
  """
  if devices[0].platform != "tpu" or len(devices) == 1:
    return np.asarray(devices).reshape(shape)
  data, *rest = shape
  slices = num_slices(devices)
  if slices > 1:
    return mesh_utils.create_hybrid_device_mesh(
      (data // slices, *rest),
      (slices, 1, 1, 1),
      devices,
      allow_split_physical_axes=True,
    )
  return mesh_utils.create_device_mesh(
    shape, devices, allow_split_physical_axes=True
  )


def num_slices(devices: Iterable[Any]) -> int:
  """Returns how many slices devices are of; 1 for all but TPUs.

  Args:
    devices: of the mesh.
  """
  # JAX says slice_index of GPUs, too, and means their nodes.
  tpus = [d for d in devices if d.platform == "tpu"]
  return len({getattr(d, "slice_index", 0) for d in tpus}) or 1
