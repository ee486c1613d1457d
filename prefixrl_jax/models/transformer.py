"""One configurable decoder, as pure functions of a plain dict of parameters.

`init`, `forward`, `prefill`, `decode_step`. Layers are stacked [L, ...] and
scanned for learning; the sampler takes them one by one (`unstack`), so that
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


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """The shape of a decoder; a model family is a row of these settings."""

  num_layers: int
  width: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_width: int
  vocab_size: int
  mlp: str = "gated_silu"  # or "gelu"
  rope_base: float = 10_000.0
  norm_eps: float = 1e-5
  tied_head: bool = False
  dtype: str = "float32"  # of activations
  param_dtype: str = "float32"
  # "full": recompute each layer in the backward pass; "auto": if need be.
  remat: str = "none"
  # Layers per step of the scan. XLA:CPU keeps what a loop saves for the
  # backward pass at half the speed of straight code.
  scan_unroll: int = 1


class RMSNorm(nn.Module):
  """Root-mean-square norm, computed in float32."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, x):
    scale: Any = self.param(
      "scale",
      nn.with_logical_partitioning(nn.initializers.ones, ("features",)),
      (x.shape[-1],),
      jnp.dtype(self.config.param_dtype),
    )
    x32 = x.astype(jnp.float32)
    variance = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(variance + self.config.norm_eps)
    return (x32 * scale.astype(jnp.float32)).astype(x.dtype)


def rotate(x, position, base):
  """Rotary embedding, halves layout. x: [..., N, H]; position: [...]."""
  half = x.shape[-1] // 2
  frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = position[..., None, None].astype(jnp.float32) * frequency
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)
  return rotated.astype(x.dtype)


class Block(nn.Module):
  """Attention and MLP, each behind a norm and added to the residual.

  `attend(q, k, v) -> (out, kept)` decides what is seen and what is kept of
  the keys and values (nothing, all of them, or an updated cache). `axes` are
  those of the residual. With `outputs_first`, weights are `unstack`'s matrices.
  """

  config: TransformerConfig
  attend: Callable
  axes: tuple[str, ...] = ("rows", "residual", "features")
  outputs_first: bool = False

  def _project(self, name, y, inputs, outputs):
    """y [..., *inputs] -> [..., *outputs]; both are {logical axis: size}."""
    c = self.config
    fan_in = math.prod(inputs.values())
    shape, axes = (*inputs.values(), *outputs.values()), (*inputs, *outputs)
    if self.outputs_first:
      shape, axes = (math.prod(outputs.values()), fan_in), (None, None)
    weight: Any = self.param(
      name,
      nn.with_logical_partitioning(nn.initializers.normal(fan_in**-0.5), axes),
      shape,
      jnp.dtype(c.param_dtype),
    )
    weight = weight.astype(c.dtype)
    if not self.outputs_first:
      out = jnp.tensordot(y, weight, axes=len(inputs))
    else:
      lead = y.shape[: y.ndim - len(inputs)]
      out = _outputs_first_product(weight, y.reshape(-1, fan_in), y.dtype)
      out = out.reshape(*lead, *outputs.values())
    if "embed" in outputs:
      return sharding.constrain(out, *self.axes)
    return sharding.constrain(out, self.axes[0], None, *outputs)

  @nn.compact
  def __call__(self, x, position):
    c = self.config
    width = {"embed": c.width}
    heads = {"heads": c.num_heads, "head_dim": c.head_dim}
    kv_heads = {"kv_heads": c.num_kv_heads, "head_dim": c.head_dim}
    hidden = {"mlp": c.mlp_width}

    # What is cheap is computed again in the backward pass, not kept for it.
    norm = nn.remat(RMSNorm, prevent_cse=False)
    # Gathered once for all heads, where the residual's tokens are shared out.
    gather = lambda y: sharding.constrain(y, self.axes[0], None, "features")
    y = gather(norm(c, name="attention_norm")(x))
    q = self._project("query", y, width, heads)
    k = self._project("key", y, width, kv_heads)
    v = self._project("value", y, width, kv_heads)
    q = rotate(q, position, c.rope_base)
    k = rotate(k, position, c.rope_base)
    out, kept = self.attend(q, k, v)
    x = x + self._project("output", out, heads, width)

    y = gather(norm(c, name="mlp_norm")(x))
    inner = [self._project("up", y, width, hidden)]
    activate: Callable = jax.nn.gelu
    if c.mlp == "gated_silu":
      inner.append(self._project("gate", y, width, hidden))
      activate = lambda up, gate: jax.nn.silu(gate) * up
    inner = jax.checkpoint(activate, prevent_cse=False)(*inner)
    return x + self._project("down", inner, hidden, width), kept


class Transformer(nn.Module):
  """Embedding, scanned blocks, final norm; the head is applied by `logits`."""

  config: TransformerConfig
  attend: Callable

  @nn.compact
  def __call__(self, tokens, position):
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
      block = nn.remat(Block, prevent_cse=False)
    x, kept = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=c.num_layers,
      unroll=c.scan_unroll,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(c, self.attend, name="layers")(x, position)
    return RMSNorm(c, name="final_norm")(x), kept


def embed(config, params, tokens):
  """Returns the tokens' embeddings, [..., D]."""
  return params["embedding"][tokens].astype(config.dtype)


def head(config: TransformerConfig, params: dict):
  """Returns the head's weight, [V, D] if tied (or unstacked), else [D, V]."""
  weight = params["embedding"] if config.tied_head else params["head"]
  return weight.astype(config.dtype)


def scores(config: TransformerConfig, head, hidden):
  """Returns float32 logits [..., V] of final hidden states [..., D].

  Args:
    config: TransformerConfig.
    head: from `head`, or a part of its vocabulary.
    hidden: [..., D].
  """
  equation = "...d,vd->...v" if config.tied_head else "...d,dv->...v"
  return jnp.einsum(equation, hidden, head, preferred_element_type=jnp.float32)


def logits(config: TransformerConfig, params: dict, hidden):
  """Returns float32 logits [..., V] of final hidden states [..., D]."""
  return scores(config, head(config, params), hidden)


def scores_gradients(config: TransformerConfig, head, hidden, of_scores):
  """Returns what `scores` pulls back, float32 [D, V] and [..., D].

  The head's lies inputs first even if it is tied: the other way round XLA:CPU
  would transpose `of_scores` before it multiplies.

  Args:
    config, head, hidden: as `scores` took them.
    of_scores: [..., V], in hidden's dtype.
  """
  f32 = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  equation = "...v,vd->...d" if config.tied_head else "...v,dv->...d"
  return (
    f32("...d,...v->dv", hidden, of_scores),
    f32(equation, of_scores, head),
  )


def _outputs_first_product(weight, y, dtype):
  """weight [outputs, inputs], y [tokens, inputs] -> [tokens, outputs].

  XLA:CPU multiplies a few tokens by a large matrix half as fast again this way
  round, and for TPU it need not move the weights before the decode loop. The
  barrier keeps the compiler from turning it back.
  """
  contract_last = (((1,), (1,)), ((), ()))
  out = jax.lax.dot_general(
    weight, y, contract_last, preferred_element_type=jnp.float32
  )
  return jax.lax.optimization_barrier(out).T.astype(dtype)


def init(config: TransformerConfig, key) -> dict:
  """Returns freshly drawn parameters."""
  return sharding.unbox(_init_boxed(config, key))


def _init_boxed(config, key):
  attend = lambda q, k, v: (q, None)
  tokens = jnp.zeros((1, 1), jnp.int32)
  return Transformer(config, attend).init(key, tokens, tokens)["params"]


def abstract_params(config: TransformerConfig, mesh) -> dict:
  """Returns the parameters' shapes with their shardings on the mesh."""
  boxed = jax.eval_shape(
    functools.partial(_init_boxed, config), jax.random.key(0)
  )
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


def forward(config, params, tokens, position, attend):
  """Returns final hidden states [B, T, D] of packed rows.

  Args:
    config: TransformerConfig.
    params: as from `init`.
    tokens: int [B, T].
    position: int [B, T].
    attend: (q, k, v) -> out, what sees what; see `models.attention`.
  """
  model = Transformer(config, lambda q, k, v: (attend(q, k, v), None))
  return model.apply({"params": params}, tokens, position)[0]


def unstack(config: TransformerConfig, params: dict) -> dict:
  """Returns the parameters as `decode_step` takes them, in config.dtype.

  `layers` is a tuple, one entry a layer, so that caches are updated in place;
  every weight is a matrix [outputs, inputs].

  Args:
    config: TransformerConfig.
    params: as from `init`.
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
  rest = {name: leaf for name, leaf in params.items() if name != "layers"}
  layers = tuple(
    of_layer(params["layers"], i) for i in range(config.num_layers)
  )
  return dict(of_rest(rest), layers=layers)


def _layer_matrices(config, layers, i):
  return _matrices(config, jax.tree.map(lambda x: x[i], layers))


def _matrices(config, tree):
  def matrix(name, weight):
    if weight.ndim > 1 and name != "embedding":
      num_inputs = math.prod(weight.shape[: _num_input_axes(name)])
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
  boxed = jax.eval_shape(
    functools.partial(_init_boxed, config), jax.random.key(0)
  )

  def place(name, shape, axes):
    axes = [None if axis == "embed" else axis for axis in axes]
    if name != "embedding" and len(shape) > 1:
      n = _num_input_axes(name)
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


def _num_input_axes(name: str) -> int:
  """Returns how many of a weight's axes are its inputs'."""
  return 2 if name == "output" else 1


def prefill(config, params, tokens):
  """Runs trunks and returns each layer's keys and values.

  Args:
    config: TransformerConfig.
    params: as from `init`.
    tokens: int [R, P], trunks from position 0, padded at the end.

  Returns:
    key [L, R, K, H, P], value [L, R, K, P, H].
  """
  places = attention.trunk_places(*tokens.shape)
  schedule = tree_attention.make_schedule(places)

  def attend(q, k, v):
    out = tree_attention.attend(places, schedule, q, k, v)
    return out, (k.transpose(0, 2, 3, 1), v.swapaxes(1, 2))

  model = Transformer(config, attend)
  return model.apply({"params": params}, tokens, places.position)[1]


def decode_step(config, params, token, caches, reach, *, fork, length):
  """Decodes one token a lane.

  Args:
    config: TransformerConfig.
    params: unstacked parameters.
    token: int [R, G]; its position is fork - 1 + length.
    caches: a KVCache per layer.
    reach: from `attention.decode_reach`.
    fork: int [R, G].
    length: int [R, G], the slot the token is written to.

  Returns:
    Logits of the next token [R, G, V] float32, and the updated caches.
  """
  # A lane's own write, so that no device asks another for it.
  of_lanes = lambda write: jax.vmap(jax.vmap(write))
  write_key = of_lanes(lambda old, new, i: old.at[:, :, i].set(new))
  write_value = of_lanes(lambda old, new, i: old.at[:, i].set(new))
  x: Any = embed(config, params, token)
  updated = []
  for layer, cache in zip(params["layers"], caches):

    def attend(q, k, v, cache=cache):
      cache = cache.replace(
        lane_key=write_key(cache.lane_key, k, length),
        lane_value=write_value(cache.lane_value, v, length),
      )
      out = attention.decode_attention(
        q, cache, reach, fork=fork, length=length
      )
      return out, cache

    axes = ("rows", "lanes", "features")
    block = Block(config, attend, axes, outputs_first=True)
    x, cache = block.apply({"params": layer}, x, fork - 1 + length)
    updated.append(cache)
  x = RMSNorm(config).apply({"params": params["final_norm"]}, x)
  logits = _outputs_first_product(
    head(config, params), x.reshape(-1, config.width), jnp.float32
  )
  return logits.reshape(*x.shape[:-1], -1), tuple(updated)


def init_caches(config, *, rows, lanes, trunk_length, completion_length):
  """Returns empty caches, one per layer."""
  dtype = jnp.dtype(config.dtype)
  trunk = (rows, config.num_kv_heads)
  lane = (rows, lanes, config.num_kv_heads)
  head_dim = config.head_dim
  one = lambda _: KVCache(
    trunk_key=jnp.zeros((*trunk, head_dim, trunk_length), dtype),
    trunk_value=jnp.zeros((*trunk, trunk_length, head_dim), dtype),
    lane_key=jnp.zeros((*lane, head_dim, completion_length), dtype),
    lane_value=jnp.zeros((*lane, completion_length, head_dim), dtype),
  )
  return tuple(one(i) for i in range(config.num_layers))
