"""Hand-computed losses; no gradient where nothing was sampled."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_ppo_goldens import GOLDENS
from tabular import Tabular

from prefixrl_jax.learner import kl, losses
from prefixrl_jax.settings import fields


def _with_gradient(function):
  """Returns (x) -> value, sums, gradient; one program, not one an operation."""
  program = jax.jit(jax.value_and_grad(function, has_aux=True))

  def call(x):
    (value, sums), gradient = program(x)
    return value, sums, np.asarray(gradient)

  return call


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


def _kl_sum(logprobs, reference, mask):
  return kl.kl_to_reference(logprobs, reference, mask).sum()


def test_prompt_and_prefix_have_exactly_no_gradient():
  mask = np.array([False, False, True, True])
  advantages = np.array([5.0, 5.0, 2.0, -1.0])
  grad = jax.grad(_policy_gradient)(np.zeros(4), advantages, mask)
  assert grad.tolist() == [0, 0, -2, 1]
  grad = jax.grad(_kl_sum)(np.zeros(4), np.full(4, -0.5), mask)
  assert grad[:2].tolist() == [0, 0]
  assert (grad[2:] != 0).all()


def test_kl_is_unbiased_and_never_negative():
  policy = np.log([0.5, 0.3, 0.2])
  reference = np.log([0.2, 0.2, 0.6])
  each = np.array(
    [
      float(kl.kl_to_reference(policy[i], reference[i], np.bool_(True)))
      for i in range(3)
    ]
  )
  assert (each >= 0).all()
  exact = np.sum(np.exp(policy) * (policy - reference))
  np.testing.assert_allclose(np.exp(policy) @ each, exact, rtol=1e-5)


def _expected_gradient(estimator, policy, reference):
  """Of on-policy completions, all of them, each a row."""
  goes_on = policy.mask & np.pad(policy.mask[:, 1:], ((0, 0), (0, 1)))
  probs = np.asarray(policy.probs(policy.table))

  def weighed(table):
    with_probs = zip(
      policy.of_tokens(table),
      policy.of_tokens(reference),
      policy.mask,
      goes_on,
      probs,
    )
    return sum(
      probability * kl.kl_loss(estimator, ours, other, mask, on).sum()
      for ours, other, mask, on, probability in with_probs
    )

  return jax.jit(jax.grad(weighed))(policy.table)


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
      name: jax.jit(jax.grad(objective))(policy.table)
      for name, objective in expected.items()
    }
    for name, gradient in gradients.items():
      np.testing.assert_allclose(
        _expected_gradient(name, policy, reference), gradient, atol=1e-12
      )
    # Three different things.
    for a, b in ("k1", "k2"), ("k2", "k3"), ("k3", "k1"):
      assert np.abs(gradients[a] - gradients[b]).max() > 0.01


def test_an_unknown_estimator_is_an_error():
  one = np.zeros(1)
  with pytest.raises(ValueError, match="none of"):
    kl.kl_loss("k4", one, one, one == 0, one > 0)


def _tokens(logprobs, behavior, advantages, mask, **more):
  goes_on = np.append(mask[1:] & mask[:-1], False)
  return losses.Tokens(logprobs, mask, advantages, behavior, goes_on, **more)


def _make(**options):
  return losses.make_loss("policy_gradient", **options)


_CLIPS = {"importance": "token", "clip_low": 0.2, "clip_high": 0.3}


def _by_ratio(loss, ratio, advantages, mask=None):
  """Value, sums and gradient, of tokens with these ratios."""
  mask = np.ones(len(ratio), bool) if mask is None else mask
  behavior = np.linspace(-3, -1, len(ratio))
  logprobs = behavior + np.log(ratio)
  of = lambda x: loss.function(_tokens(x, behavior, advantages, mask))
  return (*_with_gradient(of)(logprobs), logprobs)


def test_clipped_by_hand():
  """Ratios 1.5 and .5 up and down, at a clip of .2 below and .3 above."""
  ratio = np.array([1.5, 1.5, 0.5, 0.5, 1.1, 9.0])
  advantages = np.array([2.0, -2.0, 1.0, -1.0, 3.0, 4.0])
  mask = np.array([True] * 5 + [False])
  value, sums, gradient, _ = _by_ratio(_make(**_CLIPS), ratio, advantages, mask)
  # Held at 1.3; not held, since it is too likely; not held, since it is too
  # unlikely; held at .8; within the clip; not sampled.
  expected = -2 * 1.3 + 2 * 1.5 - 0.5 + 0.8 - 3 * 1.1
  assert float(value) == pytest.approx(expected, rel=1e-6)
  assert float(sums["clipped"]) == 2
  expected = [0, 2 * 1.5, -0.5, 0, -3 * 1.1, 0]
  np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_dual_clip_by_hand():
  ratio, advantages = np.array([5.0, 2.0, 5.0]), np.array([-2.0, -1.0, 1.0])
  loss = _make(**_CLIPS, dual_clip=3.0)
  value, sums, gradient, _ = _by_ratio(loss, ratio, advantages)
  # Held at 3 of 5; below 3; the ordinary clip.
  assert float(value) == pytest.approx(3 * 2 + 2 * 1 - 1.3, rel=1e-6)
  np.testing.assert_allclose(gradient, [0, 2, 0], rtol=1e-6)
  assert float(sums["clipped"]) == 2


def test_cispo_by_hand():
  """The weight has no gradient, and every token keeps one."""
  ratio, advantages = np.array([4.0, 0.5]), np.array([1.0, -2.0])
  loss = _make(importance="token", clip_high=0.5, detached=True)
  value, sums, gradient, logprobs = _by_ratio(loss, ratio, advantages)
  expected = -(1.5 * 1 * logprobs[0] + 0.5 * -2 * logprobs[1])
  assert float(value) == pytest.approx(expected, rel=1e-6)
  np.testing.assert_allclose(gradient, [-1.5, 1.0], rtol=1e-6)
  assert float(sums["clipped"]) == 1


def test_gspo_by_hand():
  """Two completions: the geometric mean of 4 and 1 is 2, of .5 alone .5."""
  mask = np.array([True, True, False, True])
  ratio, advantages = np.array([4, 1, 7, 0.5]), np.array([1, 1, 9, -1.0])
  loss = _make(importance="sequence")
  value, _, gradient, _ = _by_ratio(loss, ratio, advantages, mask)
  assert float(value) == pytest.approx(-2 - 2 + 0.5, rel=1e-6)
  np.testing.assert_allclose(gradient, [-2, -2, 0, 0.5], rtol=1e-6)
  loss = _make(importance="sequence", clip_low=0.2, clip_high=0.2)
  value, sums, gradient, _ = _by_ratio(loss, ratio, advantages, mask)
  assert float(value) == pytest.approx(-1.2 - 1.2 + 0.8, rel=1e-6)
  np.testing.assert_array_equal(gradient, 0)
  assert float(sums["clipped"]) == 3


def test_a_trajectory_s_ratio_by_hand():
  mask = np.array([True, True, False, True])
  ratio, advantages = np.array([4, 1.5, 7, 0.5]), np.array([1, 1, 9, 2.0])
  loss = _make(importance="trajectory", clip_high=1.0, detached=True)
  value, _, gradient, logprobs = _by_ratio(loss, ratio, advantages, mask)
  # 4 times 1.5, held at 2; and .5.
  np.testing.assert_allclose(gradient, [-2, -2, 0, -1], rtol=1e-6)
  expected = gradient @ np.where(mask, logprobs, 0)
  assert float(value) == pytest.approx(expected, rel=1e-6)


def test_ratios_do_not_overflow():
  ratio = np.exp(np.array([300.0, -300.0]))
  loss = _make(importance="token")
  value, _, gradient, _ = _by_ratio(loss, ratio, np.ones(2))
  assert float(value) == pytest.approx(-np.exp(20), rel=1e-5)
  assert np.isfinite(gradient).all()


def test_an_unknown_importance_is_an_error():
  with pytest.raises(ValueError, match="none of"):
    _by_ratio(_make(importance="word"), np.ones(2), np.ones(2))


def _of_values(values, old_values, returns, **options):
  n = len(values)
  ones = np.ones(n, bool)
  options = (
    dict(clip_low=0.2, clip_high=0.2, value_clip=0.2, value_coefficient=0.1)
    | options
  )
  loss = losses.make_loss("ppo", **options)

  def of(values):
    tokens = _tokens(
      np.full(n, -1.0),
      np.full(n, -1.0),
      np.zeros(n),
      ones,
      values=values,
      old_values=old_values,
      returns=returns,
    )
    return loss.function(tokens)

  return _with_gradient(of)(values)


def test_ppo_s_critic_by_hand():
  # Moved too far to its goal; within the clip; moved away from its goal.
  values, old = np.array([0.9, 0.1, 0.5]), np.array([0.0, 0.0, 0.0])
  returns = np.array([1.0, 1.0, -1.0])
  value, sums, gradient = _of_values(values, old, returns)
  worst = np.array([0.8, 0.9, 1.5]) ** 2
  assert float(sums["value_loss"]) == pytest.approx(worst.sum() / 2, rel=1e-6)
  assert float(value) == pytest.approx(0.1 * worst.sum() / 2, rel=1e-6)
  assert float(sums["value_clipped"]) == 1
  np.testing.assert_allclose(gradient, [0, -0.09, 0.15], rtol=1e-5)
  _, sums, gradient = _of_values(values, old, returns, value_clip=0.0)
  np.testing.assert_allclose(gradient, [-0.01, -0.09, 0.15], rtol=1e-5)
  assert float(sums["value_clipped"]) == 0


@pytest.mark.parametrize("case", json.loads(GOLDENS.read_text())["cases"])
def test_ppo_is_verl_s(case):
  """Loss and gradients, policy's and critic's, with dual clip; float64."""
  flat = lambda name: np.ravel(np.array(case[name]))
  clips = {k: case[k] for k in ("clip_low", "clip_high", "dual_clip")}
  loss = losses.make_loss("ppo", **clips, value_clip=0.2, value_coefficient=1.0)
  count = len(flat("logprobs"))
  with jax.enable_x64():

    def of(logprobs, values):
      tokens = _tokens(
        logprobs,
        flat("behavior_logprobs"),
        flat("advantages"),
        np.ones(count, bool),
        values=values,
        old_values=flat("values"),
        returns=flat("returns"),
      )
      value, sums = loss.function(tokens)
      return value / count, {k: v / count for k, v in sums.items()}

    point = flat("logprobs"), flat("predicted")
    (_, sums), gradient = jax.value_and_grad(of, (0, 1), has_aux=True)(*point)
  for name, mine in (
    ("logprobs_gradient", gradient[0]),
    ("predicted_gradient", gradient[1]),
    ("policy_loss", sums["policy_loss"]),
    ("clipped", sums["clipped"]),
    ("value_loss", sums["value_loss"]),
    ("value_clipped", sums["value_clipped"]),
  ):
    np.testing.assert_allclose(mine, flat(name).squeeze(), rtol=1e-6, atol=1e-9)


def test_luffy_by_hand():
  """Two tokens of the policy's own, two of a trace, one of the prompt."""
  mask = np.array([True, True, True, True, False])
  is_trace = np.array([False, False, True, True, False])
  logprobs = np.log([0.5, 0.2, 0.4, 0.1, 0.9])
  behavior = np.log([0.25, 0.4, 0.123, 0.456, 0.9])
  advantages = np.array([1.0, -1.0, 0.75, 0.75, 3.0])
  shaped = {
    "ratio": (lambda x: x / (x + 0.1), lambda x: 0.1 * x / (x + 0.1) ** 2),
    "sqrt": (np.sqrt, lambda x: np.sqrt(x) / 2),
    "log": (np.log, lambda x: 1 + 0 * x),
  }
  for shaping, (value_of, slope_of) in shaped.items():
    loss = losses.make_loss("luffy", shaping=shaping, shift=0.1)
    assert loss.needs == {"traces"}
    of = lambda x, loss=loss: loss.function(
      _tokens(x, behavior, advantages, mask, is_trace=is_trace)
    )
    value, sums, gradient = _with_gradient(of)(logprobs)
    trace = np.array([0.4, 0.1])
    expected = -(2.0 - 0.5) - 0.75 * value_of(trace).sum()
    assert float(value) == pytest.approx(expected, rel=1e-5)
    expected = [-2, 0.5, *(-0.75 * slope_of(trace)), 0]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    assert float(sums["trace_probability"]) == pytest.approx(0.5)


_FORMS = {
  "policy_gradient": [
    {"importance": "none"},
    {"importance": "token"},
    {"importance": "token", "clip_low": 0.2, "clip_high": 0.2},
    {"importance": "token", "clip_low": 0.2, "dual_clip": 3.0},
    {"importance": "token", "clip_high": 0.2, "detached": True},
    {"importance": "sequence", "clip_low": 0.2, "clip_high": 0.2},
    {"importance": "sequence", "detached": True},
    {"importance": "trajectory", "clip_high": 1.0, "detached": True},
  ],
  "ppo": [
    {
      "clip_low": 0.2,
      "clip_high": 0.2,
      "value_clip": 0.2,
      "value_coefficient": 0.1,
    }
  ],
  "luffy": [{"shaping": "ratio"}],
}


def _any_tokens(rng, behavior_gap=0.0):
  """Tokens of a few completions with all that any loss needs."""
  n = 24
  logprobs, mask = -rng.random(n) - 0.1, rng.random(n) < 0.8
  return _tokens(
    logprobs,
    logprobs + behavior_gap * rng.normal(size=n),
    rng.normal(size=n),
    mask,
    weights=rng.random(n),
    reference_logprobs=-rng.random(n),
    entropy=rng.random(n),
    values=rng.random(n),
    old_values=rng.random(n),
    returns=rng.random(n),
    is_trace=np.zeros(n, bool),
  )


def test_on_policy_every_loss_has_reinforce_s_gradient(rng):
  tokens = _any_tokens(rng)
  expected = np.where(
    tokens.action_mask, -tokens.weights * tokens.advantages, 0.0
  )
  assert _FORMS.keys() == losses.LOSSES.keys()
  for name, forms in _FORMS.items():
    for options in forms:
      loss = losses.make_loss(name, **options)
      _, _, gradient = _with_gradient(
        lambda x, loss=loss: loss.function(tokens._replace(logprobs=x))
      )(tokens.logprobs)
      np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def test_gradients_are_those_of_finite_differences(rng):
  """Of every loss that is one function of what it is differentiated by."""
  with jax.enable_x64():
    tokens = _any_tokens(rng, behavior_gap=0.3)
    tokens = tokens._replace(is_trace=rng.random(24) < 0.3)
    cases = [
      ("policy_gradient", {"importance": "token", "dual_clip": 3.0}),
      ("policy_gradient", {"importance": "token", "clip_low": 0.2}),
      ("policy_gradient", {"importance": "trajectory"}),
      ("ppo", _FORMS["ppo"][0]),
      *(("luffy", {"shaping": s}) for s in ("ratio", "sqrt", "log")),
    ]
    for name, options in cases:
      loss = losses.make_loss(
        name,
        kl_coefficient=0.3,
        kl_estimator="k2",
        entropy_coefficient=0.2,
        **options,
      )

      def of(point, loss=loss):
        x, values, entropy = point
        return loss.function(
          tokens._replace(logprobs=x, values=values, entropy=entropy)
        )

      point = np.stack([tokens.logprobs, tokens.values, tokens.entropy])
      at = _with_gradient(of)
      _, _, gradient = at(point)
      direction = rng.normal(size=point.shape)
      step = 1e-6
      above, below = (at(point + s * direction)[0] for s in (step, -step))
      assert float(np.sum(gradient * direction)) == pytest.approx(
        float(above - below) / (2 * step), rel=1e-6
      )


@pytest.mark.parametrize("name", losses.LOSSES)
def test_what_is_added_to_any_loss_is_told_apart(rng, name):
  tokens = _any_tokens(rng)
  options = _FORMS[name][0]
  plain = losses.make_loss(name, **options)
  loss = losses.make_loss(
    name,
    kl_coefficient=0.5,
    kl_estimator="k2",
    entropy_coefficient=0.25,
    **options,
  )
  assert loss.needs == plain.needs | {"reference", "entropy"}
  (value, sums), (base, _) = loss.function(tokens), plain.function(tokens)
  mask = tokens.action_mask
  gap = tokens.logprobs - tokens.reference_logprobs
  added = tokens.weights * (0.25 * gap**2 - 0.25 * tokens.entropy)
  assert float(value - base) == pytest.approx(np.sum(added[mask]), rel=1e-4)
  assert float(sums["loss"]) == float(base)
  expected = np.sum((np.exp(-gap) - 1 + gap)[mask])
  assert float(sums["kl"]) == pytest.approx(expected, rel=1e-5)
  assert set(sums) == set(loss.sums)
  assert set(plain.function(tokens)[1]) == set(plain.sums)


def test_an_adapted_kl_comes_with_the_batch(rng):
  tokens = _any_tokens(rng)
  make = lambda **more: losses.make_loss("policy_gradient", **more)
  adapted = make(kl_coefficient=9.0, adapts_kl=True)
  assert adapted.needs == {"reference", "kl_coefficient"}
  value, _ = adapted.function(tokens._replace(kl_coefficient=0.5))
  expected, _ = make(kl_coefficient=0.5).function(tokens)
  assert float(value) == float(expected)


def test_every_loss_has_its_options_in_the_table_of_fields():
  for name, loss in losses.LOSSES.items():
    _, *options = inspect.signature(loss.function).parameters
    rows = fields.LOSSES[name]
    assert options == list(rows)
  assert losses.LOSSES.keys() == fields.LOSSES.keys()
