"""The optimizer that tests take where which one it is makes no difference."""

import optax

from prefixrl_jax.learner.optimizer import make_optimizer


def plain_adamw(**changed: float) -> optax.GradientTransformation:
  """Returns AdamW at one rate, unclipped and without decay, unless changed."""
  settings = dict(
    learning_rate=1e-2,
    warmup_steps=0,
    decay_steps=0,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.0,
    clip_norm=0.0,
  )
  return make_optimizer(**settings | changed)  # type: ignore[arg-type]
