"""Hand-computed losses; no gradient where nothing was sampled."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tabular import Tabular

from prefixrl_jax.learner import losses
from prefixrl_jax.settings import fields


def _policy_gradient(logprobs, advantages, mask):
  tokens = losses.Tokens(logprobs, mask, advantages, None, None)
  return losses.policy_gradient(tokens)[0]


def test_policy_gradient_by_hand():
  loss = _policy_gradient(
    np.array([-1.0, -2.0, -4.0]),
    np.array([3.0, 0.5, -1.0]),
    np.array([False, True, True]),
  )
  assert float(loss) == 1.0 - 4.0


def test_masked_sum_by_hand():
  mask = np.array([[True, False], [True, True]])
  assert float(losses.masked_sum(np.array([[1, 2], [4, 8.0]]), mask)) == 13
  share = np.array([[True, True], [False, True]])
  assert float(losses.masked_sum(share, mask)) == 2


def test_prompt_and_prefix_have_exactly_no_gradient():
  mask = np.array([False, False, True, True])
  advantages = np.array([5.0, 5.0, 2.0, -1.0])
  grad = jax.grad(_policy_gradient)(np.zeros(4), advantages, mask)
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


def _tokens(logprobs, behavior, advantages, mask, reference=None):
  goes_on = np.append(mask[1:] & mask[:-1], False)
  return losses.Tokens(logprobs, mask, advantages, behavior, goes_on, reference)


def test_clipped_by_hand():
  """Ratios 1.5 and .5 up and down, at a clip of .2 below and .3 above."""
  ratio = np.array([1.5, 1.5, 0.5, 0.5, 1.1, 9.0])
  advantages = np.array([2.0, -2.0, 1.0, -1.0, 3.0, 4.0])
  mask = np.array([True] * 5 + [False])
  loss = losses.make_loss("clipped", clip_low=0.2, clip_high=0.3)
  behavior = np.full(6, -3.0)
  of = lambda logprobs: loss.function(
    _tokens(logprobs, behavior, advantages, mask)
  )
  logprobs = behavior + np.log(ratio)
  value, sums = of(logprobs)
  # Held at 1.3; not held, since it is too likely; not held, since it is too
  # unlikely; held at .8; within the clip; not sampled.
  expected = -2 * 1.3 + 2 * 1.5 - 0.5 + 0.8 - 3 * 1.1
  assert float(value) == pytest.approx(expected, rel=1e-6)
  assert float(sums["clipped"]) == 2
  gradient = jax.grad(lambda x: of(x)[0])(logprobs)
  expected = [0, 2 * 1.5, -0.5, 0, -3 * 1.1, 0]
  np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_on_policy_every_loss_has_reinforce_s_gradient(rng):
  logprobs = -rng.random(12)
  mask = rng.random(12) < 0.8
  tokens = _tokens(logprobs, logprobs, rng.normal(size=12), mask)
  options = {"clipped": {"clip_low": 0.2, "clip_high": 0.2}}
  for name in losses.LOSSES:
    loss = losses.make_loss(name, **options.get(name, {}))
    gradient = jax.grad(
      lambda x, loss=loss: loss.function(tokens._replace(logprobs=x))[0]
    )(logprobs)
    expected = np.where(mask, -tokens.advantages, 0.0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["policy_gradient", "clipped"])
def test_a_kl_is_added_to_any_loss_and_told_apart(rng, name):
  logprobs, reference = -rng.random(8), -rng.random(8)
  mask = np.arange(8) > 2
  options = {"clip_low": 0.2, "clip_high": 0.2} if name == "clipped" else {}
  plain = losses.make_loss(name, **options)
  loss = losses.make_loss(
    name, kl_coefficient=0.5, kl_estimator="k2", **options
  )
  assert plain.needs == frozenset()
  assert loss.needs == {"reference"}
  tokens = _tokens(logprobs, logprobs, np.ones(8), mask, reference)
  (value, sums), (base, _) = loss.function(tokens), plain.function(tokens)
  gap = (logprobs - reference)[mask]
  assert float(value - base) == pytest.approx(0.25 * np.sum(gap**2), rel=1e-5)
  assert float(sums["loss"]) == float(base)
  expected = np.sum(np.exp(-gap) - 1 + gap)
  assert float(sums["kl"]) == pytest.approx(expected, rel=1e-5)
  assert set(sums) == set(loss.sums)


def test_every_loss_has_its_options_in_the_table_of_fields():
  for name, loss in losses.LOSSES.items():
    _, *options = inspect.signature(loss.function).parameters
    rows = fields.LOSSES[name]
    assert options == list(rows)
  assert losses.LOSSES.keys() == fields.LOSSES.keys()
