"""What earlier stages have found, as later ones read it from the workdir.

Functions of a workspace and a data seed (see `Inputs.data_seed`). Each raises
UserError if a stage that it needs is not complete, or a file of it is damaged.
"""

import collections

from prefixrl_jax.ledger import summed
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.storage import trace_store
from prefixrl_jax.storage.results import read_results
from prefixrl_jax.types import EvalResult, Problem, Trace, TrainData, UserError


def pass_rates(work: Workspace, seed: int) -> list[EvalResult]:
  """Returns what screening found, problem by problem."""
  screened = work.need(work.data_artifact("screen", seed))
  return read_results(screened.file("pass_rates.parquet"))


def is_hard(work: Workspace, result: EvalResult) -> bool:
  """Whether screening found the problem hard; never for the easy split."""
  return (
    result.split != "easy"
    and result.num_correct <= work.config.screen.max_correct
  )


def count_hard(work: Workspace, seed: int, split: str) -> tuple[int, int]:
  """Returns how many of a split's problems are hard, and how many it has."""
  rates = [r for r in pass_rates(work, seed) if r.split == split]
  return sum(is_hard(work, r) for r in rates), len(rates)


def hard(work: Workspace, seed: int, split: str) -> list[Problem]:
  """Returns a split's hard problems, of which there may be none."""
  ids = {r.problem_id for r in pass_rates(work, seed) if is_hard(work, r)}
  return [p for p in work.problems(seed) if p.split == split and p.id in ids]


def hard_train(work: Workspace, seed: int) -> list[Problem]:
  """Returns the hard training problems.

  Raises:
    UserError: there are none.
  """
  problems = hard(work, seed, "train")
  if not problems:
    raise UserError(
      f"no training problem of seed {seed} is hard: each was solved more than"
      f" {work.config.screen.max_correct} times in"
      f" {work.config.screen.num_samples}; raise config.screen.max_correct,"
      " lower config.screen.num_samples or bring harder problems."
    )
  return problems


def traces(work: Workspace, seed: int) -> list[Trace]:
  """Returns the traces of hard training problems.

  Raises:
    UserError: no training problem is hard.
  """
  made = work.need(work.data_artifact(work.traces_stage, seed))
  hard_ids = {p.id for p in hard_train(work, seed)}
  # An import does not know which problems are hard.
  return [
    t
    for t in trace_store.read_traces(made.file("traces.parquet"))
    if t.problem_id in hard_ids
  ]


def prefix_authors(work: Workspace, seed: int) -> dict[tuple[str, float], str]:
  """Returns whose traces prefixes are from, by problem and fraction.

  Without those that several authors' traces of a problem have alike.
  """
  cuts = work.need(work.data_artifact("cut", seed))
  authors: dict[tuple[str, float], set[str]] = collections.defaultdict(set)
  for p in trace_store.read_prefixed_problems(cuts.file("prefixed.parquet")):
    authors[p.problem_id, p.fraction].add(p.trace_policy)
  return {key: some.pop() for key, some in authors.items() if len(some) == 1}


def train_data(work: Workspace, seed: int) -> TrainData:
  """Returns what all arms train on: the hard problems that have a trace.

  Args:
    work: where it is.
    seed: a run's seed, whose data may be another seed's.

  Raises:
    UserError: no training problem is hard.
  """
  seed = work.data_seed(seed)
  screened, made, cuts = (
    work.need(work.data_artifact(stage, seed))
    for stage in ("screen", work.traces_stage, "cut")
  )
  hard_problems = hard_train(work, seed)
  hard_ids = {p.id for p in hard_problems}
  problems = work.problems(seed)
  found = traces(work, seed)
  solved = {t.problem_id for t in found}
  return TrainData(
    train=[p for p in hard_problems if p.id in solved],
    heldout=[p for p in problems if p.split == "heldout"],
    hard_heldout=frozenset(p.id for p in hard(work, seed, "heldout")),
    traces=found,
    prefixed=trace_store.read_prefixed_problems(cuts.file("prefixed.parquet")),
    ledger=summed(screened.summary["ledger"], made.summary["ledger"]),
    easy=[p for p in problems if p.split == "train" and p.id not in hard_ids],
    pass_rates={
      r.problem_id: r.num_correct / r.num_samples
      for r in pass_rates(work, seed)
    },
  )
