"""The memory plan of every preset, reckoned from the models' config.json.

  python -m benchmarks.memory_plans

Nothing is loaded or compiled, and the devices need not be here.
"""

from typing import Any

import jax
from absl import flags

from benchmarks import measuring
from prefixrl_jax.configs import math as math_config
from prefixrl_jax.configs.models import PRESETS
from prefixrl_jax.distributed.mesh import MESH_AXES
from prefixrl_jax.models import families, parameters
from prefixrl_jax.models.decoder_config import TransformerConfig
from prefixrl_jax.run import memory_plan

_JSON = flags.DEFINE_string("json", "", "File for the figures.")


def _config_json(model_type, layers, width, heads, kv, mlp, vocab, **others):
  """What the models' own config.json say of their shapes."""
  return dict(
    model_type=model_type,
    num_hidden_layers=layers,
    hidden_size=width,
    num_attention_heads=heads,
    num_key_value_heads=kv,
    intermediate_size=mlp,
    vocab_size=vocab,
    hidden_act="silu",
    rms_norm_eps=1e-6,
  ) | dict(others)


_QWEN3 = dict(
  head_dim=128, rope_theta=1e6, tie_word_embeddings=True, sliding_window=None
)
SHAPES = {
  "smollm2_135m": _config_json(
    "llama", 30, 576, 9, 3, 1536, 49_152, tie_word_embeddings=True
  ),
  "qwen3_0_6b": _config_json("qwen3", 28, 1024, 16, 8, 3072, 151_936, **_QWEN3),
  "qwen25_1_5b": _config_json(
    "qwen2",
    28,
    1536,
    12,
    2,
    8960,
    151_936,
    rope_theta=1e6,
    tie_word_embeddings=True,
    sliding_window=None,
  ),
  "qwen3_4b": _config_json("qwen3", 36, 2560, 32, 8, 9728, 151_936, **_QWEN3),
  "llama31_8b": _config_json(
    "llama",
    32,
    4096,
    32,
    8,
    14_336,
    128_256,
    rope_theta=5e5,
    rope_scaling=dict(
      rope_type="llama3",
      factor=8.0,
      low_freq_factor=1.0,
      high_freq_factor=4.0,
      original_max_position_embeddings=8192,
    ),
  ),
  "gemma3_4b": _config_json(
    "gemma3_text",
    34,
    2560,
    8,
    4,
    10_240,
    262_208,
    head_dim=256,
    query_pre_attn_scalar=256,
    sliding_window=1024,
    rope_theta=1e6,
    rope_local_base_freq=1e4,
    rope_scaling=dict(rope_type="linear", factor=8.0),
    hidden_activation="gelu_pytorch_tanh",
  ),
  "qwen3_30b_a3b": _config_json(
    "qwen3_moe",
    48,
    2048,
    32,
    4,
    6144,
    151_936,
    **(_QWEN3 | dict(tie_word_embeddings=False)),
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=768,
    norm_topk_prob=True,
    decoder_sparse_step=1,
    mlp_only_layers=[],
  ),
}


def planned(name: str) -> tuple[TransformerConfig, int, dict[str, float]]:
  """Settles a preset on its machine.

  Returns:
    The model with its remat, rows a micro-batch, and bytes a device by what
    they are.
  """
  config = math_config.get_config(f"model={name}")
  preset = PRESETS[name]
  fsdp = preset.devices // (preset.tensor * preset.expert)
  mesh: Any = jax.sharding.AbstractMesh(
    (1, fsdp, preset.tensor, preset.expert), MESH_AXES
  )
  model = TransformerConfig(
    **families.config_fields(SHAPES[name], name),
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
