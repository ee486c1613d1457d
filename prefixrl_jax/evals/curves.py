"""Records of runs for the summary, and their curves: accuracy over cost."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from prefixrl_jax.evals.training import TrainingRecord
from prefixrl_jax.types import TRAINING, EvalResult

COUNTS = ("flops_paper", "flops_executed", "tokens", "completions")
AXES = tuple(c + suffix for c in COUNTS for suffix in ("", "_with_screening"))
# Training problems are the hard ones; held-out ones are all evaluated, and the
# hard ones among them are shown separately as well.
SPLITS = ("train", "heldout", "heldout_hard", "easy")
BASE = "base"


@dataclasses.dataclass(frozen=True)
class CurvePoint:
  """An arm in the middle of its training.

  Attributes:
    step: training step.
    ledger: purpose -> {flops_paper, flops_executed, tokens, completions,
      seconds}, cumulative; an absent purpose has cost nothing.
    accuracy: split -> mean accuracy on its problems without prefix; splits
      without problems are left out.
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
  results: list[EvalResult]  # from the evaluation after training
  uses_traces: bool
  hard: frozenset[str] = frozenset()  # ids of the problems screened as hard
  training: TrainingRecord = dataclasses.field(default_factory=TrainingRecord)


Runs = Collection[RunRecord]


@dataclasses.dataclass(frozen=True)
class Line:
  """Accuracy over cost; neither may be empty."""

  cost: np.ndarray
  accuracy: np.ndarray


def costs_to_reach(
  cost: np.ndarray, accuracy: np.ndarray, level: np.ndarray
) -> np.ndarray:
  """Returns the costs at which accuracies first reach their levels.

  Args:
    cost: [points], shared by all lines.
    accuracy: [lines, points]; NaN before a line begins and after its end.
    level: [lines].

  Returns:
    [lines]; interpolated between points, infinite where a level is not reached.
  """
  reached = accuracy >= level[:, None]
  i = reached.argmax(axis=1)
  before = np.maximum(i - 1, 0)
  line = np.arange(len(accuracy))
  rise = accuracy[line, i] - accuracy[line, before]
  share = (level - accuracy[line, before]) / np.where(rise == 0, 1, rise)
  crossing = cost[before] + share * (cost[i] - cost[before])
  begins = (i == 0) | np.isnan(accuracy[line, before])
  crossing = np.where(begins, cost[i], crossing)
  return np.where(reached.any(axis=1), crossing, np.inf)


def cost_to_reach(
  cost: np.ndarray, accuracy: np.ndarray, level: float
) -> float | None:
  """Returns the cost at which accuracy first reaches level, None if never."""
  reached = costs_to_reach(cost, accuracy[None], np.array([level]))[0]
  return float(reached) if np.isfinite(reached) else None


def costs_of(run: RunRecord, axis: str) -> np.ndarray:
  """Returns the axis' value at each of the run's curve points.

  Raises:
    ValueError: the costs shrink from one point to the next.
  """
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
  """Returns the lines of the runs that have a curve for this split."""
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


def mean_lines(
  lines: Sequence[Line], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns weighted means of lines, each where all of its lines are defined.

  Args:
    lines: at least one.
    weights: [means, lines]; each row sums to 1, or is NaN.

  Returns:
    Costs [points] and accuracies [means, points]; NaN where a line of weight
    above 0 is not defined.
  """
  cost = np.unique(np.concatenate([line.cost for line in lines]))
  values = np.stack([np.interp(cost, x.cost, x.accuracy) for x in lines])
  outside = np.stack([(cost < x.cost[0]) | (cost > x.cost[-1]) for x in lines])
  means = weights @ values
  means[(weights > 0) @ outside.astype(np.float64) > 0] = np.nan
  return cost, means


def results_of(
  run: RunRecord, split: str, *, fraction: float | None = None
) -> list[EvalResult]:
  """Returns a split's results, at one share revealed or at all."""
  is_hard = split == "heldout_hard"
  return [
    e
    for e in run.results
    if e.split == ("heldout" if is_hard else split)
    and (not is_hard or e.problem_id in run.hard)
    and (fraction is None or e.fraction == fraction)
  ]


def final_accuracy(runs: Runs, split: str) -> float | None:
  """Returns the mean final accuracy of the runs that have this split."""
  finals = [
    np.mean([e.num_correct / e.num_samples for e in results])
    for run in runs
    if (results := results_of(run, split, fraction=0))
  ]
  return float(np.mean(finals)) if finals else None


def curve_splits(runs: Runs) -> list[str]:
  """Returns the splits that the curves have, in the order of SPLITS."""
  return in_order(run.curve[0].accuracy for run in runs if run.curve)


def in_order(keys: Iterable[Iterable[str]]) -> list[str]:
  """Returns the splits that are among the keys, in the order of SPLITS."""
  present = {key for some in keys for key in some}
  return [split for split in SPLITS if split in present]
