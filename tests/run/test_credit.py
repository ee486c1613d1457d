"""Hand-computed credit: from judged groups to every token's advantage."""

import ml_collections
import numpy as np
import pytest

from prefixrl_jax.configs import sections
from prefixrl_jax.learner.packing import Lane, Tree
from prefixrl_jax.run import credit
from prefixrl_jax.run.rollout import Group
from prefixrl_jax.types import Completion, Problem, Trace, Verdict


def _learner(**fields):
  learner = ml_collections.ConfigDict(
    sections.learner(rows_per_microbatch=1, row_length=64)
  )
  learner.update(fields)
  return learner


def _problem(name="p"):
  return Problem(name, "?", "", "", "train", 0)


def _trace(length=3, logprobs=None):
  return Trace(
    "p",
    np.arange(length, dtype=np.int32),
    "",
    1.0,
    "someone",
    0,
    0,
    2,
    logprobs,
  )


def _group(rewards, lengths=None, truncated=(), traces=(), fraction=0.0):
  lengths = lengths or [2] * len(rewards)
  prefix = np.zeros(1 if fraction else 0, np.int32)
  completions = [
    Completion(
      np.arange(n, dtype=np.int32),
      -np.ones(n, np.float32) * (i + 1),
      i in truncated,
    )
    for i, n in enumerate(lengths)
  ]
  return Group(
    _problem(),
    prefix,
    np.append(np.zeros(2, np.int32), prefix),
    completions,
    [Verdict(r) for r in rewards],
    fraction=fraction,
    traces=traces,
  )


def _trees(groups, learner, **more):
  return credit.trees_of(
    groups, learner, **({"pass_rates": {"p": 0.25}} | more)
  )


def _advantages(tree):
  return [lane.advantages.tolist() for lane in tree.lanes]


def test_a_completion_s_tokens_have_its_advantage():
  [tree] = _trees([_group([1, 0, 0, 0], [1, 2, 3, 1])], _learner())
  assert _advantages(tree) == [[0.75], [-0.25] * 2, [-0.25] * 3, [-0.25]]
  assert [lane.fork for lane in tree.lanes] == [2] * 4
  assert not tree.is_prefixed


def test_what_is_cut_off_counts_as_wrong_or_is_left_out():
  group = _group([1, 0, 0, 0], truncated={2, 3})
  [tree] = _trees([group], _learner())
  assert len(tree.lanes) == 4
  [tree] = _trees([group], _learner(truncated="masked"))
  assert _advantages(tree) == [[0.75] * 2, [-0.25] * 2]
  # Nothing is left of a group that is cut off whole.
  whole = _group([0, 0], truncated={0, 1})
  assert _trees([whole], _learner(truncated="masked")) == []


def test_a_trace_in_its_group():
  """Three completions, one right, and a trace: the mean is a half."""
  group = _group([1, 0, 0], traces=[_trace()], fraction=0.5)
  [tree] = _trees([group], _learner())
  assert _advantages(tree) == [[0.5] * 2, [-0.5] * 2, [-0.5] * 2, [0.5] * 3]
  assert [lane.is_trace for lane in tree.lanes] == [False] * 3 + [True]
  # Completions go on from the prefix, the trace answers the prompt.
  assert [lane.fork for lane in tree.lanes] == [3, 3, 3, 2]


@pytest.mark.parametrize(
  ("kind", "expected"), [("reward", 1.0), ("pass_rate", 0.75)]
)
def test_a_trace_beside_its_group(kind, expected):
  learner = _learner(trace_advantage=kind)
  [tree] = _trees([_group([1, 0], traces=[_trace()])], learner)
  assert _advantages(tree) == [[0.5] * 2, [-0.5] * 2, [expected] * 3]
  # Without any completion.
  logprobs = np.full(3, -0.5, np.float32)
  [tree] = _trees([_group([], traces=[_trace(3, logprobs)])], learner)
  assert _advantages(tree) == [[expected] * 3]
  assert tree.lanes[0].logprobs is logprobs


def _scores(**of_lanes):
  """Scores lanes by a function of each."""
  return lambda trees: {
    name: {id(x): of(x) for tree in trees for x in tree.lanes}
    for name, of in of_lanes.items()
  }


def test_a_critic_s_advantages_and_returns():
  learner = _learner(
    advantage="gae", gae_decay=0.5, value_decay=1.0, discount=1.0
  )
  values = np.array([0.25, 0.5])
  [tree] = _trees(
    [_group([1, 0])], learner, score=_scores(values=lambda lane: values)
  )
  assert credit.scores_needed(learner) == {"values"}
  # Right: deltas .25 and .5. Wrong: .25 and -.5.
  assert _advantages(tree) == [[0.25 + 0.25, 0.5], [0.25 - 0.25, -0.5]]
  assert [x.returns.tolist() for x in tree.lanes] == [[1, 1], [0, 0]]
  assert [x.values.tolist() for x in tree.lanes] == [values.tolist()] * 2


def test_lambda_by_length():
  """alpha .25: 8 tokens have lambda 1 - 1 / 2, 2 tokens lambda 0."""
  learner = _learner(advantage="gae", decay_by_length=0.25)
  score = _scores(values=lambda lane: np.zeros(len(lane.tokens)))
  [tree] = _trees([_group([1, 1], [8, 2])], learner, score=score)
  long, short = _advantages(tree)
  np.testing.assert_allclose(long, 0.5 ** np.arange(7, -1, -1))
  assert short == [0, 1]


def test_kl_in_the_reward():
  learner = _learner(kl_coefficient=0.5, kl_in="reward")
  assert credit.scores_needed(learner) == {"reference"}
  # Log-probabilities are -1 and -2, the base's -2 and -2: 1 nat a token too
  # likely, and as likely.
  score = _scores(reference=lambda lane: np.full(len(lane.tokens), -2.0))
  [tree] = _trees([_group([1, 0])], learner, score=score, kl_coefficient=0.5)
  # Rewards 1 - .5 * 2 and 0.
  assert _advantages(tree) == [[0, 0], [0, 0]]
  learner = _learner(kl_coefficient=0.5, kl_in="reward", advantage="gae")
  score = _scores(
    reference=lambda lane: np.full(len(lane.tokens), -2.0),
    values=lambda lane: np.zeros(len(lane.tokens)),
  )
  [tree] = _trees([_group([1, 0])], learner, score=score, kl_coefficient=0.5)
  assert _advantages(tree) == [[0, 0.5], [0, 0]]


def test_whitened_over_a_step():
  groups = [_group([1, 0], [1, 3]), _group([1, 1])]
  trees = _trees(groups, _learner(whiten=True))
  white = np.concatenate([x.advantages for t in trees for x in t.lanes])
  np.testing.assert_allclose([white.mean(), white.std()], [0, 1], atol=1e-6)
  # All alike: nothing is learnt, and nothing blows up.
  [tree] = _trees([_group([0, 0])], _learner(whiten=True))
  assert _advantages(tree) == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
  ("rewards", "traces", "fields", "expected"),
  [
    ([0, 0], 0, {}, False),
    ([1, 1], 0, {}, False),
    ([1, 0], 0, {}, True),
    ([0.2, 0.4], 0, {}, True),
    ([0.2, 0.4], 0, {"signal_of": "outcome"}, False),
    ([0.2, 1.0], 0, {"signal_of": "outcome"}, True),
    ([0, 0], 1, {}, True),
    ([1, 1], 1, {}, False),
    ([1, 1], 1, {"trace_advantage": "reward"}, True),
    ([], 1, {"trace_advantage": "pass_rate"}, True),
  ],
)
def test_signal(rewards, traces, fields, expected):
  group = _group(rewards, traces=[_trace()] * traces)
  assert credit.has_signal(group, _learner(**fields)) == expected


def _tree(number, is_prefixed):
  lane = Lane(1, np.zeros(1), np.zeros(1), np.zeros(1))
  return Tree(np.array([number]), [lane], is_prefixed)


@pytest.mark.parametrize(
  ("prefixed", "others", "number", "expected"),
  [
    (4, 4, 2, [[0, 1, 12, 13], [2, 3, 10, 11]]),
    (3, 2, 2, [[0, 1, 11], [2, 10]]),
    (1, 0, 4, [[0]]),
    (0, 3, 1, [[10, 11, 12]]),
    (0, 0, 2, []),
  ],
)
def test_minibatches(prefixed, others, number, expected):
  trees = [_tree(i, True) for i in range(prefixed)]
  trees += [_tree(10 + i, False) for i in range(others)]
  parts = credit.minibatches(trees, number)
  assert [[int(t.trunk[0]) for t in part] for part in parts] == expected


def test_a_kl_coefficient_is_drawn_to_its_target():
  learner = _learner(kl_target=0.1, kl_horizon=1000)
  adapt = lambda kl: credit.adapted_kl_coefficient(0.5, kl, 100, learner)
  assert adapt(0.1) == 0.5
  assert adapt(0.11) == pytest.approx(0.5 * (1 + 0.1 * 0.1))
  assert adapt(9.0) == pytest.approx(0.5 * 1.02)
  assert adapt(0.0) == pytest.approx(0.5 * 0.98)
