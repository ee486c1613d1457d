"""Hand-computed advantages, and gradients by enumeration."""

import itertools
import json

import jax
import numpy as np
import pytest
from make_ppo_goldens import GOLDENS
from tabular import Tabular

from prefixrl_jax.learner.advantages import (
  advantages,
  discounted,
  gae,
  whitened,
)


@pytest.mark.parametrize(
  ("estimator", "expected"),
  [
    ("group_mean", [0.75, -0.25, -0.25, -0.25]),
    ("leave_one_out", [1, -1 / 3, -1 / 3, -1 / 3]),
    ("group_std", [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]),
  ],
)
def test_by_hand(estimator, expected):
  np.testing.assert_allclose(
    advantages(np.array([[1, 0, 0, 0]]), estimator)[0], expected, rtol=1e-6
  )


@pytest.mark.parametrize(
  "estimator", ["group_mean", "leave_one_out", "group_std"]
)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_equal_rewards_give_exact_zeros(estimator, reward):
  assert not advantages(np.full((2, 3), reward), estimator).any()


def test_leave_one_out_is_the_mean_of_the_others(rng):
  rewards = rng.random((1, 5))
  expected = [rewards[0, i] - np.delete(rewards[0], i).mean() for i in range(5)]
  np.testing.assert_allclose(
    advantages(rewards, "leave_one_out")[0], expected, rtol=1e-5
  )


def test_discount_by_hand():
  np.testing.assert_allclose(
    discounted(np.array([[2.0, 2.0, 0.0]]), np.array([[1, 3, 2]]), 0.5),
    [[2.0, 0.5, 0.0]],
  )
  np.testing.assert_array_equal(
    discounted(np.array([1.0, 0.5]), np.array([7, 9]), 1.0), [1.0, 0.5]
  )


@pytest.mark.parametrize("discount", [0.6, 1.0])
@pytest.mark.parametrize("reward", ["always", "where 2 comes last but one"])
def test_expected_gradient_is_the_discounted_objective_s(discount, reward):
  """All groups of three completions of a policy of three tokens."""
  policy = Tabular(seed=1)
  right = [
    reward == "always" or 2 in completion[-2:] for completion in policy.every
  ]
  rewards = discounted(
    np.array(right, float), np.array(list(map(len, policy.every))), discount
  )
  with jax.enable_x64():
    objective = lambda table: policy.probs(table) @ rewards
    expected = np.asarray(jax.grad(objective)(policy.table))
    probs = np.asarray(policy.probs(policy.table))
    scores = np.asarray(jax.jacobian(policy.logprobs)(policy.table))
  for estimator, share in (("group_mean", 2 / 3), ("leave_one_out", 1.0)):
    found = 0.0
    for group in itertools.product(range(len(policy.every)), repeat=3):
      group = np.array(group)
      weights = advantages(rewards[group][None], estimator)[0]
      found += np.prod(probs[group]) * np.tensordot(weights, scores[group], 1)
    np.testing.assert_allclose(found / 3, share * expected, atol=1e-7)
  has_signal = reward != "always" or discount < 1
  assert (np.abs(expected).max() > 1e-2) == has_signal


def test_an_unknown_estimator_is_an_error():
  with pytest.raises(ValueError, match="none of"):
    advantages(np.ones((1, 2)), "median")


def test_gae_by_hand():
  rewards, values = np.array([0, 0, 1.0]), np.array([0.5, 0.25, 0.75])
  # Deltas, from the end: 1 - .75; .9 * .75 - .25; .9 * .25 - .5.
  deltas = [-0.275, 0.425, 0.25]
  last = deltas[2]
  middle = deltas[1] + 0.9 * 0.8 * last
  expected = [deltas[0] + 0.9 * 0.8 * middle, middle, last]
  np.testing.assert_allclose(gae(rewards, values, 0.9, 0.8), expected)


def test_gae_without_discount_and_decay_is_reward_minus_value(rng):
  values, rewards = rng.normal(size=7), np.zeros(7)
  rewards[-1] = 0.5  # not cut off to an integer
  np.testing.assert_allclose(gae(rewards, values, 1.0, 1.0), 0.5 - values)


def test_gae_is_the_sum_that_defines_it(rng):
  rewards, values = rng.normal(size=9), rng.normal(size=9)
  after = np.append(values[1:], 0)
  deltas = rewards + 0.97 * after - values
  expected = [
    sum((0.97 * 0.6) ** (k - t) * deltas[k] for k in range(t, 9))
    for t in range(9)
  ]
  np.testing.assert_allclose(gae(rewards, values, 0.97, 0.6), expected)


def test_whitened_over_all_tokens_together():
  groups = [np.array([1.0, 2.0, 3.0]), np.array([10.0])]
  white = whitened(groups)
  np.testing.assert_allclose(np.concatenate(white).mean(), 0, atol=1e-12)
  np.testing.assert_allclose(np.concatenate(white).std(), 1, rtol=1e-6)
  assert [len(w) for w in white] == [3, 1]
  # Equal values do not blow up.
  for value in (0.0, 0.3, -7.0):
    for w in whitened([np.full(3, value), np.full(1, value)]):
      np.testing.assert_array_equal(w, 0)


@pytest.mark.parametrize("case", json.loads(GOLDENS.read_text())["cases"])
def test_gae_is_verl_s(case):
  for rewards, values, returns in zip(
    case["rewards"], case["values"], case["returns"]
  ):
    ours = gae(np.array(rewards), np.array(values), case["gamma"], case["lam"])
    np.testing.assert_allclose(ours + values, returns, rtol=1e-12, atol=1e-12)
