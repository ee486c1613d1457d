"""The memory plan: bytes per device, estimated before anything is compiled.

A run goes through phases with different arrays in memory: always the base
policy, one sampler (`rollouts.sampler.Arena`), and in training the learner.
"""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from prefixrl_jax.distributed import backends, cluster, sharding
from prefixrl_jax.models import (
  adapters,
  attention,
  experts,
  parameters,
  transformer,
  tree_attention,
)
from prefixrl_jax.models.decoder_config import layer_flags
from prefixrl_jax.models.layers import Block, rotary_cos_sin
from prefixrl_jax.rollouts import decoding
from prefixrl_jax.rounding import ceil_div, round_up
from prefixrl_jax.settings import arms
from prefixrl_jax.types import UserError

# The fields that decide how large a phase's caches are.
_CACHES_OF = {
  "screen": "config.screen",
  "collect": "config.collect",
  "train": "config.train.rows, completions_per_prompt",
  "curve": "config.evals",
  "evaluate": "config.evals",
}
# Rows per device that a micro-batch may have if the config leaves it open; more
# than one only up to so many tokens. With more of them weights are gathered
# less often, but by then that takes less time than the products with them.
_ROWS_A_DEVICE = (8, 4, 2, 1)
_TOKENS_A_DEVICE = 2**15
# Arrays of a layer's experts in progress that have a token's width for each
# expert that it is sent to, at the most.
_WIDE_OF_EXPERTS = 6


def fit(
  config: ml_collections.ConfigDict,
  model: transformer.TransformerConfig,
  mesh: Mesh,
  show: Callable[[str], None],
  device_bytes: float | None = None,
) -> tuple[transformer.TransformerConfig, int]:
  """Chooses what the config leaves open so that the plan fits; shows it.

  Recomputing layers costs a third of an update, so more rows per micro-batch
  never justify it.

  Args:
    config: the whole config; learner.rows_per_microbatch may be 0 (open).
    model: its remat may be "auto" (open).
    mesh: see `plan`; its devices may be absent if device_bytes is given.
    show: prints a line.
    device_bytes: memory of a device; None: ask it.

  Returns:
    The model with its remat, and rows per micro-batch: whole ones per device.

  Raises:
    UserError: nothing fits.
  """
  have = device_bytes or _device_bytes(mesh)
  shards = sharding.num_row_shards(mesh)
  wished = ceil_div(config.learner.rows_per_microbatch, shards)
  remats = ("none", "full") if model.remat == "auto" else (model.remat,)
  row_length = _row_length(config)
  open_rows = [
    n for n in _ROWS_A_DEVICE if n == 1 or n * row_length <= _TOKENS_A_DEVICE
  ]
  for remat, a_device in itertools.product(
    remats, [wished] if wished else open_rows
  ):
    settled = dataclasses.replace(model, remat=remat)
    rows = a_device * shards
    by_phase = phases(config, settled, mesh, rows)
    phase = _largest(by_phase)
    if sum(by_phase[phase].values()) <= have:
      break
  check(by_phase[phase], have, show, phase)
  if len(remats) > 1 or not wished:
    show(f"remat {remat}, {rows} rows per micro-batch")
  return settled, rows


def plan(
  config: ml_collections.ConfigDict,
  model: transformer.TransformerConfig,
  mesh: Mesh,
  rows_per_microbatch: int,
) -> dict[str, float]:
  """Returns bytes per device of all large arrays, in the phase with most.

  Args:
    config, model, mesh, rows_per_microbatch: see `phases`.
  """
  by_phase = phases(config, model, mesh, rows_per_microbatch)
  return by_phase[_largest(by_phase)]


def _largest(by_phase: dict[str, dict[str, float]]) -> str:
  return max(by_phase, key=lambda phase: sum(by_phase[phase].values()))


def phases(
  config: ml_collections.ConfigDict,
  model: transformer.TransformerConfig,
  mesh: Mesh,
  rows_per_microbatch: int,
) -> dict[str, dict[str, float]]:
  """Returns bytes per device of the arrays of each phase, by kind.

  Args:
    config: the whole config.
    model: shape of the transformer.
    mesh: parameters are sharded as the rules table says, rows over data and
      fsdp.
    rows_per_microbatch: B.
  """
  params = parameters.abstract_params(model, mesh)
  trained = adapters.abstract_trained(model, mesh)
  shard = lambda x: np.prod(x.sharding.shard_shape(x.shape))
  count = float(sum(map(shard, jax.tree.leaves(trained))))
  weights = {
    "base policy": bytes_of(params, mesh),
    "sampler's parameters": bytes_of(
      parameters.abstract_unstacked(model, mesh), mesh
    ),
  }
  of_arms = [config.arms[name] for name in config.run_arms]
  learners = [arms.learner_of(config, arm) for arm in of_arms]
  # The arm that needs most decides; a critic's own trunk is another model.
  trunks = 1 + any(x.critic.kind == "trunk" for x in learners)
  state = {
    "parameters": trunks * bytes_of(trained, mesh),
    "optimizer": 2.0 * 4 * trunks * count,
  }
  apart = any(
    arms.is_mixed(arm) and x.norms_by_kind for arm, x in zip(of_arms, learners)
  )
  learner = {
    # Of a micro-batch, their sum, and that of prefixed trees alone.
    "gradients": (2.0 + apart) * 4 * trunks * count,
    **_of_microbatch(config, model, mesh, rows_per_microbatch, trunks),
  }
  most_samples = max(1, *(arms.num_samples(config, a) for a in of_arms))
  train, evals = config.train, config.evals
  prompt = config.rollouts.max_prompt_length
  completion = config.rollouts.max_completion_length
  of_any = dataclasses.replace(model, remat="none")  # asked once for all
  caches = lambda *sizes: {
    "kv caches": _of_caches(of_any, mesh, *sizes, completion)
  }
  own = lambda section: caches(section.rows, section.lanes, prompt)
  revealed = math.ceil(max(evals.fractions, default=0) * completion)
  return {
    "screen": {**weights, **own(config.screen)},
    "collect": {**weights, **own(config.collect)},
    "train": {
      **weights,
      **state,
      **learner,
      **caches(
        train.rows or train.prompts_per_step,
        most_samples,
        prompt + completion,
      ),
    },
    "curve": {**weights, **state, **own(evals)},
    "evaluate": {
      **weights,
      "parameters": state["parameters"],
      **caches(evals.rows, evals.lanes, prompt + revealed),
    },
  }


@functools.cache
def _of_caches(model, mesh, rows, lanes, trunk_length, completion_length):
  """Returns the bytes of a sampler's state, without weights.

  As they are in memory: some chips keep half-empty tiles.
  """
  shards = sharding.num_row_shards(mesh)
  abstract = jax.eval_shape(
    functools.partial(
      decoding.init_state,
      model,
      rows=round_up(rows, shards),
      lanes=lanes,
      trunk_length=trunk_length,
      completion_length=completion_length,
    )
  )
  placed = jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    abstract,
    decoding.state_shardings(mesh, abstract),
  )
  return bytes_of(placed, mesh)


def _of_microbatch(
  config, model, mesh, rows_per_microbatch, trunks
) -> dict[str, float]:
  """Returns the bytes that an update keeps for a micro-batch's tokens."""
  compute = jnp.dtype(model.dtype).itemsize
  device_rows = ceil_div(rows_per_microbatch, sharding.num_row_shards(mesh))
  tokens = device_rows * _row_length(config)
  kept = tokens * kept_of_layer(model, mesh)
  residual = tokens * model.width * compute / mesh.shape["tensor"]
  # One more layer is in progress; if layers are recomputed, so are its arrays.
  activations = (model.num_layers + 1) * kept
  if model.remat == "full":
    activations = model.num_layers * residual + 2 * kept
    activations -= tokens * _gathered(model, mesh)  # are there once
  # While experts are at work, some tokens are there for each of theirs.
  met = min(mesh.shape["expert"] * tokens, experts.TOKENS_A_TURN)
  sent = met * model.experts_per_token
  activations += _WIDE_OF_EXPERTS * sent * model.width * compute
  chunk = config.learner.logits_chunk_length
  logits = 3.0 * 4 * device_rows * chunk * model.vocab_size
  return {
    "activations": trunks * activations,
    "logits": logits / mesh.shape["tensor"],
  }


def _row_length(config) -> int:
  """Returns the tokens of a packed row, with what may lengthen it."""
  rollouts = config.rollouts
  return max(
    config.learner.row_length,
    rollouts.max_prompt_length + 2 * rollouts.max_completion_length,
  )


def kept_of_layer(model: transformer.TransformerConfig, mesh: Mesh) -> float:
  """Returns the bytes that a device keeps of a layer for a token of its rows.

  Args:
    model: shape of the transformer.
    mesh: that it is trained on.
  """
  parts, kept = mesh.shape["tensor"], bytes_kept(model)
  token = model.width * jnp.dtype(model.dtype).itemsize
  if not model.num_experts:
    return kept / parts + _gathered(model, mesh)
  # A device has the tokens of all devices that share experts, and of their
  # width a part.
  narrow = dataclasses.replace(model, mlp_width=1)
  of_others = bytes_kept(dataclasses.replace(narrow, num_experts=0))
  routed = bytes_kept(narrow) - of_others + token
  products = (kept - bytes_kept(narrow)) / parts
  return (
    of_others / parts
    + _gathered(model, mesh)
    + mesh.shape["expert"] * (routed + products)
  )


def _gathered(model, mesh) -> float:
  """Returns those of others' shares of the residual, which two parts take."""
  token = model.width * jnp.dtype(model.dtype).itemsize
  of_attention = token * (1 - 1 / mesh.shape["tensor"])
  return of_attention if model.num_experts else 2 * of_attention


def bytes_of(tree, mesh: Mesh) -> float:
  """Returns a device's bytes of arrays, as they are in its memory.

  Args:
    tree: of shapes with shardings, and perhaps layouts.
    mesh: of the shardings.
  """
  backend = backends.of_mesh(mesh)
  return float(sum(map(backend.bytes_of, jax.tree.leaves(tree))))


@functools.cache
def bytes_kept(model: transformer.TransformerConfig) -> float:
  """Returns the bytes per token that a layer keeps for the backward pass.

  Asks JAX about rows of two lengths; what does not depend on the length is
  weights.
  """
  params = sharding.unbox(parameters.boxed_shapes(model))
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
    cos_sin = rotary_cos_sin(model, places.position)
    return block.apply(variables, x, cos_sin, layer_flags(model, 0))[0]

  def kept(length):
    x = jax.ShapeDtypeStruct((1, length, model.width), model.dtype)

    def pull(layer, beside, x):
      """What is trained is pulled back to."""
      if beside is None:
        return jax.vjp(lambda y, x: run(y, None, x), layer, x)[1]
      return jax.vjp(lambda y, x: run(layer, y, x), beside, x)[1]

    pull = jax.eval_shape(pull, layer, beside, x)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pull))

  short, long = 512, 1024  # whole attention blocks on every backend
  return (kept(long) - kept(short)) / (long - short)


def check(
  plan: dict[str, float],
  have: float,
  show: Callable[[str], None],
  phase: str,
) -> None:
  """Shows the plan, and refuses one that cannot fit.

  Args:
    plan: from `plan`.
    have: bytes per device.
    show: prints a line.
    phase: the phase that needs most.

  Raises:
    UserError: the devices have less.
  """
  need = sum(plan.values())
  parts = ", ".join(f"{k} {_human(v)}" for k, v in plan.items())
  show(
    f"memory plan per device: {_human(need)} of {_human(have)}, the most of"
    f" all in {phase} ({parts})"
  )
  if need > have:
    largest = max(plan, key=lambda k: plan[k])
    raise UserError(
      f"the memory plan needs {_human(need)} on each device in {phase}, which"
      f" has {_human(have)}. The largest part is {largest}: more"
      " config.mesh.fsdp or tensor shards parameters and optimizer; fewer rows"
      f" and lanes ({_CACHES_OF[phase]}) shrink caches; model.remat=auto and"
      " learner.rows_per_microbatch=0 shrink activations;"
      " learner.logits_chunk_length shrinks logits."
    )


def _device_bytes(mesh: Mesh) -> float:
  """Returns a device's memory, the least that a process's has.

  Forced host devices share the machine's, and so do processes on one machine:
  they are taken to be on one.
  """
  device = mesh.local_devices[0]
  stats = device.memory_stats() if device.platform != "cpu" else None
  if stats and "bytes_limit" in stats:
    have = float(stats["bytes_limit"])
  else:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    have = total / mesh.devices.size
  return min(cluster.gather("memory of a device", have))


def _human(num_bytes: float) -> str:
  for unit in ("B", "KiB", "MiB", "GiB"):
    if num_bytes < 1024:
      return f"{num_bytes:.3g} {unit}"
    num_bytes /= 1024
  return f"{num_bytes:.3g} TiB"
