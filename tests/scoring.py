"""What packed trees and samplers are compared with: one sequence, plainly."""

import jax
import jax.numpy as jnp
import numpy as np

from prefixrl_jax.models import attention, transformer


def predictors(model, params, trunk, completion):
  """What a completion's tokens are predicted from, [completion length, D]."""
  sequence = np.concatenate([trunk, completion])
  n = len(sequence)
  mask = jnp.tri(n, dtype=bool)[None]
  hidden, _ = transformer.forward(
    model,
    params,
    sequence[None],
    jnp.arange(n)[None],
    lambda q, k, v, _: attention.dense_attention(q, k, v, mask),
  )
  return hidden[0, len(trunk) - 1 : n - 1]


def log_softmax(model, params, trunk, completion, temperature):
  """Of each token's distribution, [completion length, V]."""
  hidden = predictors(model, params, trunk, completion)
  logits = transformer.logits(model, params, hidden[None])[0]
  return jax.nn.log_softmax(logits / temperature)


def teacher_forced(model, params, trunk, completion, temperature=1.0):
  """Log-probabilities of a completion, from one pass over all of it."""
  scores = log_softmax(model, params, trunk, completion, temperature)
  return np.asarray(scores)[np.arange(len(completion)), completion]
