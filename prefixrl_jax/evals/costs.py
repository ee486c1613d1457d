"""What an evaluation may cost at most: known, and shown, before it begins."""

import hashlib
from collections.abc import Iterable, Sequence

from prefixrl_jax.ledger import Ledger
from prefixrl_jax.run.session import Session
from prefixrl_jax.types import Problem, SamplingUsage


def some_of(problems: Sequence[Problem], most: int) -> list[Problem]:
  """Returns at most that many problems, always the same ones, in their order.

  Which ones depends on their ids alone: fewer of them are among more of them,
  and no arm, seed or step has others.

  Args:
    problems: of one split.
    most: how many; 0: all.
  """
  if not most or len(problems) <= most:
    return list(problems)
  rank = lambda p: hashlib.sha256(p.id.encode()).digest()
  chosen = {p.id for p in sorted(problems, key=rank)[:most]}
  return [p for p in problems if p.id in chosen]


def at_most(
  session: Session, trunks: Iterable[int], num_samples: int
) -> SamplingUsage:
  """Returns what sampling takes if no completion ends before its limit.

  Args:
    session: of the run.
    trunks: lengths of the prompts, prefixes included, in tokens.
    num_samples: completions of each.
  """
  lengths = list(trunks)
  completions = num_samples * len(lengths)
  return SamplingUsage(
    completions=completions,
    input_tokens=num_samples * sum(lengths),
    output_tokens=completions * session.config.rollouts.max_completion_length,
  )


def describe(session: Session, usages: Iterable[SamplingUsage]) -> str:
  """Says what usages are together: completions, tokens, FLOPs of a budget.

  Args:
    session: of the run.
    usages: from `at_most`.
  """
  ledger = Ledger(session.model)
  for usage in usages:
    ledger.add_sampling("evaluation", usage)
  cost = ledger.to_dict()["evaluation"]
  flops, budget = cost["flops_paper"], session.config.train.flops
  return (
    f"{cost['completions']:,} completions, at most {cost['tokens']:.3g} tokens"
    f" and {flops:.3g} FLOPs by the paper's count, {flops / budget:.2g} times"
    " the budget of a training run"
  )
