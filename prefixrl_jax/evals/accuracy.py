"""Accuracy of a policy: without prefix, and by share of a trace revealed."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from prefixrl_jax.prefixes.cuts import reveal
from prefixrl_jax.rewards.judging import hold_answer
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run.rollout import encode, rollout
from prefixrl_jax.run.session import Session
from prefixrl_jax.types import Completion, EvalResult, Problem, Trace


@dataclasses.dataclass(frozen=True)
class Sample:
  """One judged completion, for people to read."""

  problem: Problem
  fraction: float
  prefix: np.ndarray
  completion: Completion
  reward: float


def evaluate(
  session: Session,
  sampler: Sampler,
  problems: Sequence[Problem],
  prefixes: Sequence[np.ndarray],
  fractions: Sequence[float],
  *,
  num_samples: int,
  step: int,
  purpose: str,
  seed: int,
) -> tuple[list[EvalResult], list[Sample]]:
  """Samples and judges completions of each problem after its prefix.

  Args:
    session: the run's.
    sampler: loaded with the policy to evaluate.
    problems, prefixes: aligned; a prefix of length 0 is no prefix.
    fractions: shares of the traces that the prefixes reveal, for the results.
    num_samples: completions per problem.
    step: part of the completions' keys, with purpose and seed.
    purpose: "screening" or "evaluation".
    seed: seed for the sampling.

  Returns: A result per prefix, and the first sample after each.
  """
  groups = rollout(
    session,
    sampler,
    problems,
    encode(session, problems),
    prefixes,
    num_samples,
    steps=[step] * len(problems),
    purpose=purpose,
    seed=seed,
  )
  results = [
    EvalResult(
      g.problem.id,
      g.problem.split,
      fraction,
      num_samples,
      int(np.sum(g.rewards == 1)),
    )
    for g, fraction in zip(groups, fractions)
  ]
  samples = [
    Sample(g.problem, fraction, g.prefix, g.completions[0], float(g.rewards[0]))
    for g, fraction in zip(groups, fractions)
  ]
  return results, samples


def by_fraction(
  session: Session,
  sampler: Sampler,
  problems: dict[str, Problem],
  traces: Sequence[Trace],
  fractions: Sequence[float],
  **settings,
) -> tuple[list[EvalResult], list[Sample], dict[float, int]]:
  """Evaluates with growing shares of each problem's first trace revealed.

  What is revealed may already contain the answer, and whatever follows would
  then be right: such a problem is not asked at that share.

  Args:
    session, sampler: see `evaluate`.
    problems: by id.
    traces: the first of each problem is used.
    fractions: shares of the trace's tokens, above 0.
    **settings: num_samples, step, purpose, seed of `evaluate`.

  Returns: As `evaluate`; and for each share the number of problems whose answer
    it contains, if there are any.
  """
  first = {t.problem_id: t for t in reversed(traces)}
  # All together: the prefixes of a trace share its trunk.
  asked = [
    (problems[t.problem_id], reveal(t, fraction), fraction)
    for fraction in fractions
    for t in first.values()
  ]
  held = hold_answer(
    session.verifier,
    session.tokenizer,
    [problem for problem, _, _ in asked],
    [prefix for _, prefix, _ in asked],
  )
  given_away = collections.Counter(
    fraction for (_, _, fraction), holds in zip(asked, held) if holds
  )
  asked = [a for a, holds in zip(asked, held) if not holds]
  if not asked:
    return [], [], dict(given_away)
  results, samples = evaluate(
    session,
    sampler,
    [problem for problem, _, _ in asked],
    [prefix for _, prefix, _ in asked],
    [fraction for _, _, fraction in asked],
    **settings,
  )
  return results, samples, dict(given_away)


def without_prefix(
  session: Session,
  sampler: Sampler,
  problems: Sequence[Problem],
  **settings,
) -> tuple[list[EvalResult], list[Sample]]:
  """Evaluates the original problems.

  Args:
    session, sampler, problems: see `evaluate`.
    **settings: num_samples, step, purpose, seed of `evaluate`.
  """
  none = [np.zeros(0, np.int32)] * len(problems)
  return evaluate(
    session, sampler, problems, none, [0.0] * len(problems), **settings
  )


def mean_accuracy(results: Sequence[EvalResult]) -> float:
  """Returns the mean over problems of the share of correct samples."""
  return float(np.mean([r.num_correct / r.num_samples for r in results]))
