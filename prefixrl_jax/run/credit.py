"""Credit: from a step's judged groups to the trees that it learns from.

Which groups and completions are learnt from, and each token's advantage.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import ml_collections
import numpy as np

from prefixrl_jax.learner.advantages import (
  GAE,
  advantages,
  discounted,
  gae,
  whitened,
)
from prefixrl_jax.learner.packing import Lane, Tree
from prefixrl_jax.run.rollout import Group

# {score: {id of a lane: float [completion length]}}, as from `Scorer.score`.
Scores = Mapping[str, Mapping[int, np.ndarray]]


def scores_needed(learner: ml_collections.ConfigDict) -> frozenset[str]:
  """Returns which scores of its rollouts an arm needs before its updates.

  Args:
    learner: from `arms.learner_of`.
  """
  needed = set()
  if learner.advantage == GAE:
    needed.add("values")
  if learner.kl_coefficient and learner.kl_in == "reward":
    needed.add("reference")
  return frozenset(needed)


def has_signal(group: Group, learner: ml_collections.ConfigDict) -> bool:
  """Whether a group's rewards tell its completions apart.

  Args:
    group: judged.
    learner: from `arms.learner_of`; "outcome" looks at right and wrong alone.
  """
  if group.traces and learner.trace_advantage != "group":
    return True  # their advantages do not depend on the group
  rewards = np.append(group.rewards, [t.reward for t in group.traces])
  if learner.signal_of == "outcome":
    rewards = rewards == 1
  return bool(np.any(rewards != rewards[:1]))


def trees_of(
  groups: Sequence[Group],
  learner: ml_collections.ConfigDict,
  *,
  pass_rates: Mapping[str, float],
  score: Callable[[Sequence[Tree]], Scores] | None = None,
  kl_coefficient: float = 0.0,
) -> list[Tree]:
  """Returns what the updates learn from: every completion and trace a lane.

  Args:
    groups: of the step.
    learner: from `arms.learner_of`.
    pass_rates: of the base policy by problem id, which a trace's advantage may
      be counted from.
    score: scores lanes; None: see `scores_needed`.
    kl_coefficient: of a KL in the reward.

  Returns:
    A tree for each group that anything is learnt from.
  """
  trees = [
    Tree(group.trunk, _lanes(group, learner), is_prefixed=group.is_prefixed)
    for group in groups
  ]
  scores = score([t for t in trees if t.lanes]) if score else {}
  penalties = {
    id(lane): kl_coefficient * (lane.logprobs - scores["reference"][id(lane)])
    for tree in trees
    for lane in tree.lanes
    if "reference" in scores
  }
  if learner.advantage == GAE:
    credited = [
      [
        _by_critic(lane, reward, scores["values"], penalties, learner)
        for lane, reward in zip(
          tree.lanes, group.rewards[_kept(group, learner)]
        )
      ]
      for group, tree in zip(groups, trees)
    ]
  else:
    credited = [
      _by_group(group, tree.lanes, penalties, learner, pass_rates)
      for group, tree in zip(groups, trees)
    ]
  if learner.whiten:
    credited = _whitened(credited)
  return [
    dataclasses.replace(tree, lanes=lanes)
    for tree, lanes in zip(trees, credited)
    if lanes
  ]


def minibatches(trees: Sequence[Tree], number: int) -> list[list[Tree]]:
  """Divides a step's trees, both kinds evenly; neighbours stay together.

  Args:
    trees: of the step.
    number: of mini-batches; those without a tree are left out.
  """
  prefixed = [t for t in trees if t.is_prefixed]
  others = [t for t in trees if not t.is_prefixed]
  # Of both kinds the larger parts come first: turn one around.
  parts = zip(_parts(prefixed, number), _parts(others, number)[::-1])
  return [[*a, *b] for a, b in parts if a or b]


def _parts(trees: list[Tree], number: int) -> list[list[Tree]]:
  size, larger = divmod(len(trees), number)
  bounds = [i * size + min(i, larger) for i in range(number + 1)]
  return [trees[i:j] for i, j in itertools.pairwise(bounds)]


def adapted_kl_coefficient(
  coefficient: float,
  kl: float,
  num_sequences: int,
  learner: ml_collections.ConfigDict,
) -> float:
  """Returns the next step's coefficient, which draws the KL to its target.

  coefficient (1 + clip(kl / target - 1, -.2, .2) n / horizon) (arXiv
  1909.08593, section 2.2).

  Args:
    coefficient: this step's.
    kl: per token, measured in this step.
    num_sequences: n, completions of this step.
    learner: from `arms.learner_of`; its kl_target is above 0.
  """
  error = np.clip(kl / learner.kl_target - 1, -0.2, 0.2)
  return float(coefficient * (1 + error * num_sequences / learner.kl_horizon))


def _kept(group: Group, learner: ml_collections.ConfigDict) -> np.ndarray:
  """Returns which completions are learnt from, bool [n]."""
  truncated = np.array([c.truncated for c in group.completions], bool)
  return ~truncated | (learner.truncated != "masked")


def _lanes(group: Group, learner: ml_collections.ConfigDict) -> list[Lane]:
  """Returns a group's lanes, completions before traces, no advantages yet."""
  kept = zip(group.completions, _kept(group, learner))
  completions = [c for c, is_kept in kept if is_kept]
  prompt_length = len(group.trunk) - len(group.prefix)
  return [
    Lane(len(group.trunk), c.tokens, c.logprobs, np.zeros(len(c.tokens)))
    for c in completions
  ] + [
    Lane(
      prompt_length,
      trace.tokens,
      np.zeros(len(trace.tokens)) if trace.logprobs is None else trace.logprobs,
      np.zeros(len(trace.tokens)),
      is_trace=True,
    )
    for trace in group.traces
  ]


def _by_critic(
  lane: Lane,
  reward: float,
  values: Mapping[int, np.ndarray],
  penalties: Mapping[int, np.ndarray],
  learner: ml_collections.ConfigDict,
) -> Lane:
  """Returns the lane with generalised advantages and the critic's returns.

  With decay_by_length (VAPO's alpha, arXiv 2504.05118), the policy's lambda is
  1 - 1 / max(alpha length, 1).
  """
  length, value = len(lane.tokens), values[id(lane)]
  rewards = np.zeros(length) - penalties.get(id(lane), 0.0)
  rewards[-1] += reward
  decay = learner.gae_decay
  if learner.decay_by_length:
    decay = 1 - 1 / max(learner.decay_by_length * length, 1)
  of_values = gae(rewards, value, learner.discount, learner.value_decay)
  return dataclasses.replace(
    lane,
    advantages=gae(rewards, value, learner.discount, decay),
    values=value,
    returns=of_values + value,
  )


def _by_group(
  group: Group,
  lanes: Sequence[Lane],
  penalties: Mapping[int, np.ndarray],
  learner: ml_collections.ConfigDict,
  pass_rates: Mapping[str, float],
) -> list[Lane]:
  """Returns the lanes with every token's advantage that of its completion."""
  lengths = [len(c.tokens) for c in group.completions]
  rewards = discounted(group.rewards, np.array(lengths, int), learner.discount)
  kept = np.flatnonzero(_kept(group, learner))
  for i, lane in zip(kept, lanes):
    rewards[i] -= np.sum(penalties.get(id(lane), 0.0))
  of_traces = np.array([t.reward for t in group.traces])
  if learner.trace_advantage == "group":
    together = np.append(rewards, of_traces)
    weights = advantages(together[None], learner.advantage)[0]
    own, of_traces = weights[: len(rewards)], weights[len(rewards) :]
  else:
    own = rewards
    if len(rewards):
      own = advantages(rewards[None], learner.advantage)[0]
    if learner.trace_advantage == "pass_rate":
      of_traces = of_traces - pass_rates[group.problem.id]
  weights = np.append(own[kept], of_traces).astype(np.float32)
  return [
    dataclasses.replace(lane, advantages=np.full(len(lane.tokens), weight))
    for lane, weight in zip(lanes, weights)
  ]


def _whitened(groups: Sequence[Sequence[Lane]]) -> list[list[Lane]]:
  """Returns the lanes with advantages of mean 0 and variance 1 a token."""
  lanes = [lane for group in groups for lane in group]
  if not lanes:
    return [list(group) for group in groups]
  white = iter(whitened([lane.advantages for lane in lanes]))
  return [
    [dataclasses.replace(lane, advantages=next(white)) for lane in group]
    for group in groups
  ]
