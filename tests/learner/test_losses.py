"""Hand-computed losses; no gradient where nothing was sampled."""

import jax
import numpy as np

from prefixrl_jax.learner import losses


def test_policy_loss_by_hand():
  loss = losses.policy_loss(
    np.array([-1.0, -2.0, -4.0]),
    np.array([3.0, 0.5, -1.0]),
    np.array([False, True, True]),
  )
  assert float(loss) == 1.0 - 4.0


def test_prompt_and_prefix_have_exactly_no_gradient():
  mask = np.array([False, False, True, True])
  advantages = np.array([5.0, 5.0, 2.0, -1.0])
  grad = jax.grad(losses.policy_loss)(np.zeros(4), advantages, mask)
  assert grad.tolist() == [0, 0, -2, 1]
  grad = jax.grad(losses.kl_to_reference)(np.zeros(4), np.full(4, -0.5), mask)
  assert grad[:2].tolist() == [0, 0]
  assert (grad[2:] != 0).all()


def test_kl_is_unbiased_and_never_negative():
  policy = np.log([0.5, 0.3, 0.2])
  reference = np.log([0.2, 0.2, 0.6])
  each = np.array(
    [
      float(losses.kl_to_reference(policy[i], reference[i], np.bool_(True)))
      for i in range(3)
    ]
  )
  assert (each >= 0).all()
  exact = np.sum(np.exp(policy) * (policy - reference))
  np.testing.assert_allclose(np.exp(policy) @ each, exact, rtol=1e-5)
