"""Hand-computed losses; no gradient where nothing was sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tabular import Tabular

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


def _expected_gradient(estimator, policy, reference):
  """Of on-policy completions, all of them, each a row."""
  goes_on = policy.mask & np.pad(policy.mask[:, 1:], ((0, 0), (0, 1)))

  def weighed(table):
    with_probs = zip(
      policy.of_tokens(table),
      policy.of_tokens(reference),
      policy.mask,
      goes_on,
      np.asarray(policy.probs(policy.table)),
    )
    return sum(
      probability * losses.kl_loss(estimator, ours, other, mask, on)
      for ours, other, mask, on, probability in with_probs
    )

  return jax.grad(weighed)(policy.table)


def _kl(p, q):
  """Of each state's next token, from logits."""
  log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=1)


def test_expected_gradients_of_the_kl():
  policy, reference = Tabular(seed=1), Tabular(seed=2).table
  with jax.enable_x64():
    visits = policy.visits(policy.table)
    expected = {
      # Of whole completions.
      "k1": lambda t: (
        policy.probs(t) @ (policy.logprobs(t) - policy.logprobs(reference))
      ),
      # Of the next token, at the places the policy comes to.
      "k2": lambda t: visits @ _kl(t, reference),
      "k3": lambda t: visits @ _kl(reference, t),
    }
    gradients = {
      name: jax.grad(objective)(policy.table)
      for name, objective in expected.items()
    }
    for name, gradient in gradients.items():
      np.testing.assert_allclose(
        _expected_gradient(name, policy, reference), gradient, atol=1e-12
      )
    # Three different things.
    for a, b in ("k1", "k2"), ("k2", "k3"), ("k3", "k1"):
      assert np.abs(gradients[a] - gradients[b]).max() > 0.01


def test_sums_reach_to_the_end_of_a_completion_and_no_further(rng):
  values = rng.integers(0, 9, (3, 37)).astype(np.float32)
  goes_on = rng.random((3, 37)) < 0.7
  expected = values.copy()
  for t in range(35, -1, -1):
    expected[:, t] += np.where(goes_on[:, t], expected[:, t + 1], 0)
  goes_on[:, -1] = False
  np.testing.assert_array_equal(losses._sum_to_end(values, goes_on), expected)


def test_an_unknown_estimator_is_an_error():
  one = np.zeros(1)
  with pytest.raises(ValueError, match="none of"):
    losses.kl_loss("k4", one, one, one == 0, one > 0)
