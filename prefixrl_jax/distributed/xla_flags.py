"""What a chip's compiler and runtime are told, each setting with its reason.

Launchers (`launch/`) set them in the environment, before JAX starts. A setting
is here only if its effect was seen in compiled programs of this project, or is
stated by the chip's vendor.
"""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Setting:
  """One of a chip's settings.

  Attributes:
    variable: of the environment; several settings may share it.
    value: that it takes, or a flag that is added to it.
    reason: why, with its source.
  """

  variable: str
  value: str
  reason: str


_NO_WINDOWED_PRODUCTS = Setting(
  "LIBTPU_INIT_ARGS",
  "--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",
  "Products whose weights are gathered over fsdp stay whole: in a loop over"
  " windows, which XLA makes of operands of 256 MiB or more"
  " (spmd_partitioner.h), their partial sums are bf16 and kept in HBM.",
)
_OVERLAP = Setting(
  "XLA_FLAGS",
  "--xla_gpu_enable_latency_hiding_scheduler=true",
  "Collectives run while kernels compute (JAX, GPU performance tips; part of"
  " NVIDIA's JAX images).",
)
_MEMORY = Setting(
  "XLA_PYTHON_CLIENT_MEM_FRACTION",
  ".9",
  "JAX takes 75 % of a GPU's memory by default; no other process shares it,"
  " and NVIDIA's libraries need some (NVIDIA, tips for LLMs with JAX: .8 to"
  " .9).",
)

_TPU = (_NO_WINDOWED_PRODUCTS,)
_GPU = (_OVERLAP, _MEMORY)

SETTINGS: dict[str, tuple[Setting, ...]] = {
  "v5e": _TPU,
  "v5p": _TPU,
  "v6e": _TPU,
  "a100": _GPU,
  "h100": _GPU,
  "h200": _GPU,
}


def environment(settings: Iterable[Setting]) -> dict[str, str]:
  """Returns variables and values; flags of one variable are joined.

  Args:
    settings: of a chip, a row of SETTINGS.
  """
  variables: dict[str, str] = {}
  for setting in settings:
    said = variables.get(setting.variable)
    value = f"{said} {setting.value}" if said else setting.value
    variables[setting.variable] = value
  return variables
