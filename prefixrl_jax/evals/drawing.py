"""How every figure is drawn: its look, its lines, its axes, its files.

A line in an SVG file has points that say what it is there, as tooltips.
"""

import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
  "svg.fonttype": "none",  # text that can be found, and read aloud
  "svg.hashsalt": "prefixrl_jax",  # the same summary gives the same bytes
  "xtick.color": "#333333",
  "ytick.color": "#333333",
}
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
# Of a line: more are not seen, and make a file of megabytes.
_MOST_POINTS = 150
_MOST_READINGS = 24


class _ReadableLine(Line2D):
  """A line some of whose points say their values.

  Attributes:
    readings: [(x, y, text), ...] in the axes' data.
  """

  readings: Sequence[tuple[float, float, str]] = ()


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
  linestyle: Any = "-",
  marker: str | None = None,
  kind: str = "",
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
    kind: what the points' tooltips add to the label.
  """
  places = _spread_out(len(x), _MOST_POINTS)
  xs, mean, low, high = (
    np.array(values, np.float64)[places]
    for values in (x, line["mean"], line["min"], line["max"])
  )
  axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
  drawn_line = _ReadableLine(
    xs,
    mean,
    color=colour,
    label=label,
    linestyle=linestyle,
    linewidth=2,
    marker=marker or "o",
    markersize=4,
    # Even a line without markers shows where it ends.
    markevery=None if marker else [-1] if len(x) else None,
    # Of a line without points the layout has a marker in the figure's corner.
    clip_on=not len(x),
  )
  name = f"{label}, {kind}" if kind else label
  drawn_line.readings = [
    (xs[i], mean[i], _reading(name, xs[i], mean[i], low[i], high[i]))
    for i in _spread_out(len(xs), _MOST_READINGS)
    if np.isfinite(mean[i])
  ]
  axes.add_line(drawn_line)
  axes.autoscale_view()


def _spread_out(number: int, most: int) -> np.ndarray:
  """Returns at most that many indices, evenly spaced, both ends included."""
  if number <= most:
    return np.arange(number)
  return np.linspace(0, number - 1, most).round().astype(int)


def _reading(name: str, x: float, mean: float, low: float, high: float) -> str:
  x_, mean_, low_, high_ = (
    f"{number:.3g}".replace("e+", "e") for number in (x, mean, low, high)
  )
  between = "" if low_ == high_ else f" ({low_} to {high_})"
  return f"{name} at {x_}: {mean_}{between}"


def label_costs(axes: Axes, label: str) -> None:
  """Starts the x axis at 0 and moves its power of ten into the label."""
  axes.set_xlim(left=0)
  exponent = math.floor(math.log10(axes.get_xlim()[1]))
  axes.xaxis.set_major_formatter(lambda x, _: f"{x / 10**exponent:g}")
  # No mathtext: SVG has that letter by letter.
  power = str(exponent).translate(_SUPERSCRIPTS)
  axes.set_xlabel(f"{label} (×10{power})")


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
    data = buffer.getvalue()
    if suffix == "svg":
      before, end, after = data.rpartition(b"</svg>")
      data = before + _readings(figure).encode() + end + after
    write_bytes(stem.parent / f"{stem.name}.{suffix}", data)


def _readings(figure: Figure) -> str:
  """Returns SVG: in each panel, for each line, points with their tooltips."""
  width, height = 72 * figure.get_size_inches()  # SVG's are points
  to_figure = figure.transFigure.inverted()
  panels = []
  for axes in figure.axes:
    lines = []
    for line in axes.lines:
      if not isinstance(line, _ReadableLine) or not line.readings:
        continue
      places = [(x, y) for x, y, _ in line.readings]
      shares = to_figure.transform(axes.transData.transform(places))
      points = "".join(
        f'<circle class="point" cx="{width * x:.2f}"'
        f' cy="{height * (1 - y):.2f}" r="5" fill="none" pointer-events="all">'
        f"<title>{html.escape(text)}</title></circle>"
        for (x, y), (_, _, text) in zip(shares, line.readings)
      )
      lines.append(f"<g>{points}</g>\n")
    if lines:
      label = html.escape(_panel_label(axes))
      panels.append(
        f'<g class="panel" aria-label="{label}">\n{"".join(lines)}</g>\n'
      )
  return "".join(panels)


def _panel_label(axes: Axes) -> str:
  """Returns a panel's own label, else its title and what it is over."""
  over = re.sub(r" \(×10.*", "", axes.get_xlabel())  # no power of ten
  names = (axes.get_title(), over)
  return str(axes.get_label()) or ", over ".join(filter(None, names))
