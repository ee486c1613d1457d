"""All final evaluations of the runs side by side, by what differs.

`compare` returns a list, ready for JSON, of

  set: the set that was evaluated on; empty: the runs' own problems
  differs: {setting: value} that other evaluations on the same set have not
  settings: {setting: value}, all of them
  arms: {arm: {
    final: {split: {accuracy: SPREAD, pass_at_k: {k: SPREAD + {interval}},
                    num_problems, num_samples}}      without prefix
    by_fraction: {split: ...}
  }}

with SPREAD and by_fraction as in summary.py. A set's problems are one split,
with the set's name. Numbers of problems and samples are the least of all seeds.
"""

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from prefixrl_jax.evals.curves import SPLITS, RunRecord, results_of
from prefixrl_jax.evals.intervals import spread
from prefixrl_jax.evals.summary import by_fraction, final_of, pass_at_k_over

# They follow from the seed, or from the run.
_OF_THE_RUN = ("data_seed", "traces_from", "screen.max_correct")
_PROBLEMS = "problems"  # a digest; of a drawn set each seed has another


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One finished evaluation of one run.

  Attributes:
    of_set: the set that was evaluated on; empty: the run's own problems.
    settings: {path: value}.
    run: the run, with these results and no curve.
  """

  of_set: str
  settings: Mapping[str, Any]
  run: RunRecord


def compare(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
  """Returns what the module's docstring says, in the order given.

  Args:
    evaluations: of all runs, at most one of each kind and run.
  """
  kinds = _by_kind(evaluations)
  settings = [dict(json.loads(kind)) for kind in kinds]
  compared = []
  for kind, own in zip(kinds.values(), settings):
    of_set = kind[0].of_set
    others = [s for s in settings if s.get("set", "") == of_set]
    arms: dict[str, dict[int, RunRecord]] = defaultdict(dict)
    for one in kind:
      arms[one.run.arm][one.run.seed] = one.run
    compared.append(
      {
        "set": of_set,
        "differs": {
          name.removeprefix("evals."): value
          for name, value in own.items()
          if any(s.get(name) != value for s in others)
        },
        "settings": own,
        "arms": {arm: _of_arm(by_seed) for arm, by_seed in arms.items()},
      }
    )
  return compared


def label(compared: Mapping[str, Any]) -> str:
  """Says which evaluation one is: its set, and what differs."""
  differs = [
    f"{name} = {value[:8] if name == _PROBLEMS else value}"
    for name, value in compared["differs"].items()
  ]
  return ", ".join([compared["set"] or "own problems", *differs])


def _by_kind(
  evaluations: Sequence[Evaluation],
) -> dict[str, list[Evaluation]]:
  """Returns those of equal settings together, by these settings as JSON."""

  def kind(e: Evaluation, *, without: tuple[str, ...]) -> str:
    kept = {k: v for k, v in e.settings.items() if k not in without}
    return json.dumps(kept, sort_keys=True)

  ignored: tuple[str, ...] = (*_OF_THE_RUN, _PROBLEMS)
  count = Counter(
    (kind(e, without=ignored), e.run.arm, e.run.seed) for e in evaluations
  )
  if max(count.values(), default=0) > 1:  # the same set with other problems
    ignored = _OF_THE_RUN
  kinds: dict[str, list[Evaluation]] = defaultdict(list)
  for e in evaluations:
    kinds[kind(e, without=ignored)].append(e)
  return kinds


def _of_arm(by_seed: Mapping[int, RunRecord]) -> dict[str, Any]:
  there = {e.split for run in by_seed.values() for e in run.results}
  splits = [s for s in SPLITS if s in there or s == "heldout_hard"]
  splits += sorted(there.difference(splits))
  finals = {
    split: [
      final_of(results)
      for run in by_seed.values()
      if (results := results_of(run, split, fraction=0))
    ]
    for split in splits
  }
  return {
    "final": {
      split: {
        "accuracy": spread(f["accuracy"] for f in of_split),
        "pass_at_k": pass_at_k_over(by_seed.values(), split),
        "num_problems": min(f["num_problems"] for f in of_split),
        "num_samples": min(f["num_samples"] for f in of_split),
      }
      for split, of_split in finals.items()
      if of_split
    },
    "by_fraction": {
      split: by_fraction(by_seed, split)
      for split, of_split in finals.items()
      if of_split
    },
  }
