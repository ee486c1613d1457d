"""The rate of every step, read off what AdamW does with a constant gradient."""

import jax
import numpy as np
import optax
import pytest

from prefixrl_jax.learner.optimizer import make_optimizer

_PEAK = 0.01


def _rates(num_steps, *, clip_norm=0.0, gradient=1.0, eps=1e-12, **fields):
  """What a weight moves by, a step: AdamW divides a gradient by its size."""
  optimizer = make_optimizer(
    learning_rate=_PEAK,
    b1=0.9,
    b2=0.95,
    eps=eps,
    weight_decay=0.0,
    clip_norm=clip_norm,
    **fields,
  )
  weight = np.zeros(1, np.float32)
  state = optimizer.init(weight)
  step = jax.jit(optimizer.update)
  rates = []
  for _ in range(num_steps):
    update, state = step(np.full(1, gradient, np.float32), state, weight)
    rates.append(-float(update[0]))
  return np.array(rates)


@pytest.mark.parametrize("decay_steps", [0, 10_000])
def test_warm_up_wastes_no_step(decay_steps):
  rates = _rates(6, warmup_steps=4, decay_steps=decay_steps)
  np.testing.assert_allclose(
    rates / _PEAK, [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-4
  )


@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_without_warm_up_the_first_step_has_the_peak(warmup_steps):
  rates = _rates(3, warmup_steps=warmup_steps, decay_steps=0)
  np.testing.assert_allclose(rates, _PEAK, rtol=1e-4)


def test_decay_ends_at_a_tenth_and_stays_there():
  rates = _rates(30, warmup_steps=0, decay_steps=20) / _PEAK
  step = np.minimum(np.arange(30), 20)
  expected = 0.1 + 0.9 * (1 + np.cos(np.pi * step / 20)) / 2
  np.testing.assert_allclose(rates, expected, rtol=1e-4)
  np.testing.assert_allclose(rates[20:], 0.1, rtol=1e-4)


def test_decay_is_counted_from_the_first_step():
  rates = _rates(12, warmup_steps=4, decay_steps=10) / _PEAK
  np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1], rtol=1e-4)
  assert (np.diff(rates[3:11]) < 0).all()
  np.testing.assert_allclose(rates[10:], 0.1, rtol=1e-4)


@pytest.mark.parametrize(("clip_norm", "seen"), [(0.0, 3.0), (0.5, 0.5)])
def test_gradients_are_clipped_at_their_norm(clip_norm, seen):
  """With an eps as large as the gradient, AdamW tells what it was given."""
  [rate] = _rates(
    1, warmup_steps=0, decay_steps=0, clip_norm=clip_norm, gradient=3.0, eps=1.0
  )
  np.testing.assert_allclose(rate, _PEAK * seen / (seen + 1), rtol=1e-4)


def test_schedule_is_constant_after_warm_up_without_decay():
  rates = _rates(40, warmup_steps=2, decay_steps=0)
  np.testing.assert_allclose(rates[1:], _PEAK, rtol=1e-3)


def test_weights_decay():
  optimizer = make_optimizer(
    learning_rate=_PEAK,
    warmup_steps=0,
    decay_steps=0,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.5,
    clip_norm=0.0,
  )
  weight = np.full(1, 2.0, np.float32)
  update, _ = optimizer.update(0 * weight, optimizer.init(weight), weight)
  after = optax.apply_updates(weight, update)
  np.testing.assert_allclose(after, 2.0 - _PEAK * 0.5 * 2.0, rtol=1e-6)
