"""A method against a baseline: speed-ups and ratios, with seeds resampled.

`summary.py` defines the numbers, which are part of its schema.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from prefixrl_jax.evals.curves import (
  AXES,
  SPLITS,
  RunRecord,
  costs_to_reach,
  final_accuracy,
  lines_of,
  mean_lines,
)
from prefixrl_jax.evals.intervals import resampling_weights, spread

# One arm's records, in the order of their seeds.
Records = list[RunRecord]
# (method, baseline, weights of their seeds [resamples, seeds], each) -> a value
# for every resample, NaN where it is undefined; None if it is for all of them.
Measure = Callable[
  [Records, Records, np.ndarray, np.ndarray], np.ndarray | None
]


def compare_arms(
  method: Mapping[int, RunRecord], baseline: Mapping[int, RunRecord]
) -> dict[str, Any]:
  """Returns `versus` of one baseline; see `summary.py`.

  Args:
    method, baseline: by seed.
  """
  versus = {}
  for split in SPLITS:
    theirs = list(baseline.values())
    line = _mean_lines(theirs, _evenly(theirs), "flops_paper", split)
    target = np.nan if line is None else _ends(*line)[1][0]
    if np.isnan(target) and final_accuracy(theirs, split) is None:
      continue
    measure = functools.partial(_speed_ups, split=split)
    speed_up, to_crossing = (
      {
        axis: _compare(
          functools.partial(measure, axis=axis, first_crossing=first_crossing),
          method,
          baseline,
        )
        for axis in AXES
      }
      for first_crossing in (False, True)
    )
    versus[split] = {
      "accuracy": None if np.isnan(target) else float(target),
      "speed_up": speed_up,
      "speed_up_first_crossing": to_crossing,
      "interactions_saved": _saved(speed_up["completions"]),
      "final_ratio": _compare(
        functools.partial(_final_ratios, split=split), method, baseline
      ),
      "final_difference": compare_finals(method, baseline, split),
    }
  return versus


def compare_finals(
  arm: Mapping[int, RunRecord], other: Mapping[int, RunRecord], split: str
) -> dict[str, Any]:
  """Returns an arm's final accuracy minus another's, as a COMPARISON.

  Args:
    arm, other: by seed.
    split: whose accuracy is compared.
  """
  measure = functools.partial(_final_differences, split=split)
  return _compare(measure, arm, other)


def compare_curves(
  method: Mapping[int, RunRecord], baseline: Mapping[int, RunRecord], split: str
) -> dict[str, Any]:
  """Returns what needs no evaluation after training, two COMPARISONs.

  `ratio` is of accuracies at the curves' last points, `speed_up` that of
  `summary.py` in the paper's FLOPs.

  Args:
    method, baseline: by seed; all with a curve.
    split: of the curves.
  """
  speed_ups = functools.partial(
    _speed_ups, axis="flops_paper", split=split, first_crossing=False
  )
  last_ratios = functools.partial(_last_ratios, split=split)
  return {
    "ratio": _compare(last_ratios, method, baseline),
    "speed_up": _compare(speed_ups, method, baseline),
  }


def _saved(speed_up: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what share of a cost a speed-up saves; null: never reached."""
  saved = lambda times: 1 - 1 / times if times else None
  seeds = {seed: saved(times) for seed, times in speed_up["seeds"].items()}
  ends = speed_up["interval"]
  return {
    "of_means": saved(speed_up["of_means"]),
    "interval": ends and [saved(times) for times in ends],
    "undefined": speed_up["undefined"],
    "seeds": seeds,
    "spread": spread(seeds.values()),
  }


def _compare(
  measure: Measure,
  method: Mapping[int, RunRecord],
  baseline: Mapping[int, RunRecord],
) -> dict[str, Any]:
  """Ratios of means over seeds, of each common seed, and of resamples."""
  shared = sorted(method.keys() & baseline.keys())

  def of_means(ours: Records, theirs: Records) -> float | None:
    values = measure(ours, theirs, _evenly(ours), _evenly(theirs))
    return None if values is None or np.isnan(values[0]) else float(values[0])

  values = {str(s): of_means([method[s]], [baseline[s]]) for s in shared}
  return {
    "of_means": of_means(list(method.values()), list(baseline.values())),
    **_seed_bootstrap(
      measure, [method[s] for s in shared], [baseline[s] for s in shared]
    ),
    "seeds": values,
    "spread": spread(values.values()),
  }


def _seed_bootstrap(
  measure: Measure, method: Records, baseline: Records
) -> dict[str, Any]:
  """The 95 % interval of `of_means` from resampled pairs of seeds."""
  if len(method) < 2:
    return {"interval": None, "undefined": None}
  weights = resampling_weights(len(method))
  values = measure(method, baseline, weights, weights)
  if values is None:
    return {"interval": None, "undefined": 1.0}
  defined = values[~np.isnan(values)]
  return {
    "interval": [float(q) for q in np.quantile(defined, [0.025, 0.975])]
    if defined.size
    else None,
    "undefined": float(np.mean(np.isnan(values))),
  }


def _evenly(runs: Records) -> np.ndarray:
  return np.full((1, len(runs)), 1 / len(runs))


def _speed_ups(
  method: Records,
  baseline: Records,
  method_weights: np.ndarray,
  baseline_weights: np.ndarray,
  *,
  axis: str,
  split: str,
  first_crossing: bool,
) -> np.ndarray | None:
  """Returns the baseline's cost / the method's; 0 means never reached."""
  fast = _mean_lines(method, method_weights, axis, split)
  slow = _mean_lines(baseline, baseline_weights, axis, split)
  if fast is None or slow is None:
    return None
  cost, ours = fast
  spent_at, theirs = slow
  end, target = _ends(spent_at, theirs)
  spent = costs_to_reach(spent_at, theirs, target) if first_crossing else end
  needed = costs_to_reach(cost, ours, target)
  undefined = (target == 0) | (spent == 0) | (needed == 0)
  undefined |= np.isnan(target) | np.isnan(ours).all(axis=1)
  # A draw without a target reaches it nowhere, on both sides.
  needed = np.where(undefined, 1, needed)
  return np.where(undefined, np.nan, spent / needed)


def _final_ratios(
  method: Records,
  baseline: Records,
  method_weights: np.ndarray,
  baseline_weights: np.ndarray,
  *,
  split: str,
) -> np.ndarray | None:
  """Returns the ratios of mean final accuracies."""
  finals = _finals(method, baseline, method_weights, baseline_weights, split)
  if finals is None:
    return None
  return _ratios(*finals)


def _last_ratios(
  method: Records,
  baseline: Records,
  method_weights: np.ndarray,
  baseline_weights: np.ndarray,
  *,
  split: str,
) -> np.ndarray:
  """Returns the ratios of mean accuracies at the curves' last points."""
  ours, theirs = (
    weights @ np.array([run.curve[-1].accuracy[split] for run in runs])
    for runs, weights in (
      (method, method_weights),
      (baseline, baseline_weights),
    )
  )
  return _ratios(ours, theirs)


def _ratios(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
  """Returns the ratios; nan to a mean of 0."""
  return ours / np.where(theirs == 0, np.nan, theirs)


def _final_differences(
  method: Records,
  baseline: Records,
  method_weights: np.ndarray,
  baseline_weights: np.ndarray,
  *,
  split: str,
) -> np.ndarray | None:
  """Returns the differences of mean final accuracies."""
  finals = _finals(method, baseline, method_weights, baseline_weights, split)
  return None if finals is None else finals[0] - finals[1]


def _finals(
  method: Records,
  baseline: Records,
  method_weights: np.ndarray,
  baseline_weights: np.ndarray,
  split: str,
) -> tuple[np.ndarray, np.ndarray] | None:
  """Returns mean final accuracies of both, [resamples] each."""
  means = []
  for runs, weights in ((method, method_weights), (baseline, baseline_weights)):
    finals = [final_accuracy([run], split) for run in runs]
    has_one = np.array([final is not None for final in finals])
    if not has_one.any():
      return None
    defined = np.array([final for final in finals if final is not None])
    means.append(_among(weights, has_one) @ defined)
  ours, theirs = means
  return ours, theirs


def _mean_lines(
  runs: Records, weights: np.ndarray, axis: str, split: str
) -> tuple[np.ndarray, np.ndarray] | None:
  """Returns costs [points] and mean accuracies [resamples, points]."""
  lines = [lines_of([run], axis, split) for run in runs]
  has_one = np.array([bool(line) for line in lines])
  if not has_one.any():
    return None
  return mean_lines(
    [line for some in lines for line in some], _among(weights, has_one)
  )


def _ends(
  cost: np.ndarray, accuracy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the ends of lines [lines, points]: cost, and accuracy or NaN."""
  points = np.arange(len(cost))
  last = np.where(np.isnan(accuracy), 0, points).max(axis=1)
  return cost[last], accuracy[np.arange(len(accuracy)), last]


def _among(weights: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  """Returns the chosen seeds' weights; NaN in rows that have none."""
  weights = weights[:, chosen]
  total = weights.sum(axis=1, keepdims=True)
  return weights / np.where(total == 0, np.nan, total)
