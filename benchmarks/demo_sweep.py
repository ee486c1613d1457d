"""Tunes every arm of the demo, and varies how hard its problems are.

  python -m benchmarks.demo_sweep --arms=rl,prefixrl --learning_rates=1e-4,3e-4
  python -m benchmarks.demo_sweep --arms=sft_rl --sft_epochs=1,4,16
  python -m benchmarks.demo_sweep --num_blocks=4,5,6,7 --learning_rates=

Every combination is trained on the same problems, traces and budget, seed by
seed; runs that are complete are not run again. Prints a table of no-prefix
accuracy at the end of the budget and appends each row to rows.jsonl.
"""

import itertools
import json
import shutil

import numpy as np
from absl import app, flags, logging
from etils import epath

from configs import demo
from prefixrl_jax.artifacts import read_json
from prefixrl_jax.pipeline import Pipeline

_ARMS = flags.DEFINE_list("arms", ["rl", "sft_rl", "prefixrl"], "Arms.")
_RATES = flags.DEFINE_list(
  "learning_rates", [], "Learning rates; empty: the arm's own."
)
_EPOCHS = flags.DEFINE_list(
  "sft_epochs", [], "Epochs of SFT; empty: the arm's own."
)
_SFT_RATES = flags.DEFINE_list(
  "sft_learning_rates", [], "Learning rates of SFT; empty: the config's."
)
_BLOCKS = flags.DEFINE_list("num_blocks", [], "Hardness; empty: the demo's.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds.")
_FLOPS = flags.DEFINE_float("flops", 0, "Budget; 0: the demo's.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/sweep", "Where runs are kept.")


def _run(arm, rate, epochs, sft_rate, blocks, seed) -> dict:
  config = demo.get_config(f"arms={arm}")
  config.seeds = (int(seed),)
  if rate:
    config.arms[arm].learning_rate = float(rate)
  if epochs:
    config.arms[arm].sft_epochs = int(epochs)
  if sft_rate:
    config.sft.learning_rate = float(sft_rate)
  if blocks:
    config.problems.num_blocks = int(blocks)
  if _FLOPS.value:
    config.train.flops = _FLOPS.value
  root = epath.Path(_WORKDIR.value)
  blocks = config.problems.num_blocks
  data = root / f"blocks_{blocks}"
  Pipeline(config, data, fresh=False).run(("screen", "collect", "cut"))
  name = (
    f"{arm}_lr{config.arms[arm].learning_rate:g}"
    f"_epochs{config.arms[arm].sft_epochs}_sft{config.sft.learning_rate:g}"
    f"_flops{config.train.flops:g}_blocks{blocks}"
  )
  workdir = root / name
  shared = workdir / "data" / f"seed_{seed}"
  if not shared.exists():
    shutil.copytree(data / "data" / f"seed_{seed}", shared)
  Pipeline(config, workdir, fresh=False).run(("train",))
  curve = read_json(workdir / f"train/{arm}/seed_{seed}/curve.json")
  return {
    "arm": arm,
    "learning_rate": config.arms[arm].learning_rate,
    "sft_epochs": config.arms[arm].sft_epochs,
    "sft_learning_rate": config.sft.learning_rate,
    "num_blocks": blocks,
    "flops": config.train.flops,
    "seed": int(seed),
    "train": [round(p["accuracy"]["train"], 3) for p in curve],
    "heldout": [round(p["accuracy"]["heldout"], 3) for p in curve],
  }


def _table(rows: list[dict]) -> str:
  """One line a setting: mean and spread over seeds of the last two points."""
  keys = (
    "arm",
    "learning_rate",
    "sft_epochs",
    "sft_learning_rate",
    "num_blocks",
  )
  settings: dict[tuple, list[dict]] = {}
  for row in rows:
    settings.setdefault(tuple(row[k] for k in keys), []).append(row)
  lines = [
    "| " + " | ".join((*keys, "seeds", "held-out", "training")) + " |",
    "|" + "---|" * (len(keys) + 3),
  ]
  for setting, some in settings.items():
    cells = [str(v) for v in setting] + [str(len(some))]
    for split in ("heldout", "train"):
      final = [float(np.mean(row[split][-2:])) for row in some]
      cells.append(
        f"{np.mean(final):.3f} ({min(final):.3f} to {max(final):.3f})"
      )
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def main(argv) -> None:
  """Runs every combination and prints the table."""
  del argv
  logging.set_verbosity(logging.WARNING)
  rows = []
  root = epath.Path(_WORKDIR.value)
  root.mkdir(parents=True, exist_ok=True)
  for seed, blocks, arm in itertools.product(
    _SEEDS.value, _BLOCKS.value or [""], _ARMS.value
  ):
    sft = demo.get_config().arms[arm].sft_epochs > 0
    for rate, epochs, sft_rate in itertools.product(
      _RATES.value or [""],
      (_EPOCHS.value if sft else []) or [""],
      (_SFT_RATES.value if sft else []) or [""],
    ):
      rows.append(_run(arm, rate, epochs, sft_rate, blocks, seed))
      print(json.dumps(rows[-1]), flush=True)
      with (root / "rows.jsonl").open("a") as f:
        f.write(json.dumps(rows[-1]) + "\n")
  print(_table(rows))


if __name__ == "__main__":
  app.run(main)
