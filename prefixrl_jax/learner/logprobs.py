"""Log-probabilities of the sampled tokens of packed rows."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import transformer
from prefixrl_jax.models.block_map import pad_to_multiple, true_first
from prefixrl_jax.rounding import ceil_div


class Actions(NamedTuple):
  """What a policy says of the sampled tokens of packed rows.

  Attributes:
    logprobs: float32 [B, T], 0 where action_mask is false.
    entropy: float32 [B, T], of the distributions they were drawn from.
    load: what experts were sent, as from `transformer.forward`.
    values: float32 [B, T], of a value head; None: there is none.
  """

  logprobs: Any
  entropy: Any
  load: Any
  values: Any = None


def action_logprobs(
  config,
  params,
  *,
  rows,
  temperature,
  chunk_length,
  attend,
  entropy_gradient=False,
  value_head=None,
  value_gradient=True,
) -> Actions:
  """Returns each sampled token's log-probability and the policy's entropy.

  Logits exist for sampled tokens alone, `chunk_length` of each row at a time;
  the backward pass computes them again.

  Args:
    config: TransformerConfig.
    params: as from `parameters.init`.
    rows: TrainBatch without its micro-batch axis, fields [B, T].
    temperature: what logits are divided by, that of sampling.
    chunk_length: tokens of a packed row whose logits are held at once.
    attend: (q, k, v, window) -> out, the attention rule over these rows; see
      `tree_attention.for_layers`.
    entropy_gradient: the entropy has a gradient; its cotangent is dropped
      otherwise.
    value_head: float [D], what a token's value is read with where its logits
      are; None: there is none.
    value_gradient: the values' gradient enters the trunk.
  """
  order, back = _sampled_first(rows, chunk_length)
  take = lambda x: jnp.take_along_axis(x, order, axis=1)
  predictors, load = _predictors(config, params, rows, attend, order)
  static = _Static(
    config, temperature, chunk_length, config.lora is not None, entropy_gradient
  )
  front = _logprobs_of_rows(
    static,
    transformer.head(config, params),
    predictors,
    take(rows.tokens),
    jnp.sum(rows.action_mask, axis=1, dtype=jnp.int32),
  )
  logprobs, entropy = jax.tree.map(back, front)
  if value_head is None:
    return Actions(logprobs, entropy, load)
  if not value_gradient:
    predictors = jax.lax.stop_gradient(predictors)
  return Actions(logprobs, entropy, load, back(_values(predictors, value_head)))


def action_values(config, params, value_head, *, rows, attend):
  """Returns the values of the sampled tokens, float32 [B, T], 0 elsewhere.

  No logits are computed.

  Args:
    config: TransformerConfig.
    params: of the critic's trunk, as from `parameters.init`.
    value_head: float [D].
    rows: see `action_logprobs`.
    attend: see `action_logprobs`.
  """
  order, back = _sampled_first(rows, rows.tokens.shape[1])
  predictors, _ = _predictors(config, params, rows, attend, order)
  return back(_values(predictors, value_head))


def _values(predictors, value_head):
  return jnp.einsum("btd,d->bt", predictors.astype(jnp.float32), value_head)


def _sampled_first(rows, chunk_length):
  """Returns sampled tokens' places, those first, and the way back.

  Chunks beyond the sampled tokens can then be left out.

  Args:
    rows: see `action_logprobs`.
    chunk_length: the places are padded to a multiple of it.

  Returns:
    int32 [B, padded T]; a function of arrays in that order to float [B, T].
  """
  order, place = true_first(rows.action_mask)
  order = pad_to_multiple(order, _chunk_size(order.shape[1], chunk_length))
  back = lambda x: jnp.where(
    rows.action_mask, jnp.take_along_axis(x, place, axis=1), 0.0
  )
  return order, back


def _predictors(config, params, rows, attend, order):
  """Returns what tokens are predicted from, [B, padded T, D]; experts' load."""
  hidden, load = transformer.forward(
    config, params, rows.tokens, rows.position, attend, valid=rows.tree > 0
  )
  parent = jnp.take_along_axis(rows.parent, order, axis=1)
  # The one place where a token meets the token that predicts it.
  return jnp.take_along_axis(hidden, parent[..., None], axis=1), load


class _Static(NamedTuple):
  """What the programs below are compiled for."""

  config: Any
  temperature: float
  chunk_length: int
  is_head_frozen: bool
  entropy_gradient: bool = False


def _logprobs_of_rows(static, head, hidden, targets, counts):
  """hidden [B, T, D], targets [B, T], counts [B] -> ([B, T], [B, T]).

  On a mesh every device multiplies its own rows by its own part of the
  vocabulary, and the head's gradient crosses between devices once.
  """
  mesh = jax.sharding.get_abstract_mesh()
  local = functools.partial(_logprobs_in_chunks, static)
  if mesh.empty:
    return local(None, head, hidden, targets, counts)
  rows = sharding.fitted(mesh, targets.shape, "rows", None)
  axes = ("vocab", None) if static.config.tied_head else (None, "vocab")
  vocabulary = sharding.fitted(mesh, head.shape, *axes)
  (vocab_axis,) = [a for a in vocabulary if a] or [None]
  return jax.shard_map(
    functools.partial(local, vocab_axis),
    in_specs=(vocabulary, rows, rows, PartitionSpec(*rows[:1])),
    out_specs=(rows, rows),
    check_vma=False,
  )(head, hidden, targets, counts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _logprobs_in_chunks(static, vocab_axis, head, hidden, targets, counts):
  """Chunk by chunk, as many as the fullest row has."""
  args = (head, hidden, targets, counts)
  return _logprobs_in_chunks_fwd(static, vocab_axis, *args)[0]


def _logprobs_in_chunks_fwd(static, vocab_axis, head, hidden, targets, counts):
  size, num_chunks = _chunks(static, targets, counts)

  def one(i, done):
    new = _logprobs_of_chunk(
      static,
      vocab_axis,
      head,
      _chunk(hidden, i, size),
      _chunk(targets, i, size),
    )
    return jax.tree.map(lambda x, new: _put_chunk(x, new, i, size), done, new)

  zeros = jnp.zeros(targets.shape, jnp.float32)
  logprob, entropy, log_normalizer = jax.lax.fori_loop(
    0, num_chunks, one, (zeros, zeros, zeros)
  )
  # The entropy is needed again only for its own gradient.
  of_entropy = entropy if static.entropy_gradient else None
  kept = (head, hidden, targets, counts, log_normalizer, of_entropy)
  return (logprob, entropy), kept


def _logprobs_in_chunks_bwd(static, vocab_axis, kept, cotangents):
  """d logprob / d logits = one-hot of the target - p, with p = softmax(logits).

  And d entropy / d logits = -p (log p + entropy).
  """
  head, hidden, targets, counts, log_normalizer, entropy = kept
  size, num_chunks = _chunks(static, targets, counts)
  weight, of_entropy = cotangents
  if vocab_axis:  # each shard has its share of what belongs to all
    weight = jax.lax.psum(weight, vocab_axis)
    if static.entropy_gradient:
      of_entropy = jax.lax.psum(of_entropy, vocab_axis)

  def one(i, grads):
    d_head, d_hidden = grads
    predictors, target, total, cotangent = (
      _chunk(x, i, size) for x in (hidden, targets, log_normalizer, weight)
    )
    raw = transformer.logits_of(static.config, head, predictors)
    logits = raw / static.temperature
    chosen = _own(logits, target, vocab_axis) == jnp.arange(logits.shape[-1])
    log_p = logits - total[..., None]
    d_logits = chosen - jnp.exp(log_p)
    d_logits *= cotangent[..., None] / static.temperature
    if static.entropy_gradient:
      own, slope = _chunk(entropy, i, size), _chunk(of_entropy, i, size)
      d_entropy = -jnp.exp(log_p) * (log_p + own[..., None])
      d_logits += d_entropy * (slope[..., None] / static.temperature)
    new_d_head, new_d_hidden = transformer.logits_vjp(
      static.config, head, predictors, raw, d_logits
    )
    return (
      d_head if static.is_head_frozen else d_head + new_d_head,
      _put_chunk(d_hidden, new_d_hidden.astype(hidden.dtype), i, size),
    )

  inputs_first = head.shape[::-1] if static.config.tied_head else head.shape
  d_head, d_hidden = jax.lax.fori_loop(
    0,
    num_chunks,
    one,
    (jnp.zeros(inputs_first, jnp.float32), jnp.zeros_like(hidden)),
  )
  if static.config.tied_head:
    d_head = d_head.T
  return d_head.astype(head.dtype), d_hidden, None, None


_logprobs_in_chunks.defvjp(_logprobs_in_chunks_fwd, _logprobs_in_chunks_bwd)


def _chunk(x, i, size):
  return jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=1)


def _put_chunk(x, chunk, i, size):
  return jax.lax.dynamic_update_slice_in_dim(x, chunk, i * size, axis=1)


def num_logit_tokens(action_mask, chunk_length):
  """Returns for how many tokens logits are computed: float32 [].

  Every row of a device goes through as many chunks as its fullest one.

  Args:
    action_mask: bool [B, T].
    chunk_length: see `action_logprobs`.
  """
  size = _chunk_size(action_mask.shape[1], chunk_length)
  counts = jnp.sum(action_mask, axis=1)
  num_shards = sharding.num_row_shards(jax.sharding.get_abstract_mesh())
  if len(counts) % num_shards:  # see `sharding.fitted`
    num_shards = 1
  counts = counts.reshape(num_shards, -1)
  chunks = ceil_div(jnp.max(counts, axis=1), size)
  return jnp.sum(chunks * size * counts.shape[1]).astype(jnp.float32)


def _chunk_size(length: int, wished: int) -> int:
  return min(wished, length)


def _chunks(static, targets, counts):
  """Returns a chunk's size, and how many chunks the fullest row has."""
  size = _chunk_size(targets.shape[1], static.chunk_length)
  return size, ceil_div(jnp.max(counts), size)


def _logprobs_of_chunk(static, vocab_axis, head, hidden, targets):
  """[B, C, D], [B, C] -> logprob, entropy, log of the exponentials' sum."""
  logits = transformer.logits_of(static.config, head, hidden)
  logits = logits / static.temperature
  over_vocab = lambda reduce, x: reduce(x, vocab_axis) if vocab_axis else x
  own = _own(logits, targets, vocab_axis)
  chosen = jnp.take_along_axis(
    logits, jnp.clip(own, 0, logits.shape[-1] - 1), -1
  )
  is_own = (own >= 0) & (own < logits.shape[-1])
  chosen = jnp.where(is_own, chosen, 0.0)[..., 0]
  max_logit = over_vocab(jax.lax.pmax, jnp.max(logits, -1))
  exp_logits = jnp.exp(logits - max_logit[..., None])
  # Both sums in one pass: XLA:CPU takes a product's sum at a snail's pace.
  sums = jax.lax.reduce(
    (exp_logits, exp_logits * logits),
    (jnp.float32(0), jnp.float32(0)),
    lambda x, y: (x[0] + y[0], x[1] + y[1]),
    dimensions=(2,),
  )
  chosen, total, weighted = over_vocab(jax.lax.psum, (chosen, *sums))
  log_normalizer = jnp.log(total) + max_logit
  return (
    chosen - log_normalizer,
    log_normalizer - weighted / total,
    log_normalizer,
  )


def _own(logits, targets, vocab_axis):
  """Returns targets [B, C, 1] counted from the first token that is here."""
  first = 0
  if vocab_axis:
    first = jax.lax.axis_index(vocab_axis) * logits.shape[-1]
  return targets[..., None] - first
