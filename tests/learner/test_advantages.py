"""Hand-computed advantages, and gradients by enumeration."""

import itertools

import jax
import numpy as np
import pytest
from tabular import Tabular

from prefixrl_jax.learner.advantages import advantages, discounted


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
