"""What training left beside the curve, over its cost: norms, signal, strategy.

`over_training` returns a dict for summary.json, of an arm's seeds together:

  steps: {measure: {kind: LINE}}   grad_norm, grad_norm_std, signal, entropy and
                                   marker, those that there are
  sources: {author: LINE}          accuracy after prefixes of its traces
  prefix_kl: {position, mean, min, max} or null: of the final policy, per token
    of its rollouts after prefixes, log p(token | prefix) - log p(token | none),
    which in the mean is the KL divergence of the two; by windows of tokens

  LINE: {cost, mean, min, max}, lists with a value per window of training FLOPs
    (the paper's count): the window's middle; mean, minimum and maximum over the
    seeds of their means over the window's steps.

A kind is "no_prefix" or "prefixed", for the completions of such problems and
what was learnt from them; a norm's "all" is of the whole update. grad_norm_std
is the standard deviation over a window's steps. signal is the share of groups
whose rewards are not all the same; of runs from before that was recorded, those
with both right and wrong completions.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

KINDS = ("all", "no_prefix", "prefixed")
# A window has some steps of each seed, so that they have a deviation.
_MOST_WINDOWS, _STEPS_OF_WINDOW = 32, 4
_POSITIONS = 16  # windows of tokens

Row = Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
  """What the training of one run left.

  Attributes:
    rows: of metrics.jsonl.
    prefixed: (step, author of the trace, accuracy) of groups that were given a
      share of a trace whose author is known.
    prefix_gains: of some of its last rollouts after prefixes, by how much the
      prefix raises each token's log-probability, float [length].
  """

  rows: Sequence[Row] = ()
  prefixed: Sequence[tuple[int, str, float]] = ()
  prefix_gains: Sequence[np.ndarray] = ()


class _Points:
  """Values of one run over the cost at which they were measured."""

  def __init__(self, pairs: Iterable[tuple[float | None, float | None]]):
    there = [(c, v) for c, v in pairs if c is not None and v is not None]
    self.cost = np.array([c for c, _ in there], np.float64)
    self.value = np.array([v for _, v in there], np.float64)


def over_training(records: Sequence[TrainingRecord]) -> dict[str, Any]:
  """Returns what the module's docstring says.

  Args:
    records: of an arm's seeds; those of old runs may be empty.
  """
  costs = [
    [cost for row in r.rows if (cost := row.get("flops_paper")) is not None]
    for r in records
  ]
  there = [of_run for of_run in costs if of_run]
  if not there:
    return {"steps": {}, "sources": {}, "prefix_kl": None}
  windows = min(map(len, there)) // _STEPS_OF_WINDOW
  edges = np.linspace(
    min(map(min, there)),
    max(map(max, there)),
    1 + int(np.clip(windows, 1, _MOST_WINDOWS)),
  )
  steps: dict[str, dict[str, Any]] = {}
  for measure in ("grad_norm", "signal", "entropy", "marker"):
    for kind in KINDS:
      points = [
        _Points(
          (row.get("flops_paper"), _value(row, measure, kind)) for row in r.rows
        )
        for r in records
      ]
      _add(steps, measure, kind, _line(points, edges, np.mean))
      if measure == "grad_norm":
        _add(steps, "grad_norm_std", kind, _line(points, edges, _deviation))
  cost_at = [
    {row["step"]: row.get("flops_paper") for row in r.rows} for r in records
  ]
  authors = sorted({author for r in records for _, author, _ in r.prefixed})
  return {
    "steps": steps,
    "sources": {
      author: _line(
        [
          _Points((at.get(s), x) for s, a, x in r.prefixed if a == author)
          for r, at in zip(records, cost_at)
        ],
        edges,
        np.mean,
      )
      for author in authors
    },
    "prefix_kl": _prefix_kl(records),
  }


def _prefix_kl(records: Sequence[TrainingRecord]) -> dict[str, Any] | None:
  gains = [r.prefix_gains for r in records]
  longest = max((len(g) for of_run in gains for g in of_run), default=0)
  if not longest:
    return None
  line = _line(
    [
      _Points(pair for g in of_run for pair in enumerate(g)) for of_run in gains
    ],
    np.linspace(0, longest, min(longest, _POSITIONS) + 1),
    np.mean,
  )
  return {"position": line.pop("cost"), **line}


def _add(steps: dict, measure: str, kind: str, line: dict[str, list]) -> None:
  if line["cost"]:
    steps.setdefault(measure, {})[kind] = line


def _value(row: Row, measure: str, kind: str) -> float | None:
  """Returns a step's value, None if there is none."""
  if kind == "all":
    return row.get(f"train/{measure}")
  if f"train/{kind}/accuracy" not in row:
    return None  # of no completion: an update reports 0
  if measure == "signal" and f"train/{kind}/signal" not in row:
    some, every = (
      row.get(f"train/{kind}/{which}_correct") for which in ("any", "all")
    )
    return None if some is None or every is None else some - every
  return row.get(f"train/{kind}/{measure}")


def _deviation(values: np.ndarray) -> float:
  return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def _line(
  runs: Sequence[_Points],
  edges: np.ndarray,
  reduce: Callable[[np.ndarray], Any],
) -> dict[str, list[float]]:
  """Returns a LINE, of the windows in which a run has values.

  Args:
    runs: a seed each.
    edges: of the windows, [windows + 1].
    reduce: from a run's values in a window to one, NaN for none.
  """
  line: dict[str, list[float]] = {
    name: [] for name in ("cost", "mean", "min", "max")
  }
  windows = [
    np.clip(np.searchsorted(edges, run.cost, "right") - 1, 0, len(edges) - 2)
    for run in runs
  ]
  for i, middle in enumerate((edges[1:] + edges[:-1]) / 2):
    in_window = [run.value[w == i] for run, w in zip(runs, windows)]
    values = np.array([reduce(some) for some in in_window if some.size])
    values = values[~np.isnan(values)]
    if values.size:
      line["cost"].append(float(middle))
      line["mean"].append(float(values.mean()))
      line["min"].append(float(values.min()))
      line["max"].append(float(values.max()))
  return line
