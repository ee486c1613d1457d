"""The report: summary.json, figures and a page that shows them."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from etils import epath
from rich import box
from rich.console import Console
from rich.table import Table

from prefixrl_jax.evals.curves import BASE, RunRecord
from prefixrl_jax.evals.evaluations import Evaluation, compare
from prefixrl_jax.evals.evaluations import label as evaluation_label
from prefixrl_jax.evals.figures import figure_a, figure_b, figure_c
from prefixrl_jax.evals.inline_figures import inline_figure, page_colour
from prefixrl_jax.evals.names import (
  SPLITS,
  arm_colours,
  arm_label,
  source_label,
  split_label,
)
from prefixrl_jax.evals.samples import fitting
from prefixrl_jax.evals.summary import summarize
from prefixrl_jax.evals.training_figures import figure_d, figure_e, figure_f
from prefixrl_jax.evals.verdicts import finding, verdicts
from prefixrl_jax.storage.files import remove, write_json, write_text

_PAGE_BYTES = 4_900_000  # of index.html, which is sent and opened as one file
_OF_TRAINING = {
  "figure_d": figure_d,
  "figure_e": figure_e,
  "figure_f": figure_f,
}


def write_report(
  directory: epath.PathLike,
  runs: Sequence[RunRecord],
  *,
  evaluations: Sequence[Evaluation] = (),
  samples: Sequence[Mapping[str, Any]],
  notes: Mapping[str, Any],
  trained_band: tuple[float, float],
  num_rollouts: int = 0,
  marker: str | None = None,
) -> dict[str, Any]:
  """Writes summary.json, figures a to f (.png, .svg) and index.html.

  Of d, e and f only those that there is something for.

  Args:
    directory: created if it does not exist.
    runs: all arms and seeds, in display order.
    evaluations: all that there are of the runs.
    samples: rollouts to read, each with arm, seed, problem_id, prompt, prefix,
      completion (text), reward and fraction.
    notes: facts to show, name -> value.
    trained_band: the shares of a trace that training prefixes were cut at.
    num_rollouts: training's, that rollouts/index.html shows.
    marker: label of the strategy's marker, if it has one.

  Returns:
    The summary.
  """
  folder = epath.Path(directory)
  summary = summarize(runs, marker=marker)
  summary["evaluations"] = compare(evaluations)
  write_json(folder / "summary.json", summary)
  figure_a(summary, folder / "figure_a")
  figure_b(summary, folder / "figure_b")
  figure_c(summary, folder / "figure_c", trained_band)
  names = ["figure_a", "figure_b", "figure_c"]
  for name, draw in _OF_TRAINING.items():
    if draw(summary, folder / name):
      names.append(name)
    else:
      for suffix in ("png", "svg"):  # of an earlier report
        remove(folder / f"{name}.{suffix}")
  html = _page(
    summary,
    {name: (folder / f"{name}.svg").read_text("utf-8") for name in names},
    samples,
    notes=notes,
    trained_band=trained_band,
    num_rollouts=num_rollouts,
  )
  write_text(folder / "index.html", html)
  return summary


def _page(
  summary: Mapping[str, Any],
  figures: Mapping[str, str],
  samples: Sequence[Mapping[str, Any]],
  **shown: Any,
) -> str:
  """Returns the page as HTML, with as many samples as it has room for."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("prefixrl_jax.evals", "report_page"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    "percent": _percent,
    "plus_minus": _plus_minus,
    "count": _count,
    "total": _total,
    "label": arm_label,
    "seeds": _each_seed,
    "interval": _interval,
    "evaluation": evaluation_label,
    "source": source_label,
    "key": _key,
  }
  script = environment.get_template("page.js").render()
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  colours = arm_colours(summary["arms"])
  template = environment.get_template("index.html.jinja")

  def render(some: Mapping[tuple[str, int], Any], left_out: int) -> str:
    return template.render(
      shown,
      summary=summary,
      splits=_shown_splits(summary),
      colours={arm: page_colour(colours[arm]) for arm in summary["arms"]},
      base=BASE,
      figures=figures,
      inline_figure=inline_figure,
      samples=some,
      left_out=left_out,
      finding=finding(summary),
      verdicts=verdicts(summary),
      script=script,
      script_hash=f"sha256-{digest}",
      times=_times,
      points=_points,
      saved=_saved,
      speed_up=_speed_up,
    )

  room = _PAGE_BYTES - len(render({}, 0).encode())
  return render(*fitting(samples, room))


def print_summary(summary: Mapping[str, Any]) -> None:
  """Prints final accuracies, ratios and speed-ups to the terminal."""
  console = Console()
  splits = _shown_splits(summary)
  method = summary["method"]
  num_seeds = len(summary["seeds"])
  over = f", mean ± std over {num_seeds} seeds" if num_seeds > 1 else ""
  finals = _table(["arm", *splits.values()])
  for arm, of_arm in summary["arms"].items():
    cells = [
      _plus_minus(of_arm["final"][split]["accuracy"])
      if split in of_arm["final"]
      else "-"
      for split in splits
    ]
    finals.add_row(
      arm_label(arm), *cells, style="bold" if arm == method else None
    )
  console.print(f"\nAccuracy without prefix (%){over}", finals)
  if num_seeds > 1:
    _print_seeds(console, summary)
  _print_evaluations(console, summary["evaluations"])
  if not summary["versus"]:
    return
  gains = _table(["baseline", "problems", "ratio", "speed-up", "screening too"])
  for baseline, by_split in summary["versus"].items():
    for split, versus in by_split.items():
      if versus["accuracy"] is None:
        continue  # no curve, so no arm is trained to improve there
      faster = versus["speed_up"]
      gains.add_row(
        arm_label(baseline),
        splits.get(split, split),
        _with_interval(versus["final_ratio"], _times),
        _with_interval(faster["flops_paper"], _speed_up),
        _with_interval(faster["flops_paper_with_screening"], _speed_up),
      )
  console.print(f"{arm_label(method)} against", gains)
  for sentence in filter(None, (finding(summary), *verdicts(summary))):
    console.print(sentence, style="bold", markup=False)
  console.print(
    "ratio: of final accuracies. speed-up: the baseline's training FLOPs over"
    f"\nthose {arm_label(method)} needs for the accuracy the baseline ends"
    " with, collection\nincluded, then screening too. Of means over seeds"
    + (
      "; below, 95 %\nintervals from resampled seeds." if num_seeds > 1 else "."
    ),
    style="dim",
  )


def _print_evaluations(
  console: Console, evaluations: Sequence[Mapping[str, Any]]
) -> None:
  """Prints every evaluation's accuracies, if there are several."""
  for one in evaluations if len(evaluations) > 1 else ():
    splits = {s: n for arm in one["arms"].values() for s, n in _sizes(arm)}
    table = _table(["arm", *splits.values()])
    for arm, of_arm in one["arms"].items():
      final = of_arm["final"]
      cells = [
        _plus_minus(final[split]["accuracy"]) if split in final else "-"
        for split in splits
      ]
      table.add_row(arm_label(arm), *cells)
    console.print(f"Evaluation: {evaluation_label(one)}", table)


def _sizes(arm: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  """Yields (split, its name, problems and samples) of an evaluation."""
  for split, final in arm["final"].items():
    size = f"{final['num_problems']} x {final['num_samples']}"
    yield split, f"{split_label(split)}\n{size}"


def _print_seeds(console: Console, summary: Mapping[str, Any]) -> None:
  """Prints each seed's final accuracy, and how many seeds took off."""
  for split, name in _shown_splits(summary).items():
    threshold = summary["take_off"].get(split)
    if split == "easy" or threshold is None:
      continue
    table = _table(["arm", "took off"])
    table.add_column(f"each seed, {name}, %", overflow="fold")
    for arm, of_arm in summary["arms"].items():
      if split in of_arm["final"]:
        table.add_row(
          arm_label(arm),
          _count_of(of_arm["final"][split]),
          " ".join(f"{x:>3}" for x in _each_seed(of_arm, split)),
        )
    console.print(table)
    console.print(
      f"took off: ended at {_percent(threshold)} % or more, halfway from the"
      " base model to the best run",
      style="dim",
    )


def _table(columns: Sequence[str]) -> Table:
  table = Table(box=box.SIMPLE_HEAD)
  for i, column in enumerate(columns):
    justify: Any = "left" if i == 0 else "right"
    # Names are wrapped where they are too long, numbers are not.
    table.add_column(column, justify=justify, no_wrap=i > 1)
  return table


def _shown_splits(summary: Mapping[str, Any]) -> dict[str, str]:
  arms = summary["arms"].values()
  return {
    split: name
    for split, name in SPLITS.items()
    if any(split in arm["final"] for arm in arms)
  }


# -- how numbers are written ---------------------------------------------------


def _percent(share: float | None) -> str:
  return "-" if share is None else f"{100 * share:.1f}"


def _key(number: float | None) -> str:
  """Returns what rows are sorted by; nothing where it is undefined."""
  return "" if number is None else f"{number:.6g}"


def _plus_minus(spread: Mapping[str, Any]) -> str:
  deviation = spread["std"]
  tail = "" if deviation is None else f" ± {_percent(deviation)}"
  return _percent(spread["mean"]) + tail


def _times(ratio: float | None) -> str:
  if ratio is None:
    return "-"
  if ratio < 1:
    return f"{ratio:.2g}x"
  return f"{ratio:.1f}x" if ratio < 100 else f"{ratio:.0f}x"


def _speed_up(ratio: float | None) -> str:
  return "never" if ratio == 0 else _times(ratio)


def _points(difference: float | None) -> str:
  return "-" if difference is None else f"{100 * difference:+.1f}"


def _saved(share: float | None) -> str:
  return "-" if share is None else f"{100 * share:.0f} %"


def _each_seed(arm: Mapping[str, Any], split: str) -> list[str]:
  """Returns the final accuracy of every seed that has the split, in %."""
  return [
    f"{100 * run['final'][split]['accuracy']:.0f}"
    for run in arm["runs"].values()
    if split in run["final"]
  ]


def _count_of(final: Mapping[str, Any]) -> str:
  return f"{len(final['took_off'])} of {final['accuracy']['num']}"


def _interval(
  comparison: Mapping[str, Any], write: Callable[[float | None], str]
) -> str:
  """Returns an interval over seeds as text; empty if there is none."""
  if comparison["interval"] is None:
    return ""
  low, high = map(write, comparison["interval"])
  return f"{low} to {high}"


def _with_interval(
  comparison: Mapping[str, Any], write: Callable[[float | None], str]
) -> str:
  text = write(comparison["of_means"])
  between = _interval(comparison, write)
  return f"{text}\n{between}" if between else text


def _total(spread: Mapping[str, Any]) -> str:
  deviation = spread["std"]
  tail = "" if deviation is None else f" ± {_count(deviation)}"
  return _count(spread["mean"]) + tail


def _count(number: float) -> str:
  if number < 1e6:
    return f"{number:,.0f}"
  mantissa, _, exponent = f"{number:.3g}".partition("e")
  return f"{mantissa}e{int(exponent)}"
