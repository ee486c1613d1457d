"""Completions of problems, judged: what training and evaluation ask for."""

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np

from prefixrl_jax.rewards.judging import judge
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run.session import Session
from prefixrl_jax.storage.metrics import Timers
from prefixrl_jax.types import Completion, Problem, Trace, Verdict


@dataclasses.dataclass(frozen=True)
class Group:
  """Completions of one problem from one fork, and their verdicts.

  Attributes:
    problem: that they answer.
    prefix: int32 [prefix length], given to them; empty: none.
    trunk: int32 [fork], prompt and prefix.
    completions, verdicts: aligned.
    fraction: of a trace that they were given, as a prefix or as a hint.
    traces: of the problem, to learn from beside them.
  """

  problem: Problem
  prefix: np.ndarray
  trunk: np.ndarray
  completions: Sequence[Completion]
  verdicts: Sequence[Verdict]
  fraction: float = 0.0
  traces: Sequence[Trace] = ()

  @property
  def is_prefixed(self) -> bool:
    """Whether they were given a share of a trace."""
    return self.fraction > 0

  @property
  def rewards(self) -> np.ndarray:
    """Rewards of the completions, float64 [n]."""
    return np.array([v.reward for v in self.verdicts])


def encode(session: Session, problems: Sequence[Problem]) -> list[np.ndarray]:
  """Returns the tokens of the problems' prompts, int32 [prompt length] each.

  Args:
    session: of the run.
    problems: in any order.
  """
  encoded = session.tokenizer.encode_prompts(p.prompt for p in problems)
  return [np.array(ids, np.int32) for ids in encoded]


def rollout(
  session: Session,
  sampler: Sampler,
  problems: Sequence[Problem],
  prompts: Sequence[np.ndarray],
  prefixes: Sequence[np.ndarray],
  num_completions: int,
  *,
  steps: Sequence[int],
  purpose: str,
  seed: int,
  timers: Timers | None = None,
) -> list[Group]:
  """Samples completions of each problem after its prefix, and judges them.

  Args:
    session: of the run.
    sampler: loaded with the policy.
    problems: what is asked.
    prompts: int32 [prompt length] for each problem, from `encode`.
    prefixes: int32 [prefix length] for each problem; of length 0: none.
    num_completions: completions of each problem.
    steps: a number for each problem, part of its completions' keys, with
      purpose and seed.
    purpose: a key of `sampler.PURPOSE_IDS`.
    seed: seed for the sampling.
    timers: of "rollout" and "judge".

  Returns:
    A group for each problem, in their order.

  Raises:
    UserError: a trunk is longer than the sampler's.
    NonFiniteError: the policy's logits are not finite.
  """
  timed = timers or (lambda _: contextlib.nullcontext())
  with timed("rollout"):
    trunks = [np.concatenate(parts) for parts in zip(prompts, prefixes)]
    completions = sampler.sample(
      [
        Request(trunk, num_completions, step, problem.index)
        for trunk, step, problem in zip(trunks, steps, problems)
      ],
      purpose=purpose,
      seed=seed,
    )
  with timed("judge"):
    repeat = lambda xs: [x for x in xs for _ in range(num_completions)]
    verdicts = judge(
      session.verifier,
      session.tokenizer,
      repeat(problems),
      repeat(prefixes),
      [c for group in completions for c in group],
    )
  starts = range(0, len(verdicts), num_completions)
  by_problem = [verdicts[i : i + num_completions] for i in starts]
  return [
    Group(*group)
    for group in zip(problems, prefixes, trunks, completions, by_problem)
  ]
