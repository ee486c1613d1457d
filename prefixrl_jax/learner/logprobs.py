"""Log-probabilities of the sampled tokens of packed rows."""

import jax
import jax.numpy as jnp

from prefixrl_jax.models import attention, transformer


def action_logprobs(
  config, params, rows, *, trunk_length, num_lanes, temperature, chunk_length
):
  """Returns each sampled token's log-probability and the policy's entropy.

  Logits exist for lanes alone, `chunk_length` positions of each row at a
  time; the backward pass computes them again.

  Args:
    config: TransformerConfig.
    params: as from `transformer.init`.
    rows: TrainBatch without its micro-batch axis, fields [B, T].
    trunk_length: P; rows are laid out as `learner.packing.Layout` says.
    num_lanes: G.
    temperature: of the policy.
    chunk_length: positions of a row whose logits are held at once.

  Returns:
    logprobs, entropy: float32 [B, T], 0 where action_mask is false.
  """
  lane_forks = rows.fork[:, trunk_length:].reshape(
    rows.fork.shape[0], num_lanes, -1
  )[:, :, 0]

  def attend(q, k, v):
    return attention.tree_attention(
      q,
      k,
      v,
      trunk_length=trunk_length,
      num_lanes=num_lanes,
      fork=lane_forks,
    )

  hidden = transformer.forward(
    config, params, rows.tokens, rows.position, attend
  )
  # The one place where a token meets the token that predicts it.
  predictors = jnp.take_along_axis(
    hidden, rows.parent[:, trunk_length:, None], axis=1
  )
  logprobs, entropy = _chunked(
    config,
    params,
    predictors,
    rows.tokens[:, trunk_length:],
    temperature,
    chunk_length,
  )
  widen = lambda x: jnp.where(
    rows.action_mask, jnp.pad(x, ((0, 0), (trunk_length, 0))), 0.0
  )
  return widen(logprobs), widen(entropy)


def _chunked(config, params, hidden, targets, temperature, chunk_length):
  """hidden [B, A, D], targets [B, A] -> logprobs, entropy [B, A]."""
  num_rows, num_actions = targets.shape
  chunk_length = min(chunk_length, num_actions)
  num_chunks = -(-num_actions // chunk_length)
  pad = num_chunks * chunk_length - num_actions
  split = lambda x: jnp.moveaxis(
    jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2)).reshape(
      num_rows, num_chunks, chunk_length, *x.shape[2:]
    ),
    1,
    0,
  )

  @jax.checkpoint
  def one(chunk):
    hidden, targets = chunk
    scores = transformer.logits(config, params, hidden) / temperature
    scores = jax.nn.log_softmax(scores)
    logprob = jnp.take_along_axis(scores, targets[..., None], -1)[..., 0]
    entropy = -jnp.sum(jnp.exp(scores) * scores, axis=-1)
    return logprob, jax.lax.stop_gradient(entropy)

  chunks = jax.lax.map(one, (split(hidden), split(targets)))
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(num_rows, -1)[:, :num_actions]
  return jax.tree.map(join, chunks)
