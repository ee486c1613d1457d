"""Log-probabilities of the sampled tokens of packed rows."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import transformer
from prefixrl_jax.models.block_map import true_first


def action_logprobs(config, params, *, rows, temperature, chunk_length, attend):
  """Returns each sampled token's log-probability and the policy's entropy.

  Logits exist for sampled tokens alone, `chunk_length` of each row at a time;
  the backward pass computes them again.

  Args:
    config: TransformerConfig.
    params: as from `transformer.init`.
    rows: TrainBatch without its micro-batch axis, fields [B, T].
    temperature: of the policy.
    chunk_length: tokens of a row whose logits are held at once.
    attend: (q, k, v) -> out, the attention rule over these rows.

  Returns:
    logprobs, entropy: float32 [B, T], 0 where action_mask is false.
  """
  hidden = transformer.forward(
    config, params, rows.tokens, rows.position, attend
  )
  # Sampled tokens to the front of their row: chunks beyond them are left out.
  order, place = true_first(rows.action_mask)
  take = lambda x: jnp.take_along_axis(x, order, axis=1)
  # The one place where a token meets the token that predicts it.
  predictors = jnp.take_along_axis(hidden, take(rows.parent)[..., None], axis=1)
  scored = _score_rows(
    _Scoring(config, temperature, chunk_length),
    transformer.head(config, params),
    predictors,
    take(rows.tokens),
    jnp.sum(rows.action_mask, axis=1, dtype=jnp.int32),
  )
  back = lambda x: jnp.where(
    rows.action_mask, jnp.take_along_axis(x, place, axis=1), 0.0
  )
  return jax.tree.map(back, scored)


class _Scoring(NamedTuple):
  """What the scoring of tokens is compiled for."""

  config: Any
  temperature: float
  chunk_length: int


def _score_rows(scoring, head, hidden, targets, counts):
  """hidden [B, T, D], targets [B, T], counts [B] -> ([B, T], [B, T]).

  On a mesh every device scores its own rows against its own part of the
  vocabulary, and the head's gradient crosses between devices once.
  """
  mesh = jax.sharding.get_abstract_mesh()
  score = functools.partial(_score_in_chunks, scoring)
  if mesh.empty:
    return score(None, head, hidden, targets, counts)
  rows = sharding.fitted(mesh, targets.shape, "rows", None)
  axes = ("vocab", None) if scoring.config.tied_head else (None, "vocab")
  vocabulary = sharding.fitted(mesh, head.shape, *axes)
  (vocab_axis,) = [a for a in vocabulary if a] or [None]
  return jax.shard_map(
    functools.partial(score, vocab_axis),
    in_specs=(vocabulary, rows, rows, PartitionSpec(*rows[:1])),
    out_specs=(rows, rows),
    check_vma=False,
  )(head, hidden, targets, counts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _score_in_chunks(scoring, vocab_axis, head, hidden, targets, counts):
  """Chunk by chunk, as many as the fullest row has."""
  size, num_chunks = _chunks(scoring, targets, counts)

  def one(i, scored):
    chunk = lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=1)
    new = _score(scoring, vocab_axis, head, chunk(hidden), chunk(targets))
    return jax.tree.map(
      lambda whole, part: jax.lax.dynamic_update_slice_in_dim(
        whole, part, i * size, axis=1
      ),
      scored,
      new,
    )

  zeros = jnp.zeros(targets.shape, jnp.float32)
  return jax.lax.fori_loop(0, num_chunks, one, (zeros, zeros))


def _score_in_chunks_fwd(scoring, vocab_axis, head, hidden, targets, counts):
  scored = _score_in_chunks(scoring, vocab_axis, head, hidden, targets, counts)
  return scored, (head, hidden, targets, counts)


def _score_in_chunks_bwd(scoring, vocab_axis, kept, cotangents):
  head, hidden, targets, counts = kept
  size, num_chunks = _chunks(scoring, targets, counts)

  def one(i, grads):
    of_head, of_hidden = grads
    chunk = lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=1)
    score = lambda head, hidden: _score(
      scoring, vocab_axis, head, hidden, chunk(targets)
    )
    _, pull = jax.vjp(score, head, chunk(hidden))
    new_head, new_hidden = pull(jax.tree.map(chunk, cotangents))
    of_hidden = jax.lax.dynamic_update_slice_in_dim(
      of_hidden, new_hidden, i * size, axis=1
    )
    return of_head + new_head.astype(jnp.float32), of_hidden

  of_head, of_hidden = jax.lax.fori_loop(
    0,
    num_chunks,
    one,
    (jnp.zeros(head.shape, jnp.float32), jnp.zeros_like(hidden)),
  )
  return of_head.astype(head.dtype), of_hidden, None, None


_score_in_chunks.defvjp(_score_in_chunks_fwd, _score_in_chunks_bwd)


def num_scored(action_mask, chunk_length):
  """Returns for how many tokens logits are computed, chunks filled up."""
  size = _chunk_size(action_mask.shape[1], chunk_length)
  counts = jnp.sum(action_mask, axis=1)
  return jnp.sum(-(-counts // size) * size).astype(jnp.float32)


def _chunk_size(length: int, wished: int) -> int:
  """Returns the largest size up to `wished` that divides the row."""
  return next(n for n in range(min(wished, length), 0, -1) if length % n == 0)


def _chunks(scoring, targets, counts):
  """Returns a chunk's size, and how many chunks the fullest row has."""
  size = _chunk_size(targets.shape[1], scoring.chunk_length)
  return size, -(-jnp.max(counts) // size)


def _score(scoring, vocab_axis, head, hidden, targets):
  """hidden [B, C, D], targets [B, C] -> logprob, entropy [B, C]."""
  scores = transformer.scores(scoring.config, head, hidden)
  scores = scores / scoring.temperature
  over_vocab = lambda reduce, x: reduce(x, vocab_axis) if vocab_axis else x
  here = targets
  if vocab_axis:
    here = targets - jax.lax.axis_index(vocab_axis) * scores.shape[-1]
  own = (here >= 0) & (here < scores.shape[-1])
  picked = jnp.take_along_axis(
    scores, jnp.clip(here, 0, scores.shape[-1] - 1)[..., None], -1
  )[..., 0]
  picked = over_vocab(jax.lax.psum, jnp.where(own, picked, 0.0))
  most = jax.lax.stop_gradient(
    over_vocab(jax.lax.pmax, jax.lax.stop_gradient(jnp.max(scores, -1)))
  )
  powers = jnp.exp(scores - most[..., None])
  total = over_vocab(jax.lax.psum, jnp.sum(powers, -1))
  log_total = jnp.log(total) + most
  mean = over_vocab(jax.lax.psum, jnp.sum(powers * scores, -1)) / total
  return picked - log_total, jax.lax.stop_gradient(log_total - mean)
