"""Rejection sampling: attempts at hard problems until enough are correct."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from prefixrl_jax.rewards.judging import judge
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.text.tokenizer import Tokenizer
from prefixrl_jax.types import Completion, Problem, Trace, Verifier

_NO_PREFIX = np.zeros(0, np.int32)
# How many attempts at a problem each lane makes before its row moves to the
# next problem. With more, more attempts share the prefill of a prompt; with
# fewer, fewer are in progress, and wasted, when one succeeds.
_ATTEMPTS_PER_LANE = 4


@dataclasses.dataclass(eq=False)
class _Pending:
  """A problem and the state of its attempts.

  Attributes:
    problem: the one to solve.
    prompt: its tokens.
    next_attempt: number of the first attempt not yet requested.
    blocks: numbers of the sampler's blocks that hold attempts at it.
    correct: attempt -> its completion.
  """

  problem: Problem
  prompt: np.ndarray
  next_attempt: int = 0
  blocks: list[int] = dataclasses.field(default_factory=list)
  correct: dict[int, Completion] = dataclasses.field(default_factory=dict)

  def first_correct(self, count: int) -> list[int]:
    """Returns the first correct attempts, at most `count`."""
    return sorted(self.correct)[:count]

  def is_solved(self, count: int) -> bool:
    """Whether `count` attempts are correct."""
    return len(self.correct) >= count


def collect(
  sampler: Sampler,
  verifier: Verifier,
  tokenizer: Tokenizer,
  problems: Sequence[Problem],
  *,
  budget: int,
  traces_per_problem: int,
  policy: str,
  seed: int,
  on_progress: Callable[[int, int], None],
) -> list[Trace]:
  """Samples each problem until it has its traces or its budget is spent.

  The traces kept are those with the lowest attempt numbers, whichever lane
  finished first: once a problem is solved at attempt a, later attempts are
  dropped and earlier ones continue. Freed lanes move to the next problem.

  Args:
    sampler: loaded with the policy that writes the traces.
    verifier, tokenizer: of the task.
    problems: hard ones.
    budget: attempts per problem at most (paper: 2,500).
    traces_per_problem: how many are wanted (paper: 1).
    policy: who writes the traces, stored with them.
    seed: seed for the sampling.
    on_progress: called with (solved, completions judged) after each batch.

  Returns:
    The traces, in the order of the problems.
  """
  prompts = tokenizer.encode_prompts(p.prompt for p in problems)
  pending = [
    _Pending(problem, np.array(ids, np.int32))
    for problem, ids in zip(problems, prompts)
  ]
  owners: list[_Pending] = []  # of the sampler's blocks

  def blocks() -> Iterator[list[Request]]:
    """Yields a few attempts per lane at a time, cycling over the unsolved."""
    waiting = collections.deque(pending)
    while waiting:
      p = waiting.popleft()
      if p.is_solved(traces_per_problem) or p.next_attempt >= budget:
        continue
      first = p.next_attempt
      count = min(_ATTEMPTS_PER_LANE * sampler.lanes, budget - first)
      p.next_attempt += count
      p.blocks.append(len(owners))
      owners.append(p)
      waiting.append(p)
      yield [Request(p.prompt, count, 0, p.problem.index, first)]

  judged = 0
  for finished in sampler.run(blocks(), purpose="collection", seed=seed):
    attempted = [owners[number] for number, _, _ in finished]
    verdicts = judge(
      verifier,
      tokenizer,
      [p.problem for p in attempted],
      [_NO_PREFIX] * len(attempted),
      [completion for _, _, completion in finished],
    )
    for p, (_, attempt, completion), verdict in zip(
      attempted, finished, verdicts
    ):
      if verdict.reward == 1:
        p.correct[attempt] = completion
    for p in dict.fromkeys(attempted):
      if p.is_solved(traces_per_problem):
        last = p.first_correct(traces_per_problem)[-1]
        for block in p.blocks:
          sampler.cancel(block, above=last)
    judged += len(finished)
    on_progress(sum(p.is_solved(traces_per_problem) for p in pending), judged)

  return _traces(pending, tokenizer, traces_per_problem, policy, seed)


def _traces(
  pending: Sequence[_Pending],
  tokenizer: Tokenizer,
  count: int,
  policy: str,
  seed: int,
) -> list[Trace]:
  kept = [(p, a) for p in pending for a in p.first_correct(count)]
  texts = tokenizer.decode([p.correct[a].tokens.tolist() for p, a in kept])
  return [
    Trace(
      problem_id=p.problem.id,
      tokens=p.correct[attempt].tokens,
      text=text,
      reward=1.0,
      policy=policy,
      attempt=attempt,
      seed=seed,
      prompt_length=len(p.prompt),
      logprobs=p.correct[attempt].logprobs,
    )
    for (p, attempt), text in zip(kept, texts)
  ]
