"""Tunes every arm of a demo, and varies how hard its problems are.

  python -m benchmarks.demo_sweep --arms=rl,prefixrl --learning_rates=1e-4,3e-4
  python -m benchmarks.demo_sweep --arms=sft_rl --sft_epochs=2,8,32
  python -m benchmarks.demo_sweep --sizes=5,6,7 --figure=docs/hardness
  python -m benchmarks.demo_sweep --demo=countdown --learning_rates=2e-4,5e-4

Every combination is an arm of its own, trained on the same problems, traces
and budget, seed by seed; runs that are complete are not run again. Prints a
table of no-prefix accuracy at the end of the budget, mean (least to most)
over the seeds.
"""

import dataclasses
import itertools

import ml_collections
import numpy as np
from absl import flags, logging
from etils import epath

from benchmarks import measuring
from prefixrl_jax.configs import countdown, demo
from prefixrl_jax.evals.curves import CurvePoint, RunRecord
from prefixrl_jax.evals.figures import figure_by_hardness
from prefixrl_jax.evals.summary import summarize
from prefixrl_jax.pipeline import Pipeline
from prefixrl_jax.settings import arms
from prefixrl_jax.stages import STAGES
from prefixrl_jax.storage.files import read_json

_DEMOS = {"demo": demo, "countdown": countdown}
_DEMO = flags.DEFINE_enum("demo", "demo", _DEMOS, "Config.")
_ARMS = flags.DEFINE_list("arms", ["rl", "sft_rl", "prefixrl"], "Arms.")
_RATES = flags.DEFINE_list(
  "learning_rates", [], "Learning rates; empty: the arm's own."
)
_EPOCHS = flags.DEFINE_list(
  "sft_epochs", [], "Epochs of SFT, for arms that have any; empty: its own."
)
_SIZES = flags.DEFINE_list("sizes", [], "Hardness; empty: the demo's.")
_SHARES = flags.DEFINE_list(
  "prefixed_shares", [], "For arms that have prefixes; empty: their own."
)
_PROBLEMS = flags.DEFINE_integer("num_train", 0, "Problems; 0: the demo's.")
_SEEDS = flags.DEFINE_list("seeds", ["10", "11", "12"], "Seeds.")
_FLOPS = flags.DEFINE_float("flops", 0, "Budget; 0: the demo's.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/sweep", "Where runs are kept.")
_FIGURE = flags.DEFINE_string(
  "figure", "", "Stem of a figure: held-out accuracy over FLOPs, by hardness."
)


def _config(size: str) -> ml_collections.ConfigDict:
  """The demo's, with an arm for every combination."""
  config = _DEMOS[_DEMO.value].get_config()
  config.seeds = tuple(int(seed) for seed in _SEEDS.value)
  if size:
    config.problems.size = int(size)
  if _PROBLEMS.value:
    config.problems.num_train = _PROBLEMS.value
  if _FLOPS.value:
    config.train.flops = _FLOPS.value
  run_arms = []
  for arm in _ARMS.value:
    base = config.arms[arm]
    for rate, epochs, share in itertools.product(
      _RATES.value or [base.learning_rate],
      (_EPOCHS.value if base.sft_epochs else []) or [base.sft_epochs],
      (_SHARES.value if base.prefixed_share else []) or [base.prefixed_share],
    ):
      name = f"{arm}-{float(rate):.0e}"  # a name holds no dot
      if base.sft_epochs:
        name += f"-{epochs}_epochs"
      if base.prefixed_share:
        name += f"-{float(share):.0%}_prefixed".replace("%", "")
      with config.unlocked():
        config.arms[name] = dict(
          base,
          learning_rate=float(rate),
          sft_epochs=int(epochs),
          prefixed_share=float(share),
        )
      run_arms.append(name)
  config.run_arms = tuple(run_arms)
  return config


def _run(size: str) -> list[RunRecord]:
  """Trains every combination on problems of one hardness."""
  config = _config(size)
  workdir = epath.Path(_WORKDIR.value) / (
    f"{_DEMO.value}_size_{config.problems.size}"
    f"_problems_{config.problems.num_train}"
    f"_flops_{config.train.flops:g}"
  )
  stages = list(STAGES)
  to_train = stages[: stages.index("train") + 1]
  Pipeline(config, workdir).run(to_train)
  return [
    RunRecord(
      arm=arm,
      seed=seed,
      curve=[
        CurvePoint(**point)
        for point in read_json(workdir / f"train/{arm}/seed_{seed}/curve.json")
      ],
      results=[],
      uses_traces=arms.uses_traces(config.arms[arm]),
    )
    for arm in config.run_arms
    for seed in config.seeds
  ]


def _table(runs: dict[str, list[RunRecord]]) -> str:
  """Returns one line a combination; accuracies are the last points'."""
  lines = [
    "| size | arm | seeds | held-out | training |",
    "|" + "---|" * 5,
  ]
  for size, records in runs.items():
    for arm in dict.fromkeys(record.arm for record in records):
      last = [r.curve[-1].accuracy for r in records if r.arm == arm]
      cells = [size, arm, str(len(last))]
      for split in ("heldout", "train"):
        final = [accuracy[split] for accuracy in last]
        cells.append(
          f"{np.mean(final):.2f} ({min(final):.2f} to {max(final):.2f})"
        )
      lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def main() -> None:
  """Runs every combination; prints the table, draws the figure."""
  logging.set_verbosity(logging.WARNING)
  default = str(_DEMOS[_DEMO.value].get_config().problems.size)
  runs = {size: _run(size) for size in _SIZES.value or [default]}
  print(_table(runs))
  if _FIGURE.value:
    by_own_rates = {
      f"size {size}": summarize(
        [dataclasses.replace(r, arm=r.arm.partition("-")[0]) for r in records]
      )
      for size, records in runs.items()
    }
    figure_by_hardness(by_own_rates, _FIGURE.value)


if __name__ == "__main__":
  measuring.run(main)
