"""One configurable decoder, as pure functions of a plain dict of parameters.

`init`, `forward`, `prefill_layer`, `decode_step`. Layers are stacked [L, ...]
and scanned for learning; the sampler takes them one by one (`unstack`), so that
its caches are updated in place.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from prefixrl_jax.batches import KVCache
from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import attention, tree_attention
from prefixrl_jax.models.decoder_config import (
  TransformerConfig,
  of_layer,
  of_layers,
)
from prefixrl_jax.models.layers import (
  Block,
  RMSNorm,
  merged,
  outputs_first_product,
  rotations,
)

# How many of a weight's axes are its inputs'; what is not here is no matrix
# (and an embedding is looked up).
INPUT_AXES = {
  "query": 1,
  "key": 1,
  "value": 1,
  "output": 2,
  "up": 1,
  "gate": 1,
  "down": 1,
  "head": 1,
  "router": 1,
}


class Transformer(nn.Module):
  """Embedding, scanned blocks, final norm; the head is applied by `logits`."""

  config: TransformerConfig
  attend: Callable

  @nn.compact
  def __call__(self, tokens, position, valid=None):
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
    # A part of every token's features would have to change places with all
    # other devices.
    table = table.astype(c.dtype)
    table = sharding.constrain(table, "vocab", "features")
    x = embed(c, {"embedding": table}, tokens)
    x = sharding.constrain(x, *Block.axes)
    block = Block
    if c.remat == "full":
      # Straight code would share what is recomputed with what is not: a loop
      # over several layers is border enough.
      is_straight = c.scan_unroll > 1 or c.num_layers == 1
      block = nn.remat(Block, prevent_cse=is_straight)
    own_axis: Any = 0
    own = of_layers(c)
    if own is None:
      own, own_axis = of_layer(c, 0), nn.broadcast
    x, kept = nn.scan(
      block,
      variable_axes={"params": 0, "adapters": 0, "load": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, own_axis, nn.broadcast),
      length=c.num_layers,
      unroll=c.scan_unroll,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(c, self.attend, name="layers")(x, rotations(c, position), own, valid)
    return RMSNorm(c, name="final_norm")(x), kept


def embed(config, params, tokens):
  """Returns the tokens' embeddings, [..., D]."""
  x = params["embedding"][tokens].astype(config.dtype)
  if config.embed_scale != 1.0:
    x *= jnp.asarray(config.embed_scale, config.dtype)
  return x


def head(config: TransformerConfig, params: dict):
  """Returns the head's weight, [V, D] if tied (or unstacked), else [D, V]."""
  weight = params["embedding"] if config.tied_head else params["head"]
  return weight.astype(config.dtype)


def logits_of(config: TransformerConfig, head, hidden):
  """Returns float32 logits [..., V] of final hidden states [..., D].

  Args:
    config: TransformerConfig.
    head: from `head`, or a part of its vocabulary.
    hidden: [..., D].
  """
  equation = "...d,vd->...v" if config.tied_head else "...d,dv->...v"
  raw = jnp.einsum(equation, hidden, head, preferred_element_type=jnp.float32)
  return _soft_cap(config, raw)


def _soft_cap(config, raw):
  cap = config.final_soft_cap
  return raw if cap is None else cap * jnp.tanh(raw / cap)


def logits(config: TransformerConfig, params: dict, hidden):
  """Returns float32 logits [..., V] of final hidden states [..., D]."""
  return logits_of(config, head(config, params), hidden)


def logits_vjp(config: TransformerConfig, head, hidden, logits, d_logits):
  """Returns the gradients of `logits_of`: float32 [D, V] and [..., D].

  The head's has its inputs first even if it is tied: otherwise XLA:CPU would
  transpose `d_logits` before it multiplies.

  Args:
    config, head, hidden: as `logits_of` took them.
    logits: what it returned, [..., V].
    d_logits: their cotangent, float32 [..., V].
  """
  if config.final_soft_cap is not None:
    d_logits = d_logits * (1 - jnp.square(logits / config.final_soft_cap))
  d_logits = d_logits.astype(hidden.dtype)
  f32 = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  equation = "...v,vd->...d" if config.tied_head else "...v,dv->...d"
  return f32("...d,...v->dv", hidden, d_logits), f32(equation, d_logits, head)


def init(config: TransformerConfig, key) -> dict:
  """Returns freshly drawn parameters."""
  return sharding.unbox(_init_boxed(config, key))


def _init_boxed(config, key):
  attend = lambda q, k, v, window: (q, None)
  tokens = jnp.zeros((1, 1), jnp.int32)
  return Transformer(config, attend).init(key, tokens, tokens)["params"]


def boxed_shapes(config: TransformerConfig) -> dict:
  """Returns the parameters' shapes with the names of their axes."""
  # The key is made inside: no device of the mesh in force need be here.
  return jax.eval_shape(lambda: _init_boxed(config, jax.random.key(0)))


def abstract_params(config: TransformerConfig, mesh) -> dict:
  """Returns the parameters' shapes with their shardings on the mesh."""
  boxed = boxed_shapes(config)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    sharding.unbox(boxed),
    sharding.tree_shardings(mesh, boxed),
  )


def put_params(config: TransformerConfig, mesh, params: dict) -> dict:
  """Returns the parameters on the mesh, sharded as the rules table says."""
  return jax.tree.map(
    lambda x, like: jax.device_put(x, like.sharding),
    params,
    abstract_params(config, mesh),
  )


@functools.cache
def num_params(config: TransformerConfig) -> int:
  """Returns how many parameters the decoder has, embeddings included."""
  shapes = jax.eval_shape(functools.partial(init, config), jax.random.key(0))
  return sum(x.size for x in jax.tree.leaves(shapes))


def num_active_params(config: TransformerConfig) -> int:
  """Returns how many of them a token meets: not those of other experts."""
  if not config.num_experts:
    return num_params(config)
  less = dataclasses.replace(config, num_experts=config.experts_per_token)
  others = config.num_experts - config.experts_per_token
  router = config.num_layers * config.width * others  # is met whole
  return num_params(less) + router


def forward(config, params, tokens, position, attend, valid=None):
  """Returns final hidden states [B, T, D] of packed rows, and experts' load.

  Args:
    config: TransformerConfig.
    params: as from `init`, or with adapters (`adapters.policy`).
    tokens: int [B, T].
    position: int [B, T].
    attend: (q, k, v, window) -> out, what sees what; see
      `tree_attention.for_layers`.
    valid: bool [B, T], tokens that count as load; None: none do.

  Returns:
    hidden; load: float32 [L, 2, E] as in `experts.load`, E 0 without experts.
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
  adapters, base = _adapters_apart(params)
  return {"params": base, "adapters": {"layers": adapters}}


def _adapters_apart(params):
  base = {name: leaf for name, leaf in params.items() if name != "adapters"}
  return params.get("adapters", {}), base


def unstack(config: TransformerConfig, params: dict) -> dict:
  """Returns the parameters as `decode_step` takes them, in config.dtype.

  `layers` is a tuple, one entry a layer, so that caches are updated in place;
  every weight is a matrix [outputs, inputs].

  Args:
    config: TransformerConfig.
    params: as from `init`, or with adapters, which are added in.
  """
  return _unstack(
    config,
    functools.partial(_layer_matrices, config),
    functools.partial(_matrices, config),
    params,
  )


def make_unstack(config: TransformerConfig, mesh) -> Callable[[dict], dict]:
  """Returns `unstack` for a mesh; one compiled layer serves all of them."""
  where = unstacked_shardings(config, mesh)
  rest = {name: leaf for name, leaf in where.items() if name != "layers"}
  return functools.partial(
    _unstack,
    config,
    jax.jit(
      functools.partial(_layer_matrices, config),
      out_shardings=where["layers"][0],
    ),
    jax.jit(functools.partial(_matrices, config), out_shardings=rest),
  )


def _unstack(config, of_layer, of_rest, params):
  adapters, base = _adapters_apart(params)
  rest = {name: leaf for name, leaf in base.items() if name != "layers"}
  layers = tuple(
    of_layer(base["layers"], adapters, i) for i in range(config.num_layers)
  )
  return dict(of_rest(rest), layers=layers)


def _layer_matrices(config, layers, adapters, i):
  layer, adapters = jax.tree.map(lambda x: x[i], (layers, adapters))
  for name, adapter in adapters.items():
    layer[name] = merged(config, layer[name], adapter)
  return _matrices(config, layer)


def _matrices(config, tree):
  def matrix(name, weight):
    if name in INPUT_AXES:
      num_inputs = math.prod(weight.shape[: INPUT_AXES[name]])
      weight = weight.reshape(num_inputs, -1).T
    return weight.astype(config.dtype)

  return {
    name: jax.tree.map(functools.partial(matrix, name), leaf)
    for name, leaf in tree.items()
  }


def unstacked_shardings(config: TransformerConfig, mesh) -> dict:
  """Returns where `unstack`'s parameters lie: whole, but for `tensor`.

  A decode step reads all of them; gathered from fsdp's shards in every step
  they would take longer to arrive than to multiply.

  Args:
    config: TransformerConfig.
    mesh: of the sampler.
  """
  boxed = boxed_shapes(config)

  def place(name, shape, axes):
    axes = [None if axis == "embed" else axis for axis in axes]
    if name in INPUT_AXES:
      n = INPUT_AXES[name]
      shape = (math.prod(shape[n:]), math.prod(shape[:n]))
      axes = (axes[n], axes[0])  # heads lie together, whatever their size
    return sharding.sharding(mesh, shape, *axes)

  def each(tree, skip):
    return {
      name: jax.tree.map(
        lambda x, name=name: place(name, x.value.shape[skip:], x.names[skip:]),
        leaf,
        is_leaf=sharding.is_boxed,
      )
      for name, leaf in tree.items()
    }

  layer = each(boxed.pop("layers"), 1)
  return dict(each(boxed, 0), layers=(layer,) * config.num_layers)


def embed_trunks(config, params, trunks):
  """Returns what `prefill_layer` begins with: residual [r, P, D], and turns.

  Args:
    config: TransformerConfig.
    params: unstacked parameters; of them, the embedding.
    trunks: int [r, P], from position 0, padded at the end.
  """
  x = sharding.constrain(embed(config, params, trunks), *Block.axes)
  return x, rotations(config, jnp.arange(trunks.shape[1]))


def prefill_layer(config, params, x, turns, cache, row_ids, own):
  """Runs a layer over trunks; their keys and values go into rows of its cache.

  Args:
    config: TransformerConfig.
    params: one of the layers of unstacked parameters.
    x: [r, P, D], the residual before the layer.
    turns: of positions 0 to P.
    cache: KVCache of the layer.
    row_ids: int [r], rows to fill; a number beyond the rows is ignored.
    own: from `of_layer`.

  Returns:
    The residual behind the layer, and the updated cache.
  """
  places = attention.trunk_places(*x.shape[:2])
  see, _ = tree_attention.for_layers(config, places)

  def attend(q, k, v, window):
    out = see(q, k, v, window)
    return out, attention.write_trunks(cache, row_ids, k, v)

  block = Block(config, attend, outputs_first=True)
  return block.apply({"params": params}, x, turns, own)


def decode_turns(config, *, fork, length):
  """Returns the turns of one token a lane, at position fork - 1 + length."""
  return rotations(config, fork - 1 + length)


def decode_step(config, params, token, turns, caches, reach, *, fork, length):
  """Decodes one token a lane.

  Args:
    config: TransformerConfig.
    params: unstacked parameters.
    token: int [R, G].
    turns: from `decode_turns`.
    caches: a KVCache per layer.
    reach: from `attention.decode_reach`.
    fork: int [R, G].
    length: int [R, G], the slot the token is written to.

  Returns:
    Logits of the next token [V, R, G] float32, and the updated caches.
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
    block = Block(config, attend, axes, outputs_first=True, tokens_last=True)
    own = of_layer(config, i)
    x, cache = block.apply({"params": layer}, x, turns, own)
    updated.append(cache)
  x = RMSNorm(config).apply({"params": params["final_norm"]}, x)
  logits = outputs_first_product(head(config, params), x, jnp.float32)
  logits = _soft_cap(config, logits)
  return logits.reshape(-1, *x.shape[:-1]), tuple(updated)


def init_caches(config, *, rows, lanes, trunk_length, completion_length):
  """Returns empty caches, one per layer."""
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
