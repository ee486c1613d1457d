"""The optimizer: AdamW after a global clip, with warm-up and decay."""

import functools

import optax

# What is left of the peak at the end of the decay: a tenth, as is usual since
# Hoffmann et al. (arXiv 2203.15556), so that the last steps still
# learn.
_FINAL_SHARE = 0.1


@functools.cache
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
  wait_steps: int = 0,
) -> optax.GradientTransformation:
  """Returns optax AdamW, the same one for the same settings.

  Args:
    learning_rate: at its peak.
    warmup_steps: linear, the first of them with its share of the peak: step i
      of n has i / n of it.
    decay_steps: cosine to a tenth of the peak, counted from the first step; 0
      keeps the peak.
    b1: decay of AdamW's first moment.
    b2: decay of its second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled, times the learning rate.
    clip_norm: global norm of the gradient; 0 does not clip.
    wait_steps: with a learning rate of 0, before all others.
  """
  # optax counts from 0: what is sampled first would be learnt at a rate of 0.
  first = learning_rate / max(warmup_steps, 1)
  to_peak = max(warmup_steps - 1, 0)
  if decay_steps:
    schedule = optax.warmup_cosine_decay_schedule(
      first, learning_rate, to_peak, decay_steps, _FINAL_SHARE * learning_rate
    )
  else:
    schedule = optax.warmup_constant_schedule(first, learning_rate, to_peak)
  if wait_steps:
    schedule = optax.join_schedules(
      [optax.constant_schedule(0.0), schedule], [wait_steps]
    )
  adamw = optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay)
  if not clip_norm:
    return adamw
  return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)
