"""From the records of all runs to one summary, ready for JSON.

`summarize` returns the dict below. Numbers are plain; what is undefined is
null, never NaN or infinite. Seeds, levels and k are strings where they are
keys, so that the summary equals what JSON gives back.

  method: the arm that the others are compared with
  marker: what the completions' marker is the mean of; null: there is none
  prefix_authors: [author of traces, ...], of all prefixes that were trained on
  seeds: [seed, ...] of all arms
  take_off: {split: accuracy from which on a run has taken off}
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
                      num_samples, pass_at_k: {k: value}}}  k = 1, 2, 4 …, and
                                   as many as there are samples
      cost_to_level: {axis: {split: {level: cost}}}
    }}
    costs: {purpose: {...}}          means over the seeds that have a curve
    mean_curve: {axis: {split: {cost, mean, min, max}}}      lists
    totals: {flops_paper, ..., seconds: SPREAD}   of "training" in costs
    final: {split: {accuracy: SPREAD, gain: COMPARISON or null,
                    pass_at_k: {k: SPREAD + {interval: [low, high]}},
                    took_off: [seed, ...]}}
    training: {...}                  over its cost: training.py has the schema
    by_fraction: {split: {fraction: [...], mean, min, max: [...],
                          seeds: {seed: [...]}}}
  }}
  versus: {baseline: {split: {
    accuracy: the last value of the baseline's mean curve, to be reached
    speed_up: {axis: COMPARISON}
    speed_up_first_crossing: {axis: COMPARISON}
    interactions_saved: COMPARISON
    final_ratio: COMPARISON
    final_difference: COMPARISON
  }}}

  SPREAD: {mean, min, max, std, num} over the seeds where the value is
    defined; std is that of a sample, so null for a single seed.
  COMPARISON: {of_means, interval: [low, high], undefined,
    seeds: {seed: value}, spread: SPREAD}

**Splits.** `train` are the hard training problems that have a trace. All
held-out problems are evaluated as `heldout`; `heldout_hard` are those among
them that screening found hard, so the base model fails them by selection.

**Axes.** An axis is a count (flops_paper, flops_executed, tokens, completions)
summed over collection, sft, sampling and update; evaluation is no cost of
training. Screening, which finds out which problems are hard, is left out as in
the paper; `<count>_with_screening` adds it to arms that use traces.

**Final accuracy.** `final`, `final_ratio` and `final_difference` (the method's
minus the baseline's) come from the evaluation after training (fraction 0: no
prefix), as does `gain` (an arm's minus the base model's). Speed-ups use a
curve's own last point, so that both sides are measured on one scale.

**pass@k.** Its interval is from resampled problems and seeds, see
`intervals.crossed_intervals`. k ends where the seed with the fewest samples of
a problem does.

**Reaching an accuracy.** The cost at the first crossing, interpolated linearly
between curve points; an accuracy that the first point has costs what the first
point costs.

**speed_up** = the baseline's total cost / the method's cost to reach the
accuracy that the baseline ends with, as in the paper. `speed_up_first_crossing`
is stricter: the baseline's cost counts only up to where its own curve first has
that accuracy, which for a flat or noisy curve may be long before its end. 0:
the method never reaches the accuracy. null: there is nothing to speed up (the
baseline ends at accuracy 0, or has it at cost 0), the method has it at cost 0,
or one of them has no curve. `interactions_saved` is 1 - 1 / speed_up of the
completions judged: the share of them that the method needs none of; null where
it never gets there. A final accuracy that is barely above 0 makes
speed-ups and the ratio noise; read them next to it.

**Means over seeds.** Per-seed comparisons pair equal seeds. `of_means` compares
the mean curves: accuracy averaged over seeds at equal cost, where all seeds of
the arm are defined (no run is before its first point or past its last one). Its
knots are those of all seeds, which makes it exact. `interval` holds 95 % of
2,000 values of `of_means` whose seeds are resampled, with replacement, in pairs
of the two arms; null for fewer than two seeds. `undefined` is the share of
draws without a value, which the interval leaves out.

**Take-off.** Where everything is learnt at once, a mean over seeds is little
more than the share of seeds on which that happened, and a mean curve's speed-up
is that of no seed. A run has taken off if its final accuracy is at least
halfway from the base model's (0 without one) to the best run's, of all arms and
seeds; null if no run is above the base model, which does not take off itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prefixrl_jax.evals.comparisons import compare_arms, compare_finals
from prefixrl_jax.evals.curves import (
  AXES,
  BASE,
  COUNTS,
  SPLITS,
  RunRecord,
  Runs,
  cost_to_reach,
  costs_of,
  curve_splits,
  final_accuracy,
  in_order,
  lines_of,
  on_common_costs,
  results_of,
)
from prefixrl_jax.evals.intervals import (
  bootstrap_interval,
  crossed_intervals,
  pass_at_k,
  spread,
)
from prefixrl_jax.evals.training import over_training
from prefixrl_jax.types import PURPOSES, TRAINING, EvalResult, UserError

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# The method's start, and a part of the method: neither is a rival of it.
NOT_BASELINES = (BASE, "prefixrl_only")


def summarize(
  runs: Sequence[RunRecord],
  *,
  method: str = "prefixrl",
  marker: str | None = None,
) -> dict[str, Any]:
  """Returns the summary of all runs; its schema is the module's docstring.

  Args:
    runs: all runs, their arms in display order.
    method: the arm to compare with the others; without its runs there are no
      comparisons.
    marker: its label.

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
    "marker": marker,
    "prefix_authors": sorted(
      {author for run in runs for _, author, _ in run.training.prefixed}
    ),
    "seeds": sorted({run.seed for run in runs}),
    "take_off": {
      split: _take_off(runs, split)
      for split in SPLITS
      if final_accuracy(runs, split) is not None
    },
    "arms": {
      arm: _summarize_arm(by_seed, runs, arms.get(BASE, {}))
      for arm, by_seed in arms.items()
    },
    "versus": {
      rival: compare_arms(arms[method], arms[rival]) for rival in rivals
    }
    if method in arms
    else {},
  }


# -- one arm -------------------------------------------------------------------


def _summarize_arm(
  by_seed: Mapping[int, RunRecord],
  everyone: Runs,
  base: Mapping[int, RunRecord],
) -> dict[str, Any]:
  runs = {str(s): _summarize_run(by_seed[s]) for s in sorted(by_seed)}
  splits = in_order(run["final"] for run in runs.values())
  finals = {
    split: [r["final"][split] for r in runs.values() if split in r["final"]]
    for split in splits
  }
  costs = [r["costs"] for r in runs.values() if r["costs"]]
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
    "costs": _mean_costs(costs),
    "totals": {
      name: spread(c["training"][name] for c in costs)
      for name in (costs[0]["training"] if costs else ())
    },
    "mean_curve": mean_curve,
    "final": {
      split: {
        "accuracy": spread(f["accuracy"] for f in finals[split]),
        "gain": compare_finals(by_seed, base, split)
        if base and by_seed is not base
        else None,
        "pass_at_k": pass_at_k_over(by_seed.values(), split),
        "took_off": _took_off(by_seed, everyone, split),
      }
      for split in splits
    },
    "training": over_training([run.training for run in by_seed.values()]),
    "by_fraction": {
      split: by_fraction(by_seed, split)
      for split in SPLITS
      if any(results_of(run, split) for run in by_seed.values())
    },
  }


def _summarize_run(run: RunRecord) -> dict[str, Any]:
  splits = curve_splits([run])
  unprefixed = {split: _unprefixed(run, split) for split in SPLITS}
  return {
    "curve": {
      "step": [point.step for point in run.curve],
      "cost": {axis: costs_of(run, axis).tolist() for axis in AXES},
      "accuracy": {s: [p.accuracy[s] for p in run.curve] for s in splits},
    },
    "costs": _last_costs(run),
    "final": {
      split: final_of(results)
      for split, results in unprefixed.items()
      if results
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


def final_of(results: Sequence[EvalResult]) -> dict[str, Any]:
  """Returns a run's entry of `final`; see above.

  Args:
    results: of one split, without prefix.
  """
  n = np.array([e.num_samples for e in results])
  c = np.array([e.num_correct for e in results])
  return {
    "accuracy": float(np.mean(c / n)),
    "interval": list(bootstrap_interval(c / n)),
    "num_problems": len(results),
    "num_samples": int(n.min()),
    "pass_at_k": {str(k): float(np.mean(pass_at_k(n, c, k))) for k in _ks(n)},
  }


def pass_at_k_over(runs: Runs, split: str) -> dict[str, dict[str, Any]]:
  """Returns an arm's entry of `pass_at_k`; see above.

  Args:
    runs: its seeds, some of which have the split.
    split: whose results without prefix are taken.
  """
  of_seeds = [r for run in runs if (r := _unprefixed(run, split))]
  ks = _ks([e.num_samples for results in of_seeds for e in results])
  values = [
    {
      e.problem_id: np.array(
        [float(pass_at_k(e.num_samples, e.num_correct, k)) for k in ks]
      )
      for e in results
    }
    for results in of_seeds
  ]
  means = [np.mean([*by_problem.values()], axis=0) for by_problem in values]
  return {
    str(k): spread(float(m[i]) for m in means) | {"interval": ends}
    for i, (k, ends) in enumerate(
      zip(ks, crossed_intervals(values).T.tolist(), strict=True)
    )
  }


def _unprefixed(run: RunRecord, split: str) -> list[EvalResult]:
  return results_of(run, split, fraction=0)


def _ks(num_samples: ArrayLike) -> list[int]:
  """Returns the powers of two up to the fewest samples, and that many."""
  fewest = int(np.min(num_samples))
  return sorted({*(2**i for i in range(fewest.bit_length())), fewest})


def by_fraction(by_seed: Mapping[int, RunRecord], split: str) -> dict:
  """Mean accuracy over problems, by share of the trace revealed."""
  judged: dict[int, dict[float, list[float]]] = {s: {} for s in sorted(by_seed)}
  for seed, run in by_seed.items():
    for e in results_of(run, split):
      share = e.num_correct / e.num_samples
      judged[seed].setdefault(e.fraction, []).append(share)
  fractions = sorted({f for by_share in judged.values() for f in by_share})
  seeds = {
    str(seed): [
      float(np.mean(by_share[f])) if f in by_share else None for f in fractions
    ]
    for seed, by_share in judged.items()
  }
  spreads = [spread(values) for values in zip(*seeds.values())]
  return {
    "fraction": fractions,
    **{name: [s[name] for s in spreads] for name in ("mean", "min", "max")},
    "seeds": seeds,
  }


# -- which seeds took off ------------------------------------------------------


def _take_off(runs: Runs, split: str) -> float | None:
  """Returns the accuracy from which a run counts as taken off; see above."""
  trained = [
    accuracy
    for run in runs
    if run.arm != BASE
    and (accuracy := final_accuracy([run], split)) is not None
  ]
  start = final_accuracy([r for r in runs if r.arm == BASE], split) or 0.0
  best = max(trained, default=0.0)
  return (start + best) / 2 if best > start else None


def _took_off(
  by_seed: Mapping[int, RunRecord], everyone: Runs, split: str
) -> list[int]:
  threshold = _take_off(everyone, split)
  return [
    seed
    for seed in sorted(by_seed)
    if threshold is not None
    and by_seed[seed].arm != BASE
    and (accuracy := final_accuracy([by_seed[seed]], split)) is not None
    and accuracy >= threshold
  ]
