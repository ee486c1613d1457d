"""From the records of all runs to one summary, ready for JSON.

`summarize` returns the dict below. Numbers are plain; what is undefined is
null, never NaN or infinite. Seeds, levels and k are strings where they are
keys, so that the summary equals what JSON gives back.

  method: the arm that the others are compared with
  seeds: [seed, ...] of all arms
  arms: {arm: {
    uses_traces: whether the arm pays for collection
    runs: {seed: {
      curve: {
        step: [...]
        cost: {axis: [...]}          cumulative, a value per curve point
        accuracy: {split: [...]}     no prefix, a value per curve point
      }
      costs: {purpose: {flops_paper, flops_executed, tokens, completions,
                        seconds}}    at the curve's last point; also
                                     "training", a sum; {} without a curve
      final: {split: {accuracy, interval: [low, high], num_problems,
                      num_samples, pass_at_k: {k: value}}}
      cost_to_level: {axis: {split: {level: cost}}}
    }}
    costs: {purpose: {...}}          means over the seeds that have a curve
    mean_curve: {axis: {split: {cost, mean, min, max}}}      lists
    final: {split: {accuracy: SPREAD, pass_at_k: {k: SPREAD}}}
    by_fraction: {split: {fraction: [...], mean, min, max: [...],
                          seeds: {seed: [...]}}}
  }}
  versus: {baseline: {split: {
    accuracy: the last value of the baseline's mean curve, to be reached
    speed_up: {axis: COMPARISON}
    speed_up_first_crossing: {axis: COMPARISON}
    final_ratio: COMPARISON
  }}}

  SPREAD: {mean, min, max, std, num} over the seeds where the value is
    defined; std is that of a sample, so null for a single seed.
  COMPARISON: {of_means, seeds: {seed: value}, spread: SPREAD}

**Axes.** An axis is a count (flops_paper, flops_executed, tokens, completions)
summed over collection, sft, sampling and update; evaluation is nobody's
training cost. Screening, which finds out what problems are hard, is left out
as in the paper; `<count>_with_screening` adds it to arms that use traces.

**Final accuracy.** `final` and `final_ratio` come from the evaluation after
training (fraction 0: no prefix). Speed-ups use a curve's own last point, so
that both of their sides are measured on one scale.

**Reaching an accuracy.** The cost at the first crossing, interpolated linearly
between curve points; an accuracy that the first point has costs what the
first point costs.

**speed_up** = the whole cost of the baseline / the method's cost to reach the
accuracy that the baseline ends with, as the paper states its speed-ups.
`speed_up_first_crossing` is harder on the method: the baseline's cost ends
where its own curve first has that accuracy, which for a curve that is flat or
noisy may be long before its end. 0: the method never reaches the accuracy.
null: there is nothing to speed up (the baseline ends at accuracy 0, or has it
at cost 0), the method is there at cost 0, or one of them has no curve. A final
accuracy that is barely above 0 makes speed-ups and the ratio noise; read them
next to it.

**Means over seeds.** Per-seed comparisons pair equal seeds. `of_means` compares
the mean curves: accuracy averaged over seeds at equal cost, where all seeds of
the arm are defined (no run is before its first point or past its last one).
Its knots are those of all seeds, which makes it exact.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prefixrl_jax.evals.curves import (
  AXES,
  COUNTS,
  SPLITS,
  RunRecord,
  Runs,
  cost_to_reach,
  costs_of,
  curve_splits,
  in_order,
  lines_of,
  mean_line,
  on_common_costs,
)
from prefixrl_jax.evals.statistics import bootstrap_interval, pass_at_k
from prefixrl_jax.types import PURPOSES, TRAINING, EvalResult, UserError

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BASE = "base"
# Where the method starts, and a part of the method: no rivals of it.
NOT_BASELINES = (BASE, "prefixrl_only")


def summarize(
  runs: Sequence[RunRecord], *, method: str = "prefixrl"
) -> dict[str, Any]:
  """Returns the summary of all runs; the module's docstring is its schema.

  Args:
    runs: arms in the order in which they shall be shown.
    method: the arm to compare the others with; without runs of it there are
      no comparisons.

  Raises:
    UserError: there are no runs.
    ValueError: two runs have the same arm and seed, or costs shrink.
  """
  if not runs:
    raise UserError("There are no runs to report; train at least one arm.")
  arms: dict[str, dict[int, RunRecord]] = {}
  for run in runs:
    if run.seed in arms.setdefault(run.arm, {}):
      raise ValueError(f"two runs of {run.arm} with seed {run.seed}")
    arms[run.arm][run.seed] = run
  rivals = [a for a in arms if a != method and a not in NOT_BASELINES]
  return {
    "method": method,
    "seeds": sorted({run.seed for run in runs}),
    "arms": {arm: _summarize_arm(by_seed) for arm, by_seed in arms.items()},
    "versus": {rival: _versus(arms[method], arms[rival]) for rival in rivals}
    if method in arms
    else {},
  }


# -- one arm -------------------------------------------------------------------


def _summarize_arm(by_seed: Mapping[int, RunRecord]) -> dict[str, Any]:
  runs = {str(s): _summarize_run(by_seed[s]) for s in sorted(by_seed)}
  splits = in_order(run["final"] for run in runs.values())
  finals = {
    split: [r["final"][split] for r in runs.values() if split in r["final"]]
    for split in splits
  }
  mean_curve: dict[str, dict[str, Any]] = {}
  for axis in AXES:
    mean_curve[axis] = {}
    for split in curve_splits(by_seed.values()):
      cost, values = on_common_costs(lines_of(by_seed.values(), axis, split))
      mean_curve[axis][split] = {
        "cost": cost.tolist(),
        "mean": values.mean(axis=0).tolist(),
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
      }
  return {
    "uses_traces": any(run.uses_traces for run in by_seed.values()),
    "runs": runs,
    "costs": _mean_costs([r["costs"] for r in runs.values() if r["costs"]]),
    "mean_curve": mean_curve,
    "final": {
      split: {
        "accuracy": _spread(f["accuracy"] for f in finals[split]),
        "pass_at_k": {
          k: _spread(f["pass_at_k"].get(k) for f in finals[split])
          for k in max((f["pass_at_k"] for f in finals[split]), key=len)
        },
      }
      for split in splits
    },
    "by_fraction": {
      split: _by_fraction(by_seed, split)
      for split in SPLITS
      if any(e.split == split for r in by_seed.values() for e in r.results)
    },
  }


def _summarize_run(run: RunRecord) -> dict[str, Any]:
  splits = curve_splits([run])
  unprefixed = [e for e in run.results if e.fraction == 0]
  return {
    "curve": {
      "step": [point.step for point in run.curve],
      "cost": {axis: costs_of(run, axis).tolist() for axis in AXES},
      "accuracy": {s: [p.accuracy[s] for p in run.curve] for s in splits},
    },
    "costs": _last_costs(run),
    "final": {
      split: _final([e for e in unprefixed if e.split == split])
      for split in SPLITS
      if any(e.split == split for e in unprefixed)
    },
    "cost_to_level": {
      axis: {
        split: {
          str(level): cost_to_reach(line.cost, line.accuracy, level)
          for level in LEVELS
        }
        for split in splits
        for line in lines_of([run], axis, split)
      }
      for axis in AXES
    },
  }


def _last_costs(run: RunRecord) -> dict[str, dict[str, float]]:
  if not run.curve:
    return {}
  ledger = run.curve[-1].ledger
  nothing = dict.fromkeys((*COUNTS, "seconds"), 0.0)
  costs = {p: dict(ledger[p]) if p in ledger else nothing for p in PURPOSES}
  total = {name: sum(costs[p][name] for p in TRAINING) for name in nothing}
  return costs | {"training": total}


def _mean_costs(
  costs: Sequence[dict[str, dict[str, float]]],
) -> dict[str, dict[str, float]]:
  return {
    purpose: {
      name: float(np.mean([c[purpose][name] for c in costs])) for name in fields
    }
    for purpose, fields in (costs[0].items() if costs else ())
  }


def _final(results: Sequence[EvalResult]) -> dict[str, Any]:
  n = np.array([e.num_samples for e in results])
  c = np.array([e.num_correct for e in results])
  ks = [2**i for i in range(int(n.min()).bit_length())]
  return {
    "accuracy": float(np.mean(c / n)),
    "interval": list(bootstrap_interval(c / n)),
    "num_problems": len(results),
    "num_samples": int(n.min()),
    "pass_at_k": {str(k): float(np.mean(pass_at_k(n, c, k))) for k in ks},
  }


def _by_fraction(by_seed: Mapping[int, RunRecord], split: str) -> dict:
  """Mean accuracy over problems, by the share of the trace revealed."""
  judged: dict[int, dict[float, list[float]]] = {s: {} for s in sorted(by_seed)}
  for seed, run in by_seed.items():
    for e in run.results:
      if e.split == split:
        share = e.num_correct / e.num_samples
        judged[seed].setdefault(e.fraction, []).append(share)
  fractions = sorted({f for by_share in judged.values() for f in by_share})
  seeds = {
    str(seed): [
      float(np.mean(by_share[f])) if f in by_share else None for f in fractions
    ]
    for seed, by_share in judged.items()
  }
  spreads = [_spread(values) for values in zip(*seeds.values())]
  return {
    "fraction": fractions,
    **{name: [s[name] for s in spreads] for name in ("mean", "min", "max")},
    "seeds": seeds,
  }


# -- the method against a baseline ---------------------------------------------


def _versus(
  method: Mapping[int, RunRecord], baseline: Mapping[int, RunRecord]
) -> dict[str, Any]:
  versus = {}
  for split in SPLITS:
    target = mean_line(baseline.values(), "flops_paper", split)
    if target is None and not _finals(baseline.values(), split):
      continue
    versus[split] = {
      "accuracy": None if target is None else float(target.accuracy[-1]),
      **{
        name: {
          axis: _compare(
            functools.partial(
              _speed_up, axis=axis, split=split, first_crossing=first_crossing
            ),
            method,
            baseline,
          )
          for axis in AXES
        }
        for name, first_crossing in (
          ("speed_up", False),
          ("speed_up_first_crossing", True),
        )
      },
      "final_ratio": _compare(
        functools.partial(_final_ratio, split=split), method, baseline
      ),
    }
  return versus


def _compare(
  measure: Callable[[Runs, Runs], float | None],
  method: Mapping[int, RunRecord],
  baseline: Mapping[int, RunRecord],
) -> dict[str, Any]:
  """Measures the means over seeds, then each seed that both arms have."""
  values = {
    str(seed): measure([method[seed]], [baseline[seed]])
    for seed in sorted(method.keys() & baseline.keys())
  }
  return {
    "of_means": measure(method.values(), baseline.values()),
    "seeds": values,
    "spread": _spread(values.values()),
  }


def _speed_up(
  method: Runs,
  baseline: Runs,
  *,
  axis: str,
  split: str,
  first_crossing: bool,
) -> float | None:
  """Returns the baseline's cost / the method's; see the module's docstring."""
  fast, slow = (
    mean_line(method, axis, split),
    mean_line(baseline, axis, split),
  )
  if fast is None or slow is None or slow.accuracy[-1] == 0:
    return None
  target = slow.accuracy[-1]
  spent = (
    cost_to_reach(slow.cost, slow.accuracy, target)
    if first_crossing
    else float(slow.cost[-1])
  )
  needed = cost_to_reach(fast.cost, fast.accuracy, target)
  if not spent or needed == 0:
    return None
  return 0.0 if needed is None else spent / needed


def _final_ratio(method: Runs, baseline: Runs, *, split: str) -> float | None:
  """Returns the ratio of mean final accuracies, None if it is undefined."""
  ours, theirs = _finals(method, split), _finals(baseline, split)
  if not ours or not any(theirs):
    return None
  return float(np.mean(ours) / np.mean(theirs))


def _finals(runs: Runs, split: str) -> list[float]:
  """Returns the final accuracies of the runs that have this split."""
  shares = [
    [
      e.num_correct / e.num_samples
      for e in run.results
      if e.fraction == 0 and e.split == split
    ]
    for run in runs
  ]
  return [float(np.mean(s)) for s in shares if s]


def _spread(values: Iterable[float | None]) -> dict[str, Any]:
  defined = [value for value in values if value is not None]
  if not defined:
    return dict.fromkeys(("mean", "min", "max", "std"), None) | {"num": 0}
  return {
    "mean": float(np.mean(defined)),
    "min": min(defined),
    "max": max(defined),
    "std": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
    "num": len(defined),
  }
