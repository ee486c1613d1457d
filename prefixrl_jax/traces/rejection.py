"""Rejection sampling: attempts at hard problems until enough are correct."""

import collections
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from prefixrl_jax.rewards.judging import judge
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.text.tokenizer import Tokenizer
from prefixrl_jax.types import Completion, Problem, Trace, Verifier

_NO_PREFIX = np.zeros(0, np.int32)
# Attempts a lane before a row goes on to the next problem: more share a
# prefill, fewer are under way when one succeeds.
_BLOCK = 4


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

  The traces kept are those of the lowest attempts, whichever lane was
  quicker: once a problem is solved at attempt a, later attempts are dropped
  and earlier ones go on. Lanes that come free go to the next problem.

  Args:
    sampler: loaded with the policy that writes the traces.
    verifier, tokenizer: of the task.
    problems: hard ones.
    budget: attempts per problem at most (paper: 2,500).
    traces_per_problem: enough of them (paper: 1).
    policy: who writes the traces, stored with them.
    seed: of the sampling.
    on_progress: called with (solved, completions judged) after each batch.

  Returns:
    The traces, in the order of the problems.
  """
  prompts = [
    np.array(ids, np.int32)
    for ids in tokenizer.encode_prompts(p.prompt for p in problems)
  ]
  found: list[dict[int, Completion]] = [{} for _ in problems]
  block_of_problem: list[list[int]] = [[] for _ in problems]
  problem_of_block: list[int] = []
  waiting = collections.deque(range(len(problems)))
  next_attempt = [0] * len(problems)

  def is_solved(i: int) -> bool:
    return len(found[i]) >= traces_per_problem

  def blocks() -> Iterator[list[Request]]:
    """A few attempts a lane at a time, going round the unsolved."""
    while waiting:
      i = waiting.popleft()
      if is_solved(i) or next_attempt[i] >= budget:
        continue
      count = min(_BLOCK * sampler.lanes, budget - next_attempt[i])
      block_of_problem[i].append(len(problem_of_block))
      problem_of_block.append(i)
      first = next_attempt[i]
      next_attempt[i] += count
      waiting.append(i)
      yield [Request(prompts[i], count, 0, problems[i].index, first)]

  judged = 0
  for finished in sampler.run(blocks(), purpose="collection", seed=seed):
    owners = [problem_of_block[number] for number, _, _ in finished]
    verdicts = judge(
      verifier,
      tokenizer,
      [problems[i] for i in owners],
      [_NO_PREFIX] * len(owners),
      [completion for _, _, completion in finished],
    )
    for i, (_, attempt, completion), verdict in zip(owners, finished, verdicts):
      if verdict.reward == 1:
        found[i][attempt] = completion
    for i in {i for i in owners if is_solved(i)}:
      last = sorted(found[i])[traces_per_problem - 1]
      for block in block_of_problem[i]:
        sampler.cancel(block, above=last)
    judged += len(finished)
    on_progress(sum(map(is_solved, range(len(problems)))), judged)

  kept = [
    (i, attempt, found[i][attempt].tokens)
    for i in range(len(problems))
    for attempt in sorted(found[i])[:traces_per_problem]
  ]
  texts = tokenizer.decode([tokens.tolist() for _, _, tokens in kept])
  return [
    Trace(
      problem_id=problems[i].id,
      tokens=tokens,
      text=text,
      reward=1.0,
      policy=policy,
      attempt=attempt,
      seed=seed,
      prompt_length=len(prompts[i]),
    )
    for (i, attempt, tokens), text in zip(kept, texts)
  ]
