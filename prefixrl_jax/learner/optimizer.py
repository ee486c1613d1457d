"""The optimizer: AdamW behind a global clip, with warm-up and decay."""

import optax


def make_optimizer(
  *,
  learning_rate: float,
  warmup_steps: int,
  decay_steps: int,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip_norm: float,
) -> optax.GradientTransformation:
  """Returns optax AdamW.

  Args:
    learning_rate: at its peak.
    warmup_steps: linear, from 0.
    decay_steps: cosine to a tenth, counted from the first step; 0 keeps the
      peak.
    b1, b2, eps, weight_decay: AdamW's.
    clip_norm: global norm of the gradient; 0 does not clip.
  """
  if decay_steps:
    schedule = optax.warmup_cosine_decay_schedule(
      0.0 if warmup_steps else learning_rate,
      learning_rate,
      warmup_steps,
      decay_steps,
      0.1 * learning_rate,
    )
  else:
    schedule = optax.constant_schedule(learning_rate)
    if warmup_steps:
      schedule = optax.warmup_constant_schedule(
        0.0, learning_rate, warmup_steps
      )
  adamw = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay)
  if not clip_norm:
    return adamw
  return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)
