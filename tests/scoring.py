"""What packed trees and samplers are compared with: one sequence, plainly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prefixrl_jax.models import attention, transformer


@functools.partial(jax.jit, static_argnums=0)
def _hidden(model, params, sequence):
  """What the token after each is predicted from, [T, D]."""
  n = len(sequence)
  mask = jnp.tri(n, dtype=bool)[None]
  hidden, _ = transformer.forward(
    model,
    params,
    sequence[None],
    jnp.arange(n)[None],
    lambda q, k, v, _: attention.dense_attention(q, k, v, mask),
  )
  return hidden[0]


@functools.partial(jax.jit, static_argnums=0)
def _log_softmax(model, params, sequence, temperature):
  hidden = _hidden(model, params, sequence)
  logits = transformer.logits(model, params, hidden[None])[0]
  return jax.nn.log_softmax(logits / temperature)


def _of_completion(function, model, params, trunk, completion, *args):
  sequence = np.concatenate([trunk, completion])
  n = len(sequence)
  # No token sees what comes after it, so that one program serves many lengths.
  padded = np.pad(sequence, (0, -n % 16))
  return function(model, params, padded, *args)[len(trunk) - 1 : n - 1]


def predictors(model, params, trunk, completion):
  """What a completion's tokens are predicted from, [completion length, D]."""
  return _of_completion(_hidden, model, params, trunk, completion)


def log_softmax(model, params, trunk, completion, temperature):
  """Of each token's distribution, [completion length, V]."""
  return _of_completion(
    _log_softmax, model, params, trunk, completion, temperature
  )


def teacher_forced(model, params, trunk, completion, temperature=1.0):
  """Log-probabilities of a completion, from one pass over all of it."""
  scores = log_softmax(model, params, trunk, completion, temperature)
  return np.asarray(scores)[np.arange(len(completion)), completion]
