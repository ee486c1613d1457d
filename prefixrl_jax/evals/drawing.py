"""How every figure is drawn: its look, its lines, its axes, its files."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefixrl_jax.storage.files import write_bytes

FLOPS = "Training FLOPs, paper's count"
_STYLE = {
  "axes.edgecolor": "#888888",
  "axes.grid": True,
  "axes.labelcolor": "#333333",
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlesize": "medium",
  "axes.titleweight": "bold",
  "font.size": 10,
  "grid.color": "#e6e6e6",
  "legend.frameon": False,
  "svg.hashsalt": "prefixrl_jax",  # the same summary gives the same bytes
  "xtick.color": "#333333",
  "ytick.color": "#333333",
}


def drawn() -> Any:
  """Returns a context, or decorator, in which figures have our look."""
  return style.context(["default", _STYLE])


def draw_line(
  axes: Axes,
  x: Sequence[float],
  line: Mapping[str, Sequence],
  label: str,
  colour: str,
  *,
  linestyle: str = "-",
  marker: str | None = None,
) -> None:
  """Draws a mean and its band.

  Args:
    axes: of the panel.
    x: of the points.
    line: mean, min and max at these.
    label: in the legend.
    colour: of the line and, lighter, of the band.
    linestyle: as matplotlib writes it.
    marker: of every point; without one only the last is marked.
  """
  mean, low, high = (
    np.array(line[name], np.float64) for name in ("mean", "min", "max")
  )
  axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
  axes.plot(
    x,
    mean,
    color=colour,
    label=label,
    linestyle=linestyle,
    linewidth=2,
    marker=marker or "o",
    markersize=4,
    # Even a line without markers shows where it ends.
    markevery=None if marker else [-1] if len(x) else None,
    clip_on=False,
  )


def label_costs(axes: Axes, label: str) -> None:
  """Starts the x axis at 0 and moves its power of ten into the label."""
  axes.set_xlim(left=0)
  exponent = math.floor(math.log10(axes.get_xlim()[1]))
  axes.xaxis.set_major_formatter(lambda x, _: f"{x / 10**exponent:g}")
  axes.set_xlabel(rf"{label} ($\times 10^{{{exponent}}}$)")


def add_legend(figure: Figure, panels: Iterable[Axes]) -> None:
  """Adds one legend, above all panels, for the labels in any of them."""
  handles: dict[str, Any] = {}
  for axes in panels:
    lines, labels = axes.get_legend_handles_labels()
    for label, line in zip(labels, lines):
      handles.setdefault(label, line)
  if handles:
    figure.legend(
      handles=list(handles.values()),
      loc="outside upper center",
      ncols=min(len(handles), 5),
    )


def save(figure: Figure, path_stem: epath.PathLike) -> None:
  """Writes a figure as .png and .svg, the same bytes for the same figure."""
  stem = epath.Path(path_stem)
  # A date would make every SVG differ.
  settings: dict[str, dict[str, Any]] = {
    "png": {"dpi": 150},
    "svg": {"metadata": {"Date": None}},
  }
  # Once, not for each format: most of a figure's time is the layout's.
  figure.draw_without_rendering()
  figure.set_layout_engine("none")
  for suffix, options in settings.items():
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, **options)
    write_bytes(stem.parent / f"{stem.name}.{suffix}", buffer.getvalue())
