"""Presets of configs/math.py: models, and settings for their usual machines.

`--config=configs/math.py:model=NAME`. Lengths are what fits, in the order
prompt, completion, packed row; benchmarks/memory_plans.py prints what each
needs. Every setting can be changed on the command line.
"""

import dataclasses

import ml_collections

from prefixrl_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Preset:
  """A model on a machine.

  Attributes:
    folder: of the model, a hub id.
    machine: that the settings are for.
    devices: that it has.
    device_gigabytes: memory of each, in 1e9 bytes, less a twentieth that the
      runtime keeps for itself.
    tensor, expert: devices that share a layer, the experts; the others are
      fsdp.
    lengths: tokens of prompt, completion and packed row.
    rows, lanes: of the sampler.
    train_rows: of training's, which has as many lanes as a prompt has
      completions; 0: all of a step's prompts.
    prompts_per_step: of training.
    param_dtype: of the parameters.
  """

  folder: str
  machine: str
  devices: int
  device_gigabytes: float
  lengths: tuple[int, int, int]
  rows: int
  lanes: int
  train_rows: int
  prompts_per_step: int
  tensor: int = 1
  expert: int = 1
  param_dtype: str = "float32"


PRESETS = {
  "smollm2_135m": Preset(
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "one TPU v5e (Colab)",
    1,
    16,
    (512, 1024, 4096),
    rows=8,  # heads of 64: a cache fills its tiles by three eighths
    lanes=16,
    train_rows=16,
    prompts_per_step=32,
  ),
  "qwen3_0_6b": Preset(
    "Qwen/Qwen3-0.6B",
    "four TPU v5e",
    4,
    16,
    (1024, 3072, 8192),
    tensor=4,
    rows=8,
    lanes=8,
    train_rows=8,
    prompts_per_step=16,
  ),
  "qwen25_1_5b": Preset(
    "Qwen/Qwen2.5-1.5B-Instruct",
    "one H100 of 80 GB",
    1,
    76,
    (1024, 4096, 8192),
    rows=16,
    lanes=8,
    train_rows=16,
    prompts_per_step=32,
  ),
  "qwen3_4b": Preset(
    "Qwen/Qwen3-4B",
    "16 TPU v5e",
    16,
    16,
    (1024, 8192, 17408),
    tensor=8,
    rows=4,
    lanes=8,
    train_rows=8,
    prompts_per_step=32,
  ),
  "llama31_8b": Preset(
    "meta-llama/Llama-3.1-8B-Instruct",
    "64 TPU v5e",
    64,
    16,
    (1024, 16384, 36864),
    tensor=8,
    rows=16,
    lanes=8,
    train_rows=16,
    prompts_per_step=128,
  ),
  # Its text part, saved by itself: the hub's folder also has a vision tower.
  "gemma3_4b": Preset(
    "google/gemma-3-4b-it",
    "16 TPU v5e",
    16,
    16,
    (1024, 4096, 16384),
    tensor=4,
    rows=8,
    lanes=8,
    train_rows=16,
    prompts_per_step=32,
  ),
  "qwen3_30b_a3b": Preset(
    "Qwen/Qwen3-30B-A3B",
    "256 TPU v5e",
    256,
    16,
    (1024, 3072, 7168),
    tensor=4,
    expert=8,
    rows=64,
    lanes=8,
    train_rows=0,
    prompts_per_step=128,
  ),
}


def apply(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets what a preset says.

  Raises:
    UserError: there is no preset of that name.
  """
  if name not in PRESETS:
    raise UserError(
      f"--config: there is no model {name!r}; known: {', '.join(PRESETS)}."
    )
  preset = PRESETS[name]
  prompt, completion, row = preset.lengths
  c = config
  c.mesh.update(fsdp=-1, tensor=preset.tensor, expert=preset.expert)
  c.model.update(folder=preset.folder, param_dtype=preset.param_dtype)
  c.rollouts.update(max_prompt_length=prompt, max_completion_length=completion)
  c.learner.update(row_length=row)
  for stage in (c.screen, c.collect, c.evals):
    stage.update(rows=preset.rows, lanes=preset.lanes)
  c.train.update(
    prompts_per_step=preset.prompts_per_step, rows=preset.train_rows
  )
