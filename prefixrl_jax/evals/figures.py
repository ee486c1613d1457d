"""The paper's figures A, B and C, drawn from a summary."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefixrl_jax.evals.curves import BASE
from prefixrl_jax.evals.drawing import (
  FLOPS,
  add_legend,
  draw_line,
  drawn,
  label_costs,
  save,
)
from prefixrl_jax.evals.names import (
  SPLITS,
  arm_colours,
  arm_label,
  split_label,
)

_COUNTS = {
  "flops_paper": FLOPS,
  "flops_executed": "Training FLOPs, executed",
}


@drawn()
def figure_a(summary: Mapping[str, Any], path_stem: epath.PathLike) -> None:
  """Draws accuracy without prefix over training FLOPs.

  One column per split, one row per way of counting FLOPs; a line is the mean
  over seeds, its band their minimum and maximum.

  Args:
    summary: from `summarize`.
    path_stem: of the files: .png and .svg are appended.
  """
  curves = [
    arm["mean_curve"] for arm in summary["arms"].values() if "mean_curve" in arm
  ]
  splits = [
    split
    for split in ("train", "heldout")
    if any(split in curve[axis] for curve in curves for axis in _COUNTS)
  ] or ["train"]
  figure = Figure(figsize=(1 + 4 * len(splits), 7), layout="constrained")
  panels = figure.subplots(2, len(splits), sharey=True, squeeze=False)
  for axes, split in zip(panels[0], splits):
    axes.set_title(_title(split))
  for row, axis in zip(panels, _COUNTS):
    for axes, split in zip(row, splits):
      _draw_curves(axes, summary, axis, split)
    row[0].set_ylabel("Accuracy without prefix")
  highest = max((axes.dataLim.y1 for axes in panels.flat), default=1.0)
  panels[0, 0].set_ylim(0, _round_up(highest))
  add_legend(figure, panels.flat)
  save(figure, path_stem)


@drawn()
def figure_b(summary: Mapping[str, Any], path_stem: epath.PathLike) -> None:
  """Draws pass@k of held-out problems over k: all of them, then the hard ones.

  A line is the mean over seeds, its band the 95 % interval from resampled
  problems and seeds.

  Args:
    summary: from `summarize`.
    path_stem: of the files: .png and .svg are appended.
  """
  arms = summary["arms"]
  colours = arm_colours(arms)
  splits = [
    split
    for split in ("heldout", "heldout_hard")
    if any(split in arm["final"] for arm in arms.values())
  ] or ["train"]
  figure = Figure(figsize=(1 + 4.5 * len(splits), 4.6), layout="constrained")
  panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
  for axes, split in zip(panels, splits):
    for arm, of_arm in arms.items():
      by_k = of_arm["final"].get(split, {}).get("pass_at_k")
      if by_k:
        low, high = zip(*(spread["interval"] for spread in by_k.values()))
        mean = [spread["mean"] for spread in by_k.values()]
        line = {"mean": mean, "min": low, "max": high}
        ks = [int(k) for k in by_k]
        _draw_arm(axes, ks, line, arm, colours[arm], marker="o")
    axes.set_title(_title(split))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda k, _: f"{k:g}")
    axes.set_xlabel("k, samples allowed")
  panels[0].set_ylabel("pass@k without prefix")
  panels[0].set_ylim(0, 1.02)
  add_legend(figure, panels)
  save(figure, path_stem)


@drawn()
def figure_c(
  summary: Mapping[str, Any],
  path_stem: epath.PathLike,
  trained_band: tuple[float, float],
) -> None:
  """Draws accuracy over the share of the trace that is revealed.

  Args:
    summary: from `summarize`.
    path_stem: of the files: .png and .svg are appended.
    trained_band: the shares that training prefixes were cut at, shaded.
  """
  arms = summary["arms"]
  colours = arm_colours(arms)
  splits = [
    split
    for split in SPLITS
    if any(
      max(arm["by_fraction"].get(split, {"fraction": [0]})["fraction"]) > 0
      for arm in arms.values()
    )
  ] or ["train"]
  figure = Figure(figsize=(1 + 4.5 * len(splits), 4.6), layout="constrained")
  panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
  for axes, split in zip(panels, splits):
    axes.axvspan(*trained_band, color="#f2f2f2", linewidth=0, zorder=0)
    axes.annotate(
      "trained on",
      (sum(trained_band) / 2, 0.01),
      xycoords=("data", "axes fraction"),
      ha="center",
      va="bottom",
      fontsize="small",
      color="#777777",
    )
    for arm, of_arm in arms.items():
      line = of_arm["by_fraction"].get(split)
      if line:
        _draw_arm(axes, line["fraction"], line, arm, colours[arm], marker="o")
    axes.set_title(_title(split))
    axes.set_xlabel("Share of the trace revealed")
    axes.set_xlim(-0.02, 1.02)
  panels[0].set_ylabel("Accuracy")
  panels[0].set_ylim(0, 1.02)
  add_legend(figure, panels)
  save(figure, path_stem)


@drawn()
def figure_by_hardness(
  summaries: Mapping[str, Mapping[str, Any]],
  path_stem: epath.PathLike,
  split: str = "heldout",
) -> None:
  """Draws accuracy without prefix over training FLOPs, a panel per hardness.

  Args:
    summaries: title of the panel -> from `summarize`.
    path_stem: of the files: .png and .svg are appended.
    split: the split whose accuracy is shown.
  """
  figure = Figure(figsize=(1 + 4 * len(summaries), 3.8), layout="constrained")
  panels = figure.subplots(1, len(summaries), sharey=True, squeeze=False)[0]
  for axes, (title, summary) in zip(panels, summaries.items()):
    _draw_curves(axes, summary, "flops_paper", split)
    axes.set_title(title)
  panels[0].set_ylabel(f"Accuracy without prefix,\n{_title(split).lower()}")
  panels[0].set_ylim(0, 1.02)
  add_legend(figure, panels)
  save(figure, path_stem)


def _title(split: str) -> str:
  return f"{split_label(split).capitalize()} problems"


def _draw_curves(
  axes: Axes, summary: Mapping[str, Any], axis: str, split: str
) -> None:
  """Draws a line per arm, and the cost of collecting the traces."""
  arms = {a: s for a, s in summary["arms"].items() if a != BASE}
  colours = arm_colours(summary["arms"])
  for arm, of_arm in arms.items():
    line = of_arm["mean_curve"][axis].get(split)
    if line:
      _draw_arm(axes, line["cost"], line, arm, colours[arm])
  collection = sorted(
    {
      arm["costs"]["collection"][axis]
      for arm in arms.values()
      if arm["uses_traces"] and arm["costs"]
    }
    - {0}  # imported traces
  )
  # Of a run stopped early, all of a budget may be collection.
  axes.set_xlim(right=max([axes.get_xlim()[1], *collection]))
  label_costs(axes, _COUNTS[axis])
  axes.set_label(f"{_title(split)}, over {_COUNTS[axis]}")
  if not collection:
    return
  axes.axvspan(0, collection[-1], color="#f2f2f2", linewidth=0, zorder=0)
  for cost in collection:
    axes.axvline(cost, color="#888888", linestyle=":", linewidth=1.2)
  is_wide = collection[-1] > 0.06 * axes.get_xlim()[1]
  axes.annotate(
    "collecting traces",
    (collection[-1], 1),
    xycoords=("data", "axes fraction"),
    # Within it, if there is room.
    xytext=(-3 if is_wide else 3, -4),
    textcoords="offset points",
    rotation=90,
    ha="right" if is_wide else "left",
    va="top",
    fontsize="small",
    color="#777777",
  )


def _draw_arm(
  axes: Axes,
  x: Sequence[float],
  line: Mapping[str, Sequence],
  arm: str,
  colour: str,
  marker: str | None = None,
) -> None:
  style = "--" if arm == BASE else "-"
  label = arm_label(arm)
  draw_line(axes, x, line, label, colour, linestyle=style, marker=marker)


def _round_up(accuracy: float) -> float:
  """Returns the end of an accuracy axis: the next tenth, at most 1."""
  return float(np.clip(np.ceil(accuracy * 10 + 0.2) / 10, 0.1, 1.0))
