"""The memory plan of every preset, reckoned from the models' config.json.

  python -m benchmarks.memory_plans

Nothing is loaded or compiled, and the devices need not be here.
"""

from typing import Any

import jax

from benchmarks import measuring
from prefixrl_jax.configs import math as math_config
from prefixrl_jax.configs.models import PRESETS
from prefixrl_jax.configs.shapes import SHAPES
from prefixrl_jax.distributed.mesh import MESH_AXES
from prefixrl_jax.models import families, parameters
from prefixrl_jax.models.decoder_config import TransformerConfig
from prefixrl_jax.run import memory_plan

_JSON = measuring.define_json()


def planned(name: str) -> tuple[TransformerConfig, int, dict[str, float]]:
  """Settles a preset on its machine.

  Returns:
    The model with its remat, rows a micro-batch, and bytes a device by what
    they are.
  """
  config = math_config.get_config(f"model={name}")
  preset = PRESETS[name]
  fsdp = preset.devices // (preset.tensor * preset.expert)
  platform = "tpu" if "TPU" in preset.machine else "gpu"
  mesh: Any = jax.sharding.AbstractMesh(
    (1, fsdp, preset.tensor, preset.expert),
    MESH_AXES,
    abstract_device=jax.sharding.AbstractDevice(
      device_kind=preset.machine, num_cores=None, platform=platform
    ),
  )
  model = TransformerConfig(
    **families.config_fields(SHAPES[preset.folder], name),
    dtype=config.model.dtype,
    param_dtype=config.model.param_dtype,
    remat=config.model.remat,
  )
  model, rows = memory_plan.fit(
    config,
    model,
    mesh,
    lambda _: None,
    device_bytes=preset.device_gigabytes * 1e9,
  )
  return model, rows, memory_plan.plan(config, model, mesh, rows)


def main() -> None:
  """Prints the table."""
  table = []
  for name, preset in PRESETS.items():
    model, rows, plan = planned(name)
    gigabytes = lambda *parts, plan=plan: (
      f"{sum(map(plan.get, parts)) / 1e9:.2f}"
    )
    table.append(
      {
        "model": name,
        "parameters, billions": parameters.num_params(model) / 1e9,
        "machine": preset.machine,
        "fsdp x tensor x expert": (
          f"{preset.devices // preset.tensor // preset.expert}"
          f" x {preset.tensor} x {preset.expert}"
        ),
        "prompt, completion, row": ", ".join(map(str, preset.lengths)),
        "remat": model.remat,
        "rows a micro-batch": rows,
        "parameters": gigabytes("parameters", "base policy"),
        "sampler": gigabytes("sampler's parameters", "kv caches"),
        "optimizer": gigabytes("optimizer"),
        "gradients": gigabytes("gradients"),
        "activations": gigabytes("activations", "logits"),
        "all, GB": sum(plan.values()) / 1e9,
        "of": preset.device_gigabytes,
      }
    )
  measuring.show("GB a device, as planned", table, _JSON.value, timed=False)


if __name__ == "__main__":
  measuring.run(main)
