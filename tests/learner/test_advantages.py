"""Hand-computed advantages."""

import numpy as np
import pytest

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


def test_discount_counts_the_tokens_to_come():
  np.testing.assert_allclose(discounted(2.0, 3, 0.5), [0.5, 1, 2])
  np.testing.assert_allclose(discounted(2.0, 2, 1.0), [2, 2])


def test_an_unknown_estimator_is_an_error():
  with pytest.raises(ValueError, match="none of"):
    advantages(np.ones((1, 2)), "median")
