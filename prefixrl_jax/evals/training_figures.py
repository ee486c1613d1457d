"""The paper's figures D, E and F: what happens during training."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from prefixrl_jax.evals.drawing import (
  FLOPS,
  add_legend,
  draw_line,
  drawn,
  label_costs,
  save,
)
from prefixrl_jax.evals.names import arm_colours, arm_label, source_label

_STYLES: dict[str, Any] = {"all": "-", "no_prefix": "-", "prefixed": ":"}
_KINDS = {"all": "", "no_prefix": "without prefix", "prefixed": "prefixed"}
_SOURCES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


@drawn()
def figure_d(summary: Mapping[str, Any], path_stem: epath.PathLike) -> bool:
  """Draws accuracy after prefixes over training, by their traces' authors.

  A panel for each arm that was given prefixes.

  Args:
    summary: from `summarize`.
    path_stem: of the files: .png and .svg are appended.

  Returns:
    Whether there are several authors; otherwise nothing is drawn.
  """
  authors = summary["prefix_authors"]
  by_arm = {
    arm: of_arm["training"]["sources"]
    for arm, of_arm in summary["arms"].items()
    if of_arm["training"]["sources"]
  }
  if len(authors) < 2:
    return False
  figure, panels = _panels(len(by_arm))
  for axes, (arm, lines) in zip(panels, by_arm.items()):
    for author, line in lines.items():
      colour = _SOURCES[authors.index(author) % len(_SOURCES)]
      draw_line(axes, line["cost"], line, source_label(author), colour)
    axes.set_title(arm_label(arm))
    axes.set_ylim(0, 1.02)
    label_costs(axes, FLOPS)
  panels[0].set_ylabel("Accuracy after prefixes")
  add_legend(figure, panels)
  save(figure, path_stem)
  return True


@drawn()
def figure_e(summary: Mapping[str, Any], path_stem: epath.PathLike) -> bool:
  """Draws the gradient's norm, its deviation, and who is learnt from.

  Args:
    summary: from `summarize`.
    path_stem: of the files: .png and .svg are appended.

  Returns:
    Whether there was anything to draw.
  """
  names = {
    "grad_norm": "Norm of the gradient",
    "grad_norm_std": "Its deviation from step to step",
    "signal": "Groups with unequal rewards",
  }
  there = {m: name for m, name in names.items() if _lines(summary, m)}
  if not there:
    return False
  figure, panels = _panels(len(there))
  _draw_measures(panels, summary, there)
  add_legend(figure, panels)
  save(figure, path_stem)
  return True


@drawn()
def figure_f(summary: Mapping[str, Any], path_stem: epath.PathLike) -> bool:
  """Draws the strategy: its marker, token entropy, and what a prefix changes.

  Args:
    summary: from `summarize`.
    path_stem: of the files: .png and .svg are appended.

  Returns:
    Whether there was anything to draw.
  """
  names = {
    "marker": (summary["marker"] or "marker").capitalize(),
    "entropy": "Entropy of a token, nats",
  }
  there = {m: name for m, name in names.items() if _lines(summary, m)}
  changed = {
    arm: line
    for arm, of_arm in summary["arms"].items()
    if (line := of_arm["training"]["prefix_kl"])
  }
  if not there and not changed:
    return False
  figure, panels = _panels(len(there) + bool(changed))
  _draw_measures(panels, summary, there)
  colours = arm_colours(summary["arms"])
  for arm, line in changed.items():
    draw_line(panels[-1], line["position"], line, arm_label(arm), colours[arm])
  if changed:
    panels[-1].set_title("KL, with prefix to without, nats")
    panels[-1].set_xlabel("Tokens after the prefix")
    panels[-1].axhline(0, color="#888888", linewidth=1)
  add_legend(figure, panels)
  save(figure, path_stem)
  return True


def _lines(
  summary: Mapping[str, Any], measure: str
) -> list[tuple[str, str, Mapping[str, Any]]]:
  """Returns (arm, kind, line) of all arms; the total only where it is alone."""
  found = []
  for arm, of_arm in summary["arms"].items():
    by_kind = dict(of_arm["training"]["steps"].get(measure, {}))
    if len(by_kind) > 1:
      by_kind.pop("all", None)
    found += [(arm, kind, line) for kind, line in by_kind.items()]
  return found


def _draw_measures(
  panels: Sequence[Axes], summary: Mapping[str, Any], names: Mapping[str, str]
) -> None:
  """Draws each measure into a panel of its name, the first panels."""
  for axes, (measure, name) in zip(panels, names.items()):
    _draw_measure(axes, summary, measure)
    axes.set_title(name)


def _draw_measure(axes: Axes, summary: Mapping[str, Any], measure: str) -> None:
  colours = arm_colours(summary["arms"])
  for arm, kind, line in _lines(summary, measure):
    draw_line(
      axes,
      line["cost"],
      line,
      arm_label(arm),
      colours[arm],
      linestyle=_STYLES[kind],
      kind=_KINDS[kind],
    )
  axes.set_ylim(bottom=0)
  label_costs(axes, FLOPS)
  if any(kind == "prefixed" for _, kind, _ in _lines(summary, measure)):
    axes.add_artist(_legend_of_kinds(axes))


def _legend_of_kinds(axes: Axes) -> Legend:
  """Says which lines are of prefixed problems, apart from the arms."""
  kinds = ("no_prefix", "prefixed")
  handles = [
    Line2D([], [], color="#555555", linestyle=_STYLES[kind], linewidth=2)
    for kind in kinds
  ]
  labels = [_KINDS[kind] for kind in kinds]
  return Legend(axes, handles, labels, fontsize="small", loc="best")


def _panels(number: int) -> tuple[Figure, Sequence[Axes]]:
  figure = Figure(figsize=(1 + 3.8 * number, 4.2), layout="constrained")
  return figure, figure.subplots(1, number, squeeze=False)[0]
