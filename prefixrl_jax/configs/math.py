"""Real models on real math problems.

  python -m prefixrl_jax.main --config=configs/math.py \
      --config.model.folder=MODEL --config.problems.file=PROBLEMS.jsonl

MODEL is a Hugging Face folder of a known family. PROBLEMS has one
JSON object a line, with fields `problem` and `answer` (names are config).
`:task=gsm8k` and others (docs/tasks.md) know their fields and files on the hub.
`:trial=true` shrinks everything to what a CPU does in a quarter of an hour.
"""

import ml_collections

from prefixrl_jax.configs import tasks


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; tasks.py has the argument and all fields."""
  return tasks.get_config(
    arg,
    task="jsonl",
    instruction=(
      "\n\nPlease reason step by step, and put your final answer within"
      " \\boxed{}."
    ),
    sets=("aime2024", "aime2025", "hmmt2025", "math500"),
    trial=dict(instruction="\n\nAnswer briefly, in one or two sentences."),
  )
