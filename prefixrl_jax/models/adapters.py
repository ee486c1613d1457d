"""LoRA: what is trained is a product of two thin matrices beside a weight.

With config.lora the base policy stays as it is and has no gradient and no
optimizer state; training moves the adapters alone (arXiv 2106.09685). A policy
is then the base's parameters with the adapters under "adapters": the learner
runs them beside the weights, the sampler adds them in as it loads.

An adapter is {"a": [L, *inputs, r], "b": [L, r, *outputs]}.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from prefixrl_jax.distributed import sharding
from prefixrl_jax.distributed.ahead import Program
from prefixrl_jax.models import parameters
from prefixrl_jax.models.decoder_config import Lora, TransformerConfig
from prefixrl_jax.models.linear import with_adapter
from prefixrl_jax.types import UserError

GROUPS = {
  "attention": ("query", "key", "value", "output"),
  "mlp": ("up", "gate", "down"),
}


def with_lora(
  settings: Mapping, config: TransformerConfig
) -> TransformerConfig:
  """Returns the decoder with what section `lora` says.

  Args:
    settings: rank (0 is off), alpha, targets ("all", or names and groups with
      "+" between).
    config: of the decoder.

  Raises:
    UserError: a target that the decoder does not have.
  """
  rank, alpha, targets = (settings[x] for x in ("rank", "alpha", "targets"))
  if not rank:
    return config
  shapes = parameters.boxed_shapes(config)["layers"]
  known = [n for n in sum(GROUPS.values(), ()) if n in shapes]
  wanted: list[str] = []
  for name in known if targets == "all" else targets.split("+"):
    names = [n for n in GROUPS.get(name, (name,)) if n in known]
    if not names:
      raise UserError(
        f"config.lora.targets: there is no {name!r} to adapt in this model;"
        f" known: all, {', '.join((*GROUPS, *known))}, with + between."
      )
    wanted += names
  lora = Lora(rank, alpha, tuple(n for n in known if n in wanted))
  return lora.of(config)


def init(config: TransformerConfig, base: dict, mesh, seed: int) -> dict:
  """Returns what training starts from: adapters that do nothing, or the base.

  Args:
    config: TransformerConfig.
    base: parameters of the base policy.
    mesh: adapters are sharded like the weights they belong to.
    seed: seed for the draw.
  """
  if config.lora is None:
    return base
  like = abstract(config, mesh)

  def draw(key):
    keys = jax.random.split(key, len(like))
    return {
      name: {
        "a": _uniform(key, adapter["a"]),
        "b": jnp.zeros_like(adapter["b"]),
      }
      for key, (name, adapter) in zip(keys, sorted(like.items()))
    }

  shardings = jax.tree.map(lambda x: x.sharding, like)
  return Program("adapters", draw, out_shardings=shardings)(
    jax.random.key(seed)
  )


def _uniform(key, like):
  limit = math.prod(like.shape[1:-1]) ** -0.5
  return jax.random.uniform(key, like.shape, like.dtype, -limit, limit)


def policy_params(
  config: TransformerConfig, base: dict | None, trained: dict
) -> dict:
  """Returns a policy's parameters, from the base's and what is trained.

  Args:
    config: TransformerConfig.
    base: parameters of the base policy; None will do without config.lora.
    trained: adapters, as from `init`; without config.lora, all parameters.
  """
  return trained if config.lora is None else dict(base or {}, adapters=trained)


def abstract_trained(config: TransformerConfig, mesh) -> dict:
  """Returns shapes of what is trained, with their shardings on the mesh."""
  if config.lora is None:
    return parameters.abstract_params(config, mesh)
  return abstract(config, mesh)


def abstract(config: TransformerConfig, mesh=None) -> dict:
  """Returns the adapters' shapes, with their shardings if there is a mesh."""
  assert config.lora is not None
  rank = config.lora.rank
  shapes = parameters.boxed_shapes(config)["layers"]

  def pair(name):
    n = 1 + parameters.INPUT_AXES[name]
    shape, axes = shapes[name].value.shape, shapes[name].names
    put = lambda shape, axes: jax.ShapeDtypeStruct(
      shape,
      jnp.float32,
      sharding=sharding.sharding(mesh, shape, *axes) if mesh else None,
    )
    return {
      "a": put((*shape[:n], rank), (*axes[:n], None)),
      "b": put((shape[0], rank, *shape[n:]), (axes[0], None, *axes[n:])),
    }

  return {name: pair(name) for name in config.lora.targets}


@functools.cache
def num_params(config: TransformerConfig) -> int:
  """Returns how many parameters the adapters have."""
  if config.lora is None:
    return 0
  return sum(x.size for x in jax.tree.leaves(abstract(config)))


def merge(config: TransformerConfig, base: dict, adapters: dict) -> dict:
  """Returns the base's parameters with the adapters added in, in their dtype.

  Args:
    config: TransformerConfig.
    base, adapters: on the mesh.
  """
  layers = dict(base["layers"])
  for name, adapter in adapters.items():
    layers[name] = _merged_stack(config, layers[name], adapter)
  return dict(base, layers=layers)


@functools.partial(jax.jit, static_argnums=0)
def _merged_stack(config, weight, adapter):
  add = jax.vmap(functools.partial(with_adapter, config))
  return add(weight, adapter).astype(weight.dtype)
