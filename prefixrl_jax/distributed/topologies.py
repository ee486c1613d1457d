"""Devices that are not here, for libtpu's compiler, which needs no TPU."""

import importlib.util
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from prefixrl_jax.distributed import xla_flags
from prefixrl_jax.distributed.chips import CHIPS
from prefixrl_jax.types import UserError

# Of which the compiler is asked what it knows.
_SHAPES = (
  *("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
  *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
)


def absent_devices(topology: str) -> list[jax.Device]:
  """Returns the devices of a TPU slice, to compile for.

  The chip's settings are those that launchers give a run (`xla_flags`).

  Args:
    topology: CHIP:SHAPE, as v5e:16x16; NxCHIP:SHAPE, as 2xv5e:16x16, are
      several slices.

  Raises:
    UserError: libtpu is missing, or does not know such a slice; says which it
      knows.
  """
  if not importlib.util.find_spec("libtpu"):
    raise UserError(
      f"--topology={topology} needs libtpu, whose compiler needs no TPU: pip"
      " install 'prefixrl_jax[tpu]'."
    )
  name = _parsed(topology)[1].partition(":")[0]
  for variable, value in (
    # It would look for a TPU, and print that it finds none.
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),  # no device is held
    ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    *xla_flags.environment(xla_flags.SETTINGS.get(name, ())).items(),
  ):
    os.environ.setdefault(variable, value)
  try:
    return _devices(topology)
  except jax.errors.JaxRuntimeError:
    known = _known()
    if not known:  # it is not the slice that is wrong
      raise
    raise UserError(
      f"--topology={topology}: the compiler knows no such slice; it knows"
      f" {known}, and others of these chips."
    ) from None


def _parsed(topology: str) -> tuple[int, str]:
  """Returns how many slices there are, and what one is."""
  several = re.fullmatch(r"([1-9]\d*)x(\D.*)", topology)
  return (int(several[1]), several[2]) if several else (1, topology)


def _devices(topology: str) -> list[jax.Device]:
  num_slices, one = _parsed(topology)
  how: dict[str, Any] = {"num_slices": num_slices} if num_slices > 1 else {}
  # A host has four chips or more, or is a machine with one.
  if re.fullmatch(r"\w+:1x1(x1)?", one):
    how["chips_per_host_bounds"] = (1, 1, 1)
  found = topologies.get_topology_desc(platform="tpu", topology_name=one, **how)
  return list(found.devices)


def _known() -> str:
  """Returns the slices that the compiler knows, chip by chip."""
  known = []
  for name in CHIPS:
    rank = 3 if name.endswith("p") else 2  # p: its links are a torus in space
    shapes = [s for s in _SHAPES if s.count("x") == rank - 1]
    taken = [s for s in shapes if _is_known(f"{name}:{s}")]
    if taken:
      known.append(f"{name}:{','.join(taken)}")
  return " ".join(known)


def _is_known(topology: str) -> bool:
  try:
    return bool(_devices(topology))
  except jax.errors.JaxRuntimeError:
    return False
