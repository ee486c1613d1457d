"""Tunes every arm of the demo, and varies how hard its problems are.

  python -m benchmarks.demo_sweep --arms=rl,prefixrl --learning_rates=1e-4,3e-4
  python -m benchmarks.demo_sweep --arms=sft_rl --sft_epochs=1,4,16
  python -m benchmarks.demo_sweep --num_blocks=5,6,7 --flops=2.4e12 \
      --figure=docs/hardness

Every combination is trained on the same problems, traces and budget, seed by
seed; runs that are complete are not run again. Prints a table of no-prefix
accuracy at the end of the budget, mean (least to most) over the seeds.
"""

import itertools
import shutil

import numpy as np
from absl import app, flags, logging
from etils import epath

from configs import demo
from prefixrl_jax.artifacts import read_json
from prefixrl_jax.evals.figures import figure_by_hardness
from prefixrl_jax.evals.summary import CurvePoint, RunRecord, summarize
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
_WARMUPS = flags.DEFINE_list(
  "warmup_steps", [], "Steps of warm-up; empty: the demo's."
)
_BLOCKS = flags.DEFINE_list("num_blocks", [], "Hardness; empty: the demo's.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds.")
_FLOPS = flags.DEFINE_float("flops", 0, "Budget; 0: the demo's.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/sweep", "Where runs are kept.")
_FIGURE = flags.DEFINE_string(
  "figure", "", "Stem of a figure: held-out accuracy over FLOPs, by hardness."
)


def _run(
  arm, blocks, warmup, rate, epochs, sft_rate, seed
) -> tuple[dict, RunRecord]:
  """Trains one combination; returns its settings and what came of it."""
  config = demo.get_config(f"arms={arm}")
  config.seeds = (int(seed),)
  settings = config.arms[arm]
  if rate:
    settings.learning_rate = float(rate)
  if epochs:
    settings.sft_epochs = int(epochs)
  if sft_rate:
    config.sft.learning_rate = float(sft_rate)
  if warmup:
    config.learner.warmup_steps = int(warmup)
  if blocks:
    config.problems.num_blocks = int(blocks)
  if _FLOPS.value:
    config.train.flops = _FLOPS.value
  row = {
    "arm": arm,
    "learning_rate": settings.learning_rate,
    "sft_epochs": settings.sft_epochs,
    "sft_learning_rate": config.sft.learning_rate if _has_sft(arm) else 0.0,
    "warmup_steps": config.learner.warmup_steps,
    "num_blocks": config.problems.num_blocks,
    "flops": config.train.flops,
  }
  root = epath.Path(_WORKDIR.value)
  data = root / f"blocks_{config.problems.num_blocks}"
  Pipeline(config, data, fresh=False).run(("screen", "collect", "cut"))
  workdir = root / "_".join(
    v if isinstance(v, str) else f"{k}={v:g}" for k, v in row.items()
  )
  shared = workdir / "data" / f"seed_{seed}"
  if not shared.exists():
    shutil.copytree(data / "data" / f"seed_{seed}", shared)
  Pipeline(config, workdir, fresh=False).run(("train",))
  curve = read_json(workdir / f"train/{arm}/seed_{seed}/curve.json")
  record = RunRecord(
    arm=arm,
    seed=int(seed),
    curve=[CurvePoint(**point) for point in curve],
    results=[],
    uses_traces=settings.prefixed_share > 0 or _has_sft(arm),
  )
  return row, record


def _has_sft(arm: str) -> bool:
  return demo.get_config().arms[arm].sft_epochs > 0


def _table(runs: list[tuple[dict, RunRecord]]) -> str:
  """Returns one line a setting; accuracies are those of the last point."""
  keys = tuple(runs[0][0])
  by_setting: dict[tuple, list[RunRecord]] = {}
  for row, record in runs:
    by_setting.setdefault(tuple(row.values()), []).append(record)
  lines = [
    "| " + " | ".join((*keys, "seeds", "held-out", "training")) + " |",
    "|" + "---|" * (len(keys) + 3),
  ]
  for setting, records in by_setting.items():
    cells = [v if isinstance(v, str) else f"{v:g}" for v in setting]
    cells.append(str(len(records)))
    for split in ("heldout", "train"):
      final = [record.curve[-1].accuracy[split] for record in records]
      cells.append(
        f"{np.mean(final):.2f} ({min(final):.2f} to {max(final):.2f})"
      )
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def main(argv) -> None:
  """Runs every combination; prints the table, draws the figure."""
  del argv
  logging.set_verbosity(logging.WARNING)
  runs = []
  for blocks, arm in itertools.product(_BLOCKS.value or [""], _ARMS.value):
    for settings in itertools.product(
      _WARMUPS.value or [""],
      _RATES.value or [""],
      (_EPOCHS.value if _has_sft(arm) else []) or [""],
      (_SFT_RATES.value if _has_sft(arm) else []) or [""],
      _SEEDS.value,
    ):
      runs.append(_run(arm, blocks, *settings))
  print(_table(runs))
  if _FIGURE.value:
    by_blocks: dict[int, list[RunRecord]] = {}
    for row, record in runs:
      by_blocks.setdefault(row["num_blocks"], []).append(record)
    figure_by_hardness(
      {f"{n} blocks": summarize(some) for n, some in by_blocks.items()},
      _FIGURE.value,
    )


if __name__ == "__main__":
  app.run(main)
