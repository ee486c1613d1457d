"""Chips and slices: how many hosts, and what each provider calls them.

Sources: Google, "Plan TPUs in GKE" and "Cloud TPU configurations" of v5e, v5p
and v6e (hosts and chips a host are of virtual machines, each of which runs one
process); the tables of xpk 1.16 (`core/system_characteristics.py`) and
SkyPilot 0.14.
"""

import dataclasses
import math

from prefixrl_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of accelerator.

  Attributes:
    extra: of the project, that installs its JAX.
    topologies: to chips a host; empty for GPUs, which are counted.
    cloud: its name as a Cloud TPU's type, before the number of cores.
    cores: of a chip, as that number counts them.
    runtime: version of a Cloud TPU's software.
    gke: its name as a node's label.
    sky: its name in SkyPilot, before the number of cores if it is a TPU.
  """

  extra: str
  topologies: dict[str, int] = dataclasses.field(default_factory=dict)
  cloud: str = ""
  cores: int = 1
  runtime: str = ""
  gke: str = ""
  sky: str = ""


# v5e and v6e: eight chips in one host, or many hosts of four.
_FLAT = {"1x1": 1, "2x2": 4, "2x4": 8} | dict.fromkeys(
  ("4x4", "4x8", "8x8", "8x16", "16x16"), 4
)
_CUBES = dict.fromkeys(
  (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    *("8x8x12", "8x8x16", "8x16x16", "16x16x16"),
  ),
  4,
)
_GPUS_A_HOST = 8

CHIPS = {
  "v5e": Chip(
    extra="tpu",
    topologies=_FLAT,
    cloud="v5litepod",
    runtime="v2-alpha-tpuv5-lite",
    gke="tpu-v5-lite-podslice",
    sky="tpu-v5litepod",
  ),
  "v5p": Chip(
    extra="tpu",
    topologies=_CUBES,
    cloud="v5p",
    cores=2,
    runtime="v2-alpha-tpuv5",
    gke="tpu-v5p-slice",
    sky="tpu-v5p",
  ),
  "v6e": Chip(
    extra="tpu",
    topologies=_FLAT,
    cloud="v6e",
    runtime="v2-alpha-tpuv6e",
    gke="tpu-v6e-slice",
    sky="tpu-v6e",
  ),
  "a100": Chip(extra="cuda12", sky="A100-80GB"),
  "h100": Chip(extra="cuda12", sky="H100"),
  "h200": Chip(extra="cuda12", sky="H200"),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips that one run has.

  Attributes:
    name: of the kind, a key of CHIPS.
    topology: of a TPU's slice; empty for GPUs.
    chips: in all.
    hosts: that they are in, one process each.
  """

  name: str
  topology: str
  chips: int
  hosts: int

  @property
  def chip(self) -> Chip:
    """The kind."""
    return CHIPS[self.name]

  @property
  def chips_a_host(self) -> int:
    """In each host."""
    return self.chips // self.hosts

  @property
  def cores(self) -> int:
    """As a Cloud TPU's type counts them."""
    return self.chips * self.chip.cores


def parse(text: str) -> Slice:
  """Returns the slice that a flag names.

  Args:
    text: CHIP:TOPOLOGY for a TPU, CHIP:COUNT for GPUs.

  Raises:
    UserError: there is no such chip or slice; says which there are.
  """
  name, _, size = text.partition(":")
  if name not in CHIPS:
    raise UserError(
      f"--slice={text}: there is no chip {name!r}; known:"
      f" {', '.join(CHIPS)}, e.g. v5e:2x4 or h100:8."
    )
  topologies = CHIPS[name].topologies
  if not topologies:
    count = int(size) if size.isascii() and size.isdigit() else 0
    if not count or (count > _GPUS_A_HOST and count % _GPUS_A_HOST):
      raise UserError(
        f"--slice={text}: {name} needs a number of GPUs, 1 to {_GPUS_A_HOST}"
        f" or a multiple of {_GPUS_A_HOST}, e.g. {name}:{_GPUS_A_HOST}."
      )
    return Slice(name, "", count, max(1, count // _GPUS_A_HOST))
  if size not in topologies:
    raise UserError(
      f"--slice={text}: {name} has no slice {size!r}; it has"
      f" {', '.join(topologies)}."
    )
  chips = math.prod(map(int, size.split("x")))
  return Slice(name, size, chips, chips // topologies[size])
