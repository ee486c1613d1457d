"""A token from logits: temperature, top-k, top-p, one number a lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Float32, Int, Int32, Key


def draw(
  logits: Float32[Array, "V R G"],
  key: Key[Array, "R G"],
  length: Int[Array, "R G"],
  temperature: float,
  top_k: int,
  top_p: float,
) -> tuple[Int32[Array, "R G"], Float32[Array, "R G"]]:
  """Draws a token per lane; returns them and their log-probabilities.

  Logits that are NaN or infinite give a log-probability that is.

  One uniform number a lane picks a block of the vocabulary, then a token in
  it: a Gumbel number for each token would take longer than the decoder. The
  vocabulary comes first in all of it, as the product leaves it: to turn it
  would take longer than to draw.

  Args:
    logits: of the next token.
    key, length: of the completion, and the token's place in it.
    temperature, top_k, top_p: see `decoding.decode`.
  """
  grid = length.shape
  logits = logits.reshape(len(logits), -1)
  key, length = key.reshape(-1), length.reshape(-1)
  if temperature > 0:
    logits = logits / temperature
  max_logit = jnp.max(logits, axis=0)
  exp_logits = jnp.exp(logits - max_logit)
  log_total = jnp.log(jnp.sum(exp_logits, axis=0)) + max_logit
  if temperature == 0:
    token = jnp.argmax(logits, axis=0)
  else:
    if top_k or top_p < 1:
      kept = _filter(logits, top_k, top_p) > -jnp.inf
      exp_logits = jnp.where(kept, exp_logits, 0.0)
    keys = jax.vmap(jax.random.fold_in)(key, length)
    # There are 2**23 different numbers; the middle of what each stands for, so
    # that 0 does not always draw the first token, however unlikely it is.
    uniform = jax.vmap(jax.random.uniform)(keys) + 2.0**-24
    token = _invert(exp_logits, uniform)
  token = token.astype(jnp.int32)
  logprob = _at(logits, token) - log_total
  return token.reshape(grid), logprob.reshape(grid)


def _at(x, index):
  """Returns x[index[n], ..., n]; x: [size, ..., N], index: int [N]."""
  index = index.reshape(*[1] * (x.ndim - 1), -1)
  return jnp.take_along_axis(x, index, axis=0)[0]


def _invert(weights, uniform, block_size=256):
  """Returns the index in [0, V) at which the cumulated weights pass `uniform`.

  It is never one that weighs nothing.

  Args:
    weights: [V, N], not negative, some positive.
    uniform: [N], in [0, 1].
  """
  blocks = jnp.pad(weights, [(0, -len(weights) % block_size), (0, 0)])
  blocks = blocks.reshape(-1, block_size, weights.shape[1])
  sums = jnp.sum(blocks, axis=1)
  ends = jnp.cumsum(sums, axis=0)
  target = uniform * ends[-1]

  def passes(ends, weights):
    """The first that passes the target; if rounding lets none, the largest."""
    past = (ends > target) & (weights > 0)
    largest = jnp.argmax(weights, axis=0)
    return jnp.where(past.any(axis=0), jnp.argmax(past, axis=0), largest)

  block = passes(ends, sums)
  inside = _at(blocks, block)
  # Not its end less its sum: rounding could put that beyond the target.
  before = _at(jnp.pad(ends, [(1, 0), (0, 0)]), block)
  place = passes(before + jnp.cumsum(inside, axis=0), inside)
  return block * block_size + place


def _filter(logits, top_k, top_p):
  """Sets logits [V, N] to -inf that top_k and top_p leave out."""
  if top_k:
    kth = jax.lax.top_k(logits, top_k, axis=0)[0][-1]
    logits = jnp.where(logits < kth, -jnp.inf, logits)
  if top_p < 1:
    ordered = -jnp.sort(-logits, axis=0)
    probs = jax.nn.softmax(ordered, axis=0)
    before = jnp.cumsum(probs, axis=0) - probs
    last = jnp.sum(before < top_p, axis=0) - 1
    logits = jnp.where(logits < _at(ordered, last), -jnp.inf, logits)
  return logits
