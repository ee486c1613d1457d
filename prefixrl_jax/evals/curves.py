"""Runs as the summary takes them, and their curves: accuracy over cost."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from prefixrl_jax.types import TRAINING, EvalResult

COUNTS = ("flops_paper", "flops_executed", "tokens", "completions")
AXES = tuple(c + suffix for c in COUNTS for suffix in ("", "_with_screening"))
SPLITS = ("train", "heldout", "easy")


@dataclasses.dataclass(frozen=True)
class CurvePoint:
  """An arm in the middle of its training.

  Attributes:
    step: of training.
    ledger: purpose -> {flops_paper, flops_executed, tokens, completions,
      seconds}, cumulative; an absent purpose has cost nothing.
    accuracy: split -> mean accuracy on its problems without prefix.
  """

  step: int
  ledger: dict[str, dict[str, float]]
  accuracy: dict[str, float]


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """One arm and seed; the base model is the arm "base" with no curve."""

  arm: str
  seed: int
  curve: list[CurvePoint]
  results: list[EvalResult]  # of the evaluation after training
  uses_traces: bool


Runs = Collection[RunRecord]


@dataclasses.dataclass(frozen=True)
class Line:
  """Accuracy over cost; neither may be empty."""

  cost: np.ndarray
  accuracy: np.ndarray


def cost_to_reach(
  cost: np.ndarray, accuracy: np.ndarray, level: float
) -> float | None:
  """Returns the cost at which accuracy first reaches level, None if never."""
  reached = np.flatnonzero(accuracy >= level)
  if not reached.size:
    return None
  i = reached[0]
  if i == 0:
    return float(cost[0])
  share = (level - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1])
  return float(cost[i - 1] + share * (cost[i] - cost[i - 1]))


def costs_of(run: RunRecord, axis: str) -> np.ndarray:
  """Returns the axis' value at each of the run's curve points."""
  count = axis.removesuffix("_with_screening")
  purposes = list(TRAINING)
  if count != axis and run.uses_traces:
    purposes.append("screening")
  costs = np.array(
    [
      sum(p.ledger[name][count] for name in purposes if name in p.ledger)
      for p in run.curve
    ],
    np.float64,
  )
  if np.any(np.diff(costs) < 0):
    raise ValueError(f"{axis} of {run.arm} seed {run.seed} shrinks")
  return costs


def lines_of(runs: Runs, axis: str, split: str) -> list[Line]:
  """Returns the lines of the runs that have a curve of this split."""
  return [
    Line(
      costs_of(run, axis),
      np.array([p.accuracy[split] for p in run.curve], np.float64),
    )
    for run in runs
    if split in curve_splits([run])
  ]


def on_common_costs(lines: Sequence[Line]) -> tuple[np.ndarray, np.ndarray]:
  """Interpolates lines onto the costs at which all of them are defined.

  Returns:
    Costs [points] and accuracies [lines, points].
  """
  start = max(line.cost[0] for line in lines)
  end = min(line.cost[-1] for line in lines)
  cost = np.unique(np.concatenate([line.cost for line in lines]))
  cost = cost[(cost >= start) & (cost <= end)]
  return cost, np.stack([np.interp(cost, x.cost, x.accuracy) for x in lines])


def mean_line(runs: Runs, axis: str, split: str) -> Line | None:
  """Returns the mean of the runs' lines; None if they have no common costs."""
  lines = lines_of(runs, axis, split)
  if not lines:
    return None
  cost, values = on_common_costs(lines)
  return Line(cost, values.mean(axis=0)) if cost.size else None


def curve_splits(runs: Runs) -> list[str]:
  """Returns the splits that curves have, in the order of SPLITS."""
  return in_order(run.curve[0].accuracy for run in runs if run.curve)


def in_order(keys: Iterable[Iterable[str]]) -> list[str]:
  """Returns the splits that some of the keys hold, in the order of SPLITS."""
  present = {key for some in keys for key in some}
  return [split for split in SPLITS if split in present]
