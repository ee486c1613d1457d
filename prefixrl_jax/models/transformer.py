"""One configurable decoder, as pure functions of a plain dict of parameters.

`forward` for learning, where layers are stacked [L, ...] and scanned;
`prefill_layer` and `decode_step` for the sampler, which takes layers one by one
so that its caches are updated in place. Both kinds of parameters are made in
parameters.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from prefixrl_jax.batches import KVCache
from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import attention, embedding, tree_attention
from prefixrl_jax.models.decoder_config import (
  LayerFlags,
  TransformerConfig,
  layer_flags,
  stacked_flags,
)
from prefixrl_jax.models.layers import Block, RMSNorm, rotary_cos_sin
from prefixrl_jax.models.linear import (
  OutputsFirst,
  TokensLast,
  outputs_first_product,
  rows_of,
)

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Bool, Float, Float32, Int

  from prefixrl_jax.models.layers import CosSin


class Transformer(nn.Module):
  """Embedding, scanned blocks, final norm; the head is applied by `logits`."""

  config: TransformerConfig
  attend: Callable

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, "B T"],
    position: Int[Array, "B T"],
    valid: Bool[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T D"], Any]:
    """Returns final hidden states, and what the blocks kept."""
    c = self.config
    table: Any = self.param(
      "embedding",
      nn.with_logical_partitioning(
        nn.initializers.normal(c.width**-0.5), ("vocab", "embed")
      ),
      (c.vocab_size, c.width),
      jnp.dtype(c.param_dtype),
    )
    if not c.tied_head:
      self.param(
        "head",
        nn.with_logical_partitioning(
          nn.initializers.normal(c.width**-0.5), ("embed", "vocab")
        ),
        (c.width, c.vocab_size),
        jnp.dtype(c.param_dtype),
      )
    shape, axes = tokens.shape, Block.axes
    cos_sin, attend = rotary_cos_sin(c, position), self.attend
    if sharding.shares_lengths_out(shape):
      # As one axis: of two, libtpu may send what is summed over a device's
      # tokens to all devices, not to each its own; of one row a device always.
      axes = ("tokens", "features")
      tokens, cos_sin, valid, attend = _in_one_axis(
        tokens, cos_sin, valid, attend
      )
    x = _scaled(c, embedding.look_up(table.astype(c.dtype), tokens, axes))
    x = sharding.constrain(x, *axes)
    block = Block
    if c.remat == "full":
      # Straight code would share what is recomputed with what is not: a loop
      # over several layers is border enough.
      is_straight = c.scan_unroll > 1 or c.num_layers == 1
      block = nn.remat(Block, prevent_cse=is_straight)
    flags_axis: Any = 0
    flags = stacked_flags(c)
    if flags is None:
      flags, flags_axis = layer_flags(c, 0), nn.broadcast
    x, kept = nn.scan(
      block,
      variable_axes={"params": 0, "adapters": 0, "load": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, flags_axis, nn.broadcast),
      length=c.num_layers,
      unroll=c.scan_unroll,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(c, attend, axes, name="layers")(x, cos_sin, flags, valid)
    if axes != Block.axes:
      # A part of the tokens need not be the same part of each row.
      x = sharding.constrain(x, *rows_of(axes), "features")
      x = sharding.constrain(x.reshape(*shape, c.width), *Block.axes)
    return RMSNorm(c, name="final_norm")(x), kept


def _in_one_axis(tokens, cos_sin, valid, attend):
  """Returns what is there of rows [B, T, ...], as of tokens [B T, ...]."""
  shape = tokens.shape
  joined = lambda x: x.reshape(-1, *x.shape[2:])

  def attend_in_rows(*heads_and_window):
    *heads, window = heads_and_window
    apart = (x.reshape(*shape, *x.shape[1:]) for x in heads)
    out, kept = attend(*apart, window)
    return joined(out), kept

  cos_sin = jax.tree.map(jax.vmap(joined), cos_sin)
  valid = jax.tree.map(joined, valid)
  return joined(tokens), cos_sin, valid, attend_in_rows


def embed(
  config: TransformerConfig, params: dict, tokens: Int[Array, "*B"]
) -> Float[Array, "*B D"]:
  """Returns the tokens' embeddings."""
  return _scaled(config, params["embedding"][tokens].astype(config.dtype))


def _scaled(config, x):
  if config.embed_scale != 1.0:
    x *= jnp.asarray(config.embed_scale, config.dtype)
  return x


def head(config: TransformerConfig, params: dict) -> Float[Array, "_ _"]:
  """Returns the head's weight, [V, D] if tied (or unstacked), else [D, V]."""
  weight = params["embedding"] if config.tied_head else params["head"]
  return weight.astype(config.dtype)


def logits_of(
  config: TransformerConfig,
  head: Float[Array, "_ _"],
  hidden: Float[Array, "*B D"],
) -> Float32[Array, "*B V"]:
  """Returns the logits of final hidden states.

  Args:
    config: TransformerConfig.
    head: from `head`, [V, D] or [D, V], or a part of its vocabulary.
    hidden: from `forward`.
  """
  equation = "...d,vd->...v" if config.tied_head else "...d,dv->...v"
  raw = jnp.einsum(equation, hidden, head, preferred_element_type=jnp.float32)
  return _soft_cap(config, raw)


def _soft_cap(config, raw):
  cap = config.final_soft_cap
  return raw if cap is None else cap * jnp.tanh(raw / cap)


def logits(
  config: TransformerConfig, params: dict, hidden: Float[Array, "*B D"]
) -> Float32[Array, "*B V"]:
  """Returns the logits of final hidden states.

  Args:
    config: TransformerConfig.
    params: as from `parameters.init`.
    hidden: from `forward`.
  """
  return logits_of(config, head(config, params), hidden)


def logits_vjp(
  config: TransformerConfig,
  head: Float[Array, "_ _"],
  hidden: Float[Array, "*B D"],
  logits: Float32[Array, "*B V"],
  d_logits: Float32[Array, "*B V"],
) -> tuple[Float32[Array, "D V"], Float32[Array, "*B D"]]:
  """Returns the gradients of `logits_of` by head and hidden states.

  The head's has its inputs first even if it is tied: otherwise XLA:CPU would
  transpose `d_logits` before it multiplies.

  Args:
    config, head, hidden: as `logits_of` took them.
    logits: what it returned.
    d_logits: their cotangent.
  """
  if config.final_soft_cap is not None:
    d_logits = d_logits * (1 - jnp.square(logits / config.final_soft_cap))
  d_logits = d_logits.astype(hidden.dtype)
  f32 = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  equation = "...v,vd->...d" if config.tied_head else "...v,dv->...d"
  return f32("...d,...v->dv", hidden, d_logits), f32(equation, d_logits, head)


def forward(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "B T"],
  position: Int[Array, "B T"],
  attend: Callable,
  valid: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], Float32[Array, "L 2 E"]]:
  """Returns final hidden states of packed rows, and the experts' load.

  Args:
    config: TransformerConfig.
    params: as from `parameters.init`, or with adapters
      (`adapters.policy_params`).
    tokens: packed rows.
    position: place of each token in its sequence.
    attend: (q [B, T, N, H], k [B, T, K, H], v [B, T, K, H], window int [])
      -> out [B, T, N, H]; see `tree_attention.for_layers`.
    valid: tokens that count as load; None: none do.

  Returns:
    Hidden states; load as in `experts.load`, where E is 0 without experts.
  """
  model = Transformer(config, lambda *args: (attend(*args), None))
  (hidden, _), seen = model.apply(
    _variables(params), tokens, position, valid, mutable="load"
  )
  if "load" not in seen:
    return hidden, jnp.zeros((config.num_layers, 2, 0), jnp.float32)
  (load,) = seen["load"]["layers"]["experts"]
  return hidden, load


def _variables(params):
  """Returns parameters, and adapters if there are any, as flax takes them."""
  adapters, base = split_adapters(params)
  return {"params": base, "adapters": {"layers": adapters}}


def split_adapters(params: dict) -> tuple[dict, dict]:
  """Returns the adapters, {} if there are none, and all other parameters."""
  base = {name: leaf for name, leaf in params.items() if name != "adapters"}
  return params.get("adapters", {}), base


def embed_trunks(
  config: TransformerConfig, params: dict, trunks: Int[Array, "r P"]
) -> tuple[Float[Array, "r P D"], CosSin]:
  """Returns what `prefill_layer` begins with.

  Args:
    config: TransformerConfig.
    params: unstacked parameters; of them, the embedding.
    trunks: from position 0, padded at the end.

  Returns:
    The residual before the first layer, and cos_sin of all positions.
  """
  x = sharding.constrain(embed(config, params, trunks), *Block.axes)
  return x, rotary_cos_sin(config, jnp.arange(trunks.shape[1]))


def prefill_layer(
  config: TransformerConfig,
  params: dict,
  x: Float[Array, "r P D"],
  cos_sin: CosSin,
  cache: KVCache,
  row_ids: Int[Array, "r"],
  flags: LayerFlags,
) -> tuple[Float[Array, "r P D"], KVCache]:
  """Runs a layer over trunks; their keys and values go into rows of its cache.

  Args:
    config: TransformerConfig.
    params: one of the layers of unstacked parameters.
    x: the residual before the layer.
    cos_sin: from `embed_trunks`.
    cache: of the layer.
    row_ids: rows to fill; a number beyond the last is ignored.
    flags: from `layer_flags`.

  Returns:
    The residual after the layer, and the updated cache.
  """
  places = attention.trunk_places(*x.shape[:2])
  see, _ = tree_attention.for_layers(config, places)

  def attend(q, k, v, window):
    out = see(q, k, v, window)
    return out, attention.write_trunks(cache, row_ids, k, v)

  block = Block(config, attend, linear=OutputsFirst)
  out: Any = block.apply({"params": params}, x, cos_sin, flags)
  return out


def decode_cos_sin(
  config: TransformerConfig,
  *,
  fork: Int[Array, "R G"],
  length: Int[Array, "R G"],
) -> CosSin:
  """Returns cos_sin of one token a lane, at position fork - 1 + length.

  Args:
    config: TransformerConfig.
    fork, length: as in `decode_step`.
  """
  return rotary_cos_sin(config, fork - 1 + length)


def decode_step(
  config: TransformerConfig,
  params: dict,
  token: Int[Array, "R G"],
  cos_sin: CosSin,
  caches: Sequence[KVCache],
  reach: attention.Reach,
  *,
  fork: Int[Array, "R G"],
  length: Int[Array, "R G"],
) -> tuple[Float32[Array, "V R G"], tuple[KVCache, ...]]:
  """Decodes one token a lane.

  Args:
    config: TransformerConfig.
    params: unstacked parameters.
    token: the last token of each lane.
    cos_sin: from `decode_cos_sin`.
    caches: one per layer.
    reach: from `attention.decode_reach`.
    fork: how many tokens of its row's trunk a lane sees.
    length: the slot the token is written to.

  Returns:
    Logits of the next token, and the updated caches.
  """
  x: Any = embed(config, params, token)
  updated = []
  for i, (layer, cache) in enumerate(zip(params["layers"], caches)):

    def attend(q, k, v, window, cache=cache):
      cache = attention.write_lanes(cache, length, k, v)
      out = attention.decode_attention(
        q,
        cache,
        reach,
        fork=fork,
        length=length,
        window=config.windows[window],
        soft_cap=config.attention_soft_cap,
      )
      return out, cache

    axes = ("rows", "lanes", "features")
    block = Block(config, attend, axes, linear=TokensLast)
    flags = layer_flags(config, i)
    after: Any = block.apply({"params": layer}, x, cos_sin, flags)
    x, kept = after
    updated.append(kept)
  x = RMSNorm(config).apply({"params": params["final_norm"]}, x)
  logits = outputs_first_product(head(config, params), x, jnp.float32)
  logits = _soft_cap(config, logits)
  return logits.reshape(-1, *x.shape[:-1]), tuple(updated)


def init_caches(
  config: TransformerConfig,
  *,
  rows: int,
  lanes: int,
  trunk_length: int,
  completion_length: int,
) -> tuple[KVCache, ...]:
  """Returns empty caches, one KVCache per layer.

  Args:
    config: TransformerConfig.
    rows: R. lanes: G. trunk_length: P. completion_length: C.
  """
  dtype = jnp.dtype(config.dtype)
  trunk_blocks, trunk_size = attention.key_blocks(trunk_length)
  lane_blocks, lane_size = attention.key_blocks(completion_length)
  trunk = (rows, config.num_kv_heads, trunk_blocks)
  lane = (rows, config.num_kv_heads, lanes, lane_blocks)
  head_dim = config.head_dim
  one = lambda _: KVCache(
    trunk_key=jnp.zeros((*trunk, head_dim, trunk_size), dtype),
    trunk_value=jnp.zeros((*trunk, trunk_size, head_dim), dtype),
    lane_key=jnp.zeros((*lane, head_dim, lane_size), dtype),
    lane_value=jnp.zeros((*lane, lane_size, head_dim), dtype),
  )
  return tuple(one(i) for i in range(config.num_layers))
