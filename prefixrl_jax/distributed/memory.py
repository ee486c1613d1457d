"""The memory plan: bytes a device, reckoned before anything is compiled."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import (
  adapters,
  attention,
  transformer,
  tree_attention,
)
from prefixrl_jax.models.decoder_config import of_layer
from prefixrl_jax.models.layers import Block, rotations
from prefixrl_jax.types import UserError

# Rows a device that a micro-batch may have where the config leaves it open.
_ROWS_A_DEVICE = (8, 4, 2, 1)


def fit(
  config: ml_collections.ConfigDict,
  model: transformer.TransformerConfig,
  mesh: Mesh,
  show: Callable[[str], None],
  device_bytes: float | None = None,
) -> tuple[transformer.TransformerConfig, int]:
  """Settles what the config leaves open so that the plan fits; shows the plan.

  Recomputing layers costs a third of the update, so more rows a micro-batch
  never justify it.

  Args:
    config: the whole config; learner.rows_per_microbatch may be 0 (open).
    model: its remat may be "auto" (open).
    mesh: see `plan`; its devices may be absent if device_bytes is given.
    show: prints a line.
    device_bytes: that a device has; None: ask it.

  Returns:
    The model with its remat, and rows a micro-batch, whole ones a device.

  Raises:
    UserError: nothing fits.
  """
  have = device_bytes or _device_bytes(mesh)
  shards = sharding.num_row_shards(mesh)
  wished = -(-config.learner.rows_per_microbatch // shards)
  remats = ("none", "full") if model.remat == "auto" else (model.remat,)
  for remat, a_device in itertools.product(
    remats, [wished] if wished else _ROWS_A_DEVICE
  ):
    settled = dataclasses.replace(model, remat=remat)
    rows = a_device * shards
    planned = plan(config, settled, mesh, rows)
    if sum(planned.values()) <= have:
      break
  check(planned, have, show)
  if len(remats) > 1 or not wished:
    show(f"remat {remat}, {rows} rows a micro-batch")
  return settled, rows


def plan(
  config: ml_collections.ConfigDict,
  model: transformer.TransformerConfig,
  mesh: Mesh,
  rows_per_micro: int,
) -> dict[str, float]:
  """Returns bytes per device of everything large, by what it is.

  Args:
    config: the whole config.
    model: shape of the transformer.
    mesh: parameters are sharded as the rules table says, rows over data and
      fsdp.
    rows_per_micro: B.
  """
  params = transformer.abstract_params(model, mesh)
  shard = lambda x: float(np.prod(x.sharding.shard_shape(x.shape)))
  stored = lambda tree: sum(
    shard(x) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )
  trained = adapters.abstract_trained(model, mesh)
  count = sum(shard(x) for x in jax.tree.leaves(trained))
  sampled = jax.tree.map(
    lambda x, where: float(np.prod(where.shard_shape(x.shape))),
    jax.eval_shape(functools.partial(transformer.unstack, model), params),
    transformer.unstacked_shardings(model, mesh),
  )
  compute = jnp.dtype(model.dtype).itemsize
  row_shards = sharding.num_row_shards(mesh)

  train, rollouts = config.train, config.rollouts
  lanes = train.completions_per_prompt
  trunk = rollouts.max_prompt_length + rollouts.max_completion_length
  heads = sharding.sharding(mesh, (model.num_kv_heads,), "kv_heads").shard_shape
  (own_heads,) = heads((model.num_kv_heads,))
  kv = 2 * model.num_layers * own_heads * model.head_dim * compute
  rows = max(
    -(-(train.rows or train.prompts_per_step) // row_shards)
    * (trunk + lanes * rollouts.max_completion_length),
    -(-config.collect.rows // row_shards)
    * (
      rollouts.max_prompt_length
      + config.collect.lanes * rollouts.max_completion_length
    ),
  )
  row_length = max(
    config.learner.row_length, trunk + rollouts.max_completion_length
  )
  micro_rows = -(-rows_per_micro // row_shards)
  tokens = micro_rows * row_length
  kept = bytes_kept(model)
  if model.num_experts:  # a device meets the tokens of all that share experts
    without = dataclasses.replace(model, num_experts=0, mlp_width=1)
    of_experts = kept - bytes_kept(without)
    kept += (mesh.shape["expert"] - 1) * of_experts
  kept = tokens * kept / mesh.shape["tensor"]
  residual = tokens * model.width * compute / mesh.shape["tensor"]
  # One layer more is under way; where they are recomputed, that and its own.
  activations = (model.num_layers + 1) * kept
  if model.remat == "full":
    activations = model.num_layers * residual + 2 * kept
  is_mixed = any(0 < arm.prefixed_share < 1 for arm in config.arms.values())
  chunk = config.learner.logits_chunk_length
  return {
    "parameters": stored(trained),
    "optimizer": 2 * 4 * count,
    # Of a micro-batch, their sum, and that of prefixed trees alone.
    "gradients": (2 + is_mixed) * 4 * count,
    "sampler's parameters": compute * sum(jax.tree.leaves(sampled)),
    "base policy": stored(params),
    "kv caches": float(rows * kv),
    "activations": activations,
    "logits": 3.0
    * 4
    * micro_rows
    * chunk
    * model.vocab_size
    / mesh.shape["tensor"],
  }


@functools.cache
def bytes_kept(model: transformer.TransformerConfig) -> float:
  """Returns what a layer keeps of a token for the backward pass, in bytes.

  Asks JAX, of two short rows; what does not depend on their length is weights.
  """
  params = jax.eval_shape(
    functools.partial(transformer.init, model), jax.random.key(0)
  )
  of_one = lambda tree: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree
  )
  layer = of_one(params["layers"])
  beside = of_one(adapters.abstract(model)) if model.lora else None

  def run(layer, beside, x):
    places = attention.trunk_places(*x.shape[:2])
    attend, _ = tree_attention.for_layers(model, places)
    block = Block(model, lambda *args: (attend(*args), None))
    variables = {"params": layer, "adapters": beside or {}}
    turns = rotations(model, places.position)
    return block.apply(variables, x, turns, of_layer(model, 0))[0]

  def kept(length):
    x = jax.ShapeDtypeStruct((1, length, model.width), model.dtype)

    def pull(layer, beside, x):
      """What is trained is pulled back to."""
      if beside is None:
        return jax.vjp(lambda y, x: run(y, None, x), layer, x)[1]
      return jax.vjp(lambda y, x: run(layer, y, x), beside, x)[1]

    pull = jax.eval_shape(pull, layer, beside, x)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pull))

  short, long = 512, 1024  # whole blocks of attention on every backend
  return (kept(long) - kept(short)) / (long - short)


def check(
  plan: dict[str, float], have: float, show: Callable[[str], None]
) -> None:
  """Shows the plan; raises UserError if it cannot fit.

  Args:
    plan: from `plan`.
    have: bytes a device.
    show: prints a line.
  """
  need = sum(plan.values())
  parts = ", ".join(f"{k} {_human(v)}" for k, v in plan.items())
  show(f"memory plan per device: {_human(need)} of {_human(have)} ({parts})")
  if need > have:
    largest = max(plan, key=lambda k: plan[k])
    raise UserError(
      f"the memory plan needs {_human(need)} on each device, which has"
      f" {_human(have)}. The largest part is {largest}: more config.mesh.fsdp"
      " or tensor shards parameters and optimizer; fewer"
      " config.collect.rows and lanes shrink caches; model.remat=auto and"
      " learner.rows_per_microbatch=0 shrink activations;"
      " learner.logits_chunk_length shrinks logits."
    )


def _device_bytes(mesh: Mesh) -> float:
  """Memory of one device; forced host devices share the machine's."""
  device = mesh.devices.flat[0]
  stats = device.memory_stats() if device.platform != "cpu" else None
  if stats and "bytes_limit" in stats:
    return float(stats["bytes_limit"])
  total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return total / mesh.devices.size


def _human(num_bytes: float) -> str:
  for unit in ("B", "KiB", "MiB", "GiB"):
    if num_bytes < 1024:
      return f"{num_bytes:.3g} {unit}"
    num_bytes /= 1024
  return f"{num_bytes:.3g} TiB"
