"""What the sampler's log-probabilities are compared with."""

import jax
import jax.numpy as jnp
import numpy as np

from prefixrl_jax.models import attention, transformer


def teacher_forced(model, params, trunk, completion, temperature=1.0):
  """Log-probabilities of a completion, from one pass over all of it."""
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
  scores = transformer.logits(model, params, hidden)[0] / temperature
  scores = np.asarray(jax.nn.log_softmax(scores))
  return scores[np.arange(len(trunk) - 1, n - 1), completion]
