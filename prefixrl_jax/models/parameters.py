"""A decoder's parameters: drawn, sharded, counted, and as the sampler has them.

A plain dict of arrays. Layers are stacked [L, ...] for learning; the sampler
takes them one by one (`unstack`).
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout

from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.distributed.ahead import Program
from prefixrl_jax.models.decoder_config import TransformerConfig
from prefixrl_jax.models.linear import with_adapter
from prefixrl_jax.models.transformer import Transformer, split_adapters

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


def init(config: TransformerConfig, key) -> dict:
  """Returns freshly drawn parameters, layers stacked [L, *inputs, *outputs].

  Args:
    config: TransformerConfig.
    key: jax.random key for the draw, [].
  """
  return sharding.unbox(_init_boxed(config, key))


def _init_boxed(config, key):
  attend = lambda q, k, v, window: (q, None)
  tokens = jnp.zeros((1, 1), jnp.int32)
  return Transformer(config, attend).init(key, tokens, tokens)["params"]


@functools.cache
def boxed_shapes(config: TransformerConfig) -> Mapping:
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
    lambda x, like: sharding.put(x, like.sharding),
    params,
    abstract_params(config, mesh),
  )


@functools.cache
def num_params(config: TransformerConfig) -> int:
  """Returns how many parameters the decoder has, embeddings included."""
  return sum(x.size for x in jax.tree.leaves(boxed_shapes(config)))


def num_active_params(config: TransformerConfig) -> int:
  """Returns how many parameters a token meets: not those of other experts."""
  if not config.num_experts:
    return num_params(config)
  met = dataclasses.replace(config, num_experts=config.experts_per_token)
  others = config.num_experts - config.experts_per_token
  router = config.num_layers * config.width * others  # is met whole
  return num_params(met) + router


def unstack(config: TransformerConfig, params: dict) -> dict:
  """Returns the parameters as `decode_step` takes them, in config.dtype.

  `layers` is a tuple, one entry a layer, so that caches are updated in place;
  every weight is a matrix [outputs, inputs].

  Args:
    config: TransformerConfig.
    params: as from `init`, or with adapters, which are added in.

  Returns:
    {"layers": ({weight: [outputs, inputs]}, ...), "embedding": [V, D],
    "head": [V, D], "final_norm"}.
  """
  return _unstack(
    config,
    functools.partial(_layer_matrices, config),
    functools.partial(_matrices, config),
    params,
  )


def abstract_unstacked(config: TransformerConfig, mesh) -> dict:
  """Returns the shapes of `unstack`'s parameters with their shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    _unstacked_shapes(dataclasses.replace(config, remat="none")),
    unstacked_shardings(config, mesh),
  )


@functools.cache
def _unstacked_shapes(config: TransformerConfig) -> dict:
  params = sharding.unbox(boxed_shapes(config))
  return jax.eval_shape(functools.partial(unstack, config), params)


@functools.cache  # all samplers' shapes have these
def make_unstack(config: TransformerConfig, mesh) -> Callable[[dict], dict]:
  """Returns `unstack` for a mesh; one compiled program serves all layers.

  Args:
    config: TransformerConfig.
    mesh: of the sampler.
  """
  where = unstacked_shardings(config, mesh)
  rest = {name: leaf for name, leaf in where.items() if name != "layers"}
  return functools.partial(
    _unstack,
    config,
    Program(
      "hand over a layer",
      functools.partial(_layer_matrices, config),
      out_shardings=where["layers"][0],
    ),
    Program(
      "hand over the rest",
      functools.partial(_matrices, config),
      out_shardings=rest,
    ),
  )


def _unstack(config, layer_matrices, other_matrices, params):
  adapters, base = split_adapters(params)
  rest = {name: leaf for name, leaf in base.items() if name != "layers"}
  layers = tuple(
    layer_matrices(base["layers"], adapters, i)
    for i in range(config.num_layers)
  )
  return dict(other_matrices(rest), layers=layers)


def _layer_matrices(config, layers, adapters, i):
  layer, adapters = jax.tree.map(lambda x: x[i], (layers, adapters))
  for name, adapter in adapters.items():
    layer[name] = with_adapter(config, layer[name], adapter)
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
  """Returns how `unstack`'s parameters are sharded: not over `fsdp`.

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
      axes = (axes[n], axes[0])  # heads stay together, whatever their size
    where = sharding.sharding(mesh, shape, *axes)
    order = backends.of_mesh(mesh).expert_order
    if order and name.startswith("expert_"):
      return Format(Layout(order), where)
    return where

  def each(tree, skip):
    return {
      name: jax.tree.map(
        lambda x, name=name: place(name, x.value.shape[skip:], x.names[skip:]),
        leaf,
        is_leaf=sharding.is_boxed,
      )
      for name, leaf in tree.items()
    }

  layer = each(boxed["layers"], 1)
  rest = {name: leaf for name, leaf in boxed.items() if name != "layers"}
  return dict(each(rest, 0), layers=(layer,) * config.num_layers)


def by_name(params: dict) -> dict[str, Any]:
  """Returns a tree's leaves by their names, as in "layers.query"."""
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  return {name_of(path): leaf for path, leaf in leaves}


def name_of(path: tuple) -> str:
  """Returns the name of a leaf's path, its keys with dots between."""
  return ".".join(key.key for key in path)


def weight_hash(params: dict) -> str:
  """Returns 12 hex digits that identify these weights, on any devices.

  All processes take part, each with all values, block by block.
  """
  digest = hashlib.sha256()
  for name, value in sorted(by_name(params).items()):
    digest.update(f"{name} {value.dtype} {value.shape}".encode())
    for block in sharding.fetched(value):
      digest.update(block.tobytes())
  return digest.hexdigest()[:12]
