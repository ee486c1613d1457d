"""The memory plan: bytes a device, reckoned before anything is compiled."""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from prefixrl_jax.models import transformer
from prefixrl_jax.types import UserError


def plan(
  config: ml_collections.ConfigDict,
  model: transformer.TransformerConfig,
  mesh: Mesh,
) -> dict[str, float]:
  """Returns bytes per device of everything large, by what it is.

  Args:
    config: the whole config.
    model: shape of the transformer.
    mesh: parameters are sharded as the rules table says, rows over data and
      fsdp.
  """
  params = transformer.abstract_params(model, mesh)
  shard = lambda x: float(np.prod(x.sharding.shard_shape(x.shape)))
  count = sum(shard(x) for x in jax.tree.leaves(params))
  stored = sum(shard(x) * x.dtype.itemsize for x in jax.tree.leaves(params))
  compute = jnp.dtype(model.dtype).itemsize
  row_shards = mesh.shape["data"] * mesh.shape["fsdp"]

  train, rollouts = config.train, config.rollouts
  lanes = train.completions_per_prompt
  trunk = rollouts.max_prompt_length + rollouts.max_completion_length
  kv = 2 * model.num_layers * model.num_kv_heads * model.head_dim * compute
  rows = max(
    -(-train.prompts_per_step // row_shards)
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
  micro_rows = -(-config.learner.rows_per_microbatch // row_shards)
  tokens = micro_rows * row_length
  # Per token and layer: the residual at the layer's door, and what stands
  # between its operations unless it is recomputed.
  inside = (
    4 * model.width
    + 2 * model.head_dim * (model.num_heads + model.num_kv_heads)
    + 3 * model.mlp_width
  )
  layers_kept = 1 if model.remat == "full" else model.num_layers
  chunk = config.learner.logits_chunk_length
  return {
    "parameters": stored,
    "optimizer": 2 * 4 * count,
    "gradients": 2 * 4 * count,
    "sampler's parameters": compute * count,
    "reference policy": stored,
    "kv caches": float(rows * kv),
    "activations": float(
      tokens * compute * (model.num_layers * model.width + layers_kept * inside)
    ),
    "logits": 3.0
    * 4
    * micro_rows
    * chunk
    * model.vocab_size
    / mesh.shape["tensor"],
  }


def check(
  plan: dict[str, float], mesh: Mesh, show: Callable[[str], None]
) -> None:
  """Shows the plan; raises UserError if it cannot fit."""
  need, have = sum(plan.values()), _device_bytes(mesh)
  parts = ", ".join(f"{k} {_human(v)}" for k, v in plan.items())
  show(f"memory plan per device: {_human(need)} of {_human(have)} ({parts})")
  if need > have:
    largest = max(plan, key=lambda k: plan[k])
    raise UserError(
      f"the memory plan needs {_human(need)} on each device, which has"
      f" {_human(have)}. The largest part is {largest}: more config.mesh.fsdp"
      " or tensor shards parameters and optimizer; fewer"
      " config.collect.rows and lanes shrink caches; model.remat=full and"
      " fewer learner.rows_per_microbatch shrink activations;"
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
