"""A sweep's results: ranked, as Markdown and JSON.

`rank` returns, for each point in the order of the table,

  arm, settings: {field: value}
  workdir: of its runs
  error: why it has not finished; empty: it has
  seeds: {seed: {heldout, train, area, flops}}    at the end of its curve
  heldout, train, area: SPREAD over the seeds     as in evals/summary.py
  is_best: whether it is the best of its arm

Accuracies are without prefix, at the last point of the curve; null where there
are no such problems. `area` is the mean of the curve over the budget: of two
points that end equally well, the one that got there earlier has more. Ranked by
held-out accuracy (training accuracy without held-out problems), then by area,
both means over seeds; points with other problems are ranked apart.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefixrl_jax.evals.curves import RunRecord, costs_of
from prefixrl_jax.evals.intervals import spread
from prefixrl_jax.sweep.points import Point

_AXIS = "flops_paper"
_COLUMNS = ("heldout", "train", "area")
_PROBLEMS = ("config.problems.", "config.model.base", "config.pretrain.")


@dataclasses.dataclass(frozen=True)
class Collected:
  """What the traces of a point took, all of its seeds together.

  Attributes:
    attempts: samples for each problem with a trace.
    traced: problems with a trace, mean over seeds.
  """

  attempts: float
  traced: float


@dataclasses.dataclass(frozen=True)
class Result:
  """What has come of a point.

  Attributes:
    point: of the sweep.
    workdir: of its runs.
    runs: of each seed that has finished.
    error: in one line; empty: all seeds have.
    collected: what its traces took; None: it has none, or others' ones.
  """

  point: Point
  workdir: str
  runs: Sequence[RunRecord]
  error: str = ""
  collected: Collected | None = None

  @property
  def problems(self) -> tuple[tuple[str, str], ...]:
    """The settings that make its problems, and the model they are hard for."""
    return tuple(s for s in self.point.settings if s[0].startswith(_PROBLEMS))


def rank(results: Sequence[Result]) -> list[dict[str, Any]]:
  """Returns the module's records: arm by arm, the best point first.

  Args:
    results: of all points, arms in display order.
  """
  order: list[Any] = []
  for result in results:
    if (place := (result.problems, result.point.arm)) not in order:
      order.append(place)
  records = []
  for place in order:
    some = [r for r in results if (r.problems, r.point.arm) == place]
    ranked = sorted(map(_record, some), key=_merit, reverse=True)
    for i, record in enumerate(ranked):
      has_result = bool(record["seeds"]) and not record["error"]
      records.append(record | {"is_best": i == 0 and has_result})
  return records


def _record(result: Result) -> dict[str, Any]:
  seeds = {str(run.seed): _of_run(run) for run in result.runs}
  return {
    "arm": result.point.arm,
    "settings": {
      path.removeprefix("config."): v for path, v in result.point.settings
    },
    "workdir": result.workdir,
    "error": result.error,
    "seeds": seeds,
    **{name: spread(s[name] for s in seeds.values()) for name in _COLUMNS},
  }


def _of_run(run: RunRecord) -> dict[str, float | None]:
  last = run.curve[-1].accuracy
  split = "heldout" if "heldout" in last else "train"
  return {
    "heldout": last.get("heldout"),
    "train": last.get("train"),
    "area": area(run, split) if split in last else None,
    "flops": float(costs_of(run, _AXIS)[-1]),
  }


def area(run: RunRecord, split: str) -> float:
  """Returns the mean accuracy over the FLOPs from 0 to the curve's last point.

  Before its first point, while traces are collected, the policy is the first
  point's.

  Args:
    run: with a curve.
    split: that the curve has.
  """
  cost = np.concatenate([[0.0], costs_of(run, _AXIS)])
  points = [point.accuracy[split] for point in run.curve]
  accuracy = np.array([points[0], *points])
  if not cost[-1]:
    return float(accuracy[-1])
  means = (accuracy[1:] + accuracy[:-1]) / 2
  return float(np.sum(np.diff(cost) * means) / cost[-1])


def _merit(record: dict[str, Any]) -> tuple[float, ...]:
  """Sorts: finished points before others, then by accuracy and area."""
  key = "train" if record["heldout"]["mean"] is None else "heldout"
  values = (record[key]["mean"], record["area"]["mean"])
  return (not record["error"], *(-1.0 if v is None else v for v in values))


def markdown(records: Sequence[dict[str, Any]], num_seeds: int) -> str:
  """Returns the table: a line a point, the best of each arm in bold.

  Args:
    records: from `rank`.
    num_seeds: that were asked for.
  """
  fields = _fields(records)
  header = ["arm", *fields.values(), "seeds", "held-out", "training", "area"]
  lines = [line(header), "|" + "---|" * len(header)]
  for record in records:
    arm, settings = record["arm"], record["settings"]
    values = [settings.get(p.replace("{arm}", arm), "") for p in fields]
    cells = [arm, *values, f"{len(record['seeds'])}"]
    cells += [_accuracy(record[name]) for name in _COLUMNS]
    if record["is_best"]:
      cells = [f"**{cell}**" if cell else cell for cell in cells]
    if record["error"]:
      cells[-3:] = [record["error"].replace("|", "\\|"), "", ""]
    lines.append(line(cells))
  over = f"{num_seeds} seed{'s' if num_seeds != 1 else ''}"
  return (
    "\n".join(lines)
    + "\n\nAccuracy without prefix at the end of the budget: mean (least to"
    f" most) over {over}. Area: mean accuracy over the FLOPs of the budget,\n"
    "collection included. Best point of each arm in bold, by held-out accuracy,"
    " then area.\n"
  )


def _fields(records: Sequence[dict[str, Any]]) -> dict[str, str]:
  """Returns {path, with {arm} for arms: column}, the shortest that differ."""
  paths: dict[str, None] = {}
  for record in records:
    own = f"arms.{record['arm']}."
    for path in record["settings"]:
      is_own = path.startswith(own)
      paths["arms.{arm}." + path.removeprefix(own) if is_own else path] = None
  names = {}
  for path in paths:
    parts = path.removeprefix("arms.{arm}.").split(".")
    others = [p for p in paths if p != path]
    for count in range(1, len(parts) + 1):
      name = ".".join(parts[-count:])
      if not any(p == name or p.endswith(f".{name}") for p in others):
        break
    names[path] = name
  return names


def line(cells: Sequence[str]) -> str:
  """Returns a line of a Markdown table."""
  return "| " + " | ".join(cells) + " |"


def _accuracy(values: dict[str, Any]) -> str:
  if values["mean"] is None:
    return "-"
  mean, least, most = (f"{values[k]:.2f}" for k in ("mean", "min", "max"))
  if values["num"] == 1:
    return mean
  return f"{mean} ({least} to {most})"


def best_runs(
  results: Sequence[Result], records: Sequence[dict[str, Any]]
) -> dict[str, list[RunRecord]]:
  """Returns {title: runs of the best point of each arm}, for a figure.

  Args:
    results: of all points.
    records: of these, from `rank`.
  """
  best = {r["workdir"] for r in records if r["is_best"]}
  panels = {}
  for problems, some in itertools.groupby(
    sorted(results, key=lambda r: r.problems), lambda r: r.problems
  ):
    runs = [run for r in some if r.workdir in best for run in r.runs]
    title = ", ".join(f"{p.rpartition('.')[2]} {v}" for p, v in problems)
    if runs:
      panels[title] = runs
  return panels
