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
    warmup_steps: linear, the first of them with its share of the peak: step i
      of n has i / n of it.
    decay_steps: cosine to a tenth, counted from the first step; 0 keeps the
      peak.
    b1, b2, eps, weight_decay: AdamW's.
    clip_norm: global norm of the gradient; 0 does not clip.
  """
  # optax counts from 0: what is sampled first would be learnt at a rate of 0.
  first = learning_rate / max(warmup_steps, 1)
  to_peak = max(warmup_steps - 1, 0)
  if decay_steps:
    schedule = optax.warmup_cosine_decay_schedule(
      first, learning_rate, to_peak, decay_steps, 0.1 * learning_rate
    )
  else:
    schedule = optax.warmup_constant_schedule(first, learning_rate, to_peak)
  adamw = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay)
  if not clip_norm:
    return adamw
  return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)
