"""Where the method pays: sweeps over problems or bases, as a phase diagram.

`regimes` returns, for each combination of settings that make the problems hard
or the skill rare,

  settings: {field: value}
  attempts: samples for one correct trace, over all seeds; null: none collected
  traced: problems with a trace, mean over seeds; null likewise
  best_other: the other arm with the highest held-out accuracy
  arms: {arm: {heldout: SPREAD, took_off: seeds that end at half or more}}
  ratio, speed_up: {of_means, interval}    of the method to best_other

of the best point of each arm. Accuracies are those at the last point of the
curve, without prefix; on held-out problems, else on those trained on. Intervals
hold 95 % of 2,000 draws of seeds, in pairs; speed_up is that of
`evals/summary.py`, in the paper's FLOPs. null where it is undefined.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from prefixrl_jax.evals.comparisons import compare_curves
from prefixrl_jax.evals.drawing import drawn, save
from prefixrl_jax.evals.intervals import spread
from prefixrl_jax.evals.names import arm_label
from prefixrl_jax.sweep.table import Result, line

METHOD = "prefixrl"
_TOOK_OFF = 0.5
# Paper, section 5: none of 512 samples of a hard problem is correct, and about
# 650 attempts make a trace.
_PAPERS_ATTEMPTS = 650


def regimes(
  results: Sequence[Result], records: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  """Returns the module's records; empty without the method and another arm.

  Args:
    results: of all points of a sweep.
    records: of these, from `table.rank`.
  """
  best = {r["workdir"] for r in records if r["is_best"]}
  cells: dict[tuple[tuple[str, str], ...], list[Result]] = {}
  for result in results:
    if result.workdir in best:
      cells.setdefault(result.problems, []).append(result)
  found = [_regime(settings, cell) for settings, cell in cells.items()]
  return [regime for regime in found if regime is not None]


def _regime(
  settings: Sequence[tuple[str, str]], cell: Sequence[Result]
) -> dict[str, Any] | None:
  runs = {result.point.arm: result.runs for result in cell}
  if METHOD not in runs or len(runs) < 2:
    return None
  everyone = [run for of_arm in runs.values() for run in of_arm]
  splits = [run.curve[-1].accuracy for run in everyone]
  split = "heldout" if all("heldout" in some for some in splits) else "train"
  ends = {
    arm: {run.seed: run.curve[-1].accuracy[split] for run in of_arm}
    for arm, of_arm in runs.items()
  }
  means = {arm: np.mean([*of_arm.values()]) for arm, of_arm in ends.items()}
  other = max((a for a in means if a != METHOD), key=lambda arm: means[arm])
  by_seed = {arm: {run.seed: run for run in runs[arm]} for arm in runs}
  compared = compare_curves(by_seed[METHOD], by_seed[other], split)
  counts = [r.collected for r in cell if r.collected]
  return {
    "settings": {
      path.removeprefix("config."): value for path, value in settings
    },
    "attempts": counts[0].attempts if counts else None,
    "traced": counts[0].traced if counts else None,
    "best_other": other,
    "arms": {
      arm: {
        "heldout": spread(of_arm.values()),
        "took_off": sum(end >= _TOOK_OFF for end in of_arm.values()),
      }
      for arm, of_arm in ends.items()
    },
    **{
      name: {k: comparison[k] for k in ("of_means", "interval")}
      for name, comparison in compared.items()
    },
  }


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
  """Returns the table, a line a regime.

  Args:
    found: from `regimes`.
  """
  fields = [*dict.fromkeys(f for regime in found for f in regime["settings"])]
  arms = [*dict.fromkeys(arm for regime in found for arm in regime["arms"])]
  header = [
    *(field.rpartition(".")[2] for field in fields),
    "attempts a trace",
    "problems",
    *map(arm_label, arms),
    "ratio",
    "speed-up",
  ]
  rows = [line(header), "|" + "---|" * len(header)]
  for regime in found:
    cells = [regime["settings"].get(field, "") for field in fields]
    cells += [_number(regime[name]) for name in ("attempts", "traced")]
    cells += [_arm(regime["arms"].get(arm)) for arm in arms]
    cells += [_times(regime[name]) for name in ("ratio", "speed_up")]
    rows.append(line(cells))
  return "\n".join(rows) + (
    "\n\nHeld-out accuracy at the end of the budget, and how many seeds took"
    f" off (ended at {_TOOK_OFF:g} or more).\nRatio and speed-up are"
    f" {arm_label(METHOD)}'s to the best other arm of the line, with 95 %"
    " intervals over seeds;\n-: the other arm ends at 0.\n"
  )


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:,.0f}"


def _arm(of_arm: Mapping[str, Any] | None) -> str:
  if of_arm is None:
    return ""
  ends = of_arm["heldout"]
  return f"{ends['mean']:.2f} ({of_arm['took_off']} of {ends['num']})"


def _times(comparison: Mapping[str, Any]) -> str:
  if comparison["of_means"] is None:
    return "-"
  if comparison["interval"] is None:
    return f"{comparison['of_means']:.1f}"
  low, high = comparison["interval"]
  return f"{comparison['of_means']:.1f} ({low:.1f} to {high:.1f})"


@drawn()
def figure_of_regimes(
  found: Sequence[Mapping[str, Any]], path_stem: epath.PathLike
) -> None:
  """Draws the method's gain over how rare a trace is and how many there are.

  A dot is a regime; its colour is the ratio to the best other arm, a cross says
  that the method does not end above it, and the line is the paper's regime.

  Args:
    found: from `regimes`; those without collected traces are left out.
    path_stem: of the files: .png and .svg are appended.
  """
  shown = [regime for regime in found if regime["attempts"] is not None]
  if not shown:
    return
  figure = Figure(figsize=(6.4, 4.2), layout="constrained")
  axes = figure.subplots()
  most = 8.0  # of the colours; white is a ratio of 1
  norm = LogNorm(1 / most, most)
  dots = None
  for regime in shown:
    at = regime["attempts"], regime["traced"]
    ratio = regime["ratio"]["of_means"]
    ours = regime["arms"][METHOD]["heldout"]["mean"]
    other = regime["arms"][regime["best_other"]]
    pays = ours > other["heldout"]["mean"]
    value = (most if ours else 1.0) if ratio is None else ratio
    dots = axes.scatter(
      *at,
      c=[np.clip(value, 1 / most, most)],
      norm=norm,
      cmap="PuOr_r",
      s=160,
      edgecolors="#333333",
      zorder=3,
    )
    if not pays:
      axes.scatter(*at, marker="x", color="#333333", zorder=4)
    ends = regime["arms"][METHOD]["took_off"], other["took_off"]
    axes.annotate(
      f"{ends[0]} : {ends[1]} of {other['heldout']['num']}",
      at,
      xytext=(0, 11),
      textcoords="offset points",
      ha="center",
      fontsize=8,
    )
  axes.axvline(_PAPERS_ATTEMPTS, color="#888888", linestyle="--")
  axes.annotate(
    "paper's regime",
    (_PAPERS_ATTEMPTS, 0.02),
    xycoords=("data", "axes fraction"),
    rotation=90,
    ha="right",
    fontsize=8,
    color="#555555",
  )
  axes.set_xscale("log")
  axes.margins(x=0.15)
  axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_ylim(0, 1.2 * max(regime["traced"] for regime in shown))
  axes.set_xlabel("Samples for one correct trace (base model)")
  axes.set_ylabel("Training problems with a trace")
  axes.set_title("Take-offs, PrefixRL : best other arm; × does not pay")
  assert dots is not None
  bar = figure.colorbar(dots, label="Ratio of held-out accuracies")
  ratios = {0.125: "⅛", 0.25: "¼", 0.5: "½", 1: "1", 2: "2", 4: "4", 8: "8"}
  bar.set_ticks([*ratios], labels=[*ratios.values()], minor=False)
  bar.minorticks_off()
  save(figure, path_stem)
