"""What is timed of ours: the sampler and the update, set up for some work."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import shapes
from benchmarks.measuring import Roofline
from prefixrl_jax.configs import math as math_config
from prefixrl_jax.distributed import ahead, sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner import update
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.optimizer import make_optimizer
from prefixrl_jax.learner.packing import Lane, Layout, Tree, layout_for, pack
from prefixrl_jax.models import parameters
from prefixrl_jax.models.flops import attention_flops, flops_per_token
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run import memory_plan

CHUNK_LENGTH = 512  # tokens whose logits an update holds at once


@dataclasses.dataclass(frozen=True)
class Unit:
  """Work for a sampler."""

  rows: int
  lanes: int
  trunk_length: int
  lengths: tuple[int, ...]  # new tokens of each completion, trunk by trunk

  @property
  def num_trunks(self) -> int:
    return len(self.lengths) // self.lanes


def make_sampler(config, mesh, **sizes: Any) -> Sampler:
  """Returns a sampler at temperature 1 without a stop token.

  Args:
    config: TransformerConfig.
    mesh: of the sampler.
    **sizes: rows, lanes, trunk_length, completion_length, steps_per_dispatch.
  """
  return Sampler(
    config,
    mesh,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    stop_tokens=(),
    **sizes,
  )


def compiled(sampler: Sampler, params: dict) -> dict[str, jax.stages.Compiled]:
  """Returns a sampler's programs by name, the widest of each; runs nothing.

  Args:
    sampler: that nothing is loaded into.
    params: shapes with shardings.
  """
  with ahead.compiling(ahead.Compiler()) as compiler:
    sampler.warm_up(params)
  sampler.release()  # of shapes
  return {x.name: x.executable for x in compiler.compiled if x.executable}


def make_update(config, mesh, *, b2: float = 0.95):
  """Returns an update with AdamW, its state's shapes and what makes one."""
  optimizer = make_optimizer(
    learning_rate=1e-6,
    warmup_steps=0,
    decay_steps=0,
    b1=0.9,
    b2=b2,
    eps=1e-8,
    weight_decay=0.0,
    clip_norm=1.0,
  )
  state = update.abstract_state(
    parameters.abstract_params(config, mesh), optimizer
  )
  step = update.make_update(
    config,
    optimizer,
    state,
    make_loss("policy_gradient"),
    temperature=1.0,
    chunk_length=CHUNK_LENGTH,
  )
  return step, state, update.make_init(optimizer, state)


def lower_update(config, mesh, row_length: int, num_microbatches: int):
  """Lowers an update of packed rows, one a shard; devices may be absent.

  Args:
    config: TransformerConfig.
    mesh: of the update.
    row_length: tokens of a row.
    num_microbatches: micro-batches.
  """
  step, state, _ = make_update(config, mesh)
  shards = sharding.num_row_shards(mesh)
  batch = sharding.abstract_rows(
    mesh, pack([], Layout(row_length, shards, num_microbatches)), axis=1
  )
  with jax.set_mesh(mesh):
    return step.lower(state, batch, None)


# What of the memory plan is there while a program runs.
PLANNED = {
  "decode": ("sampler's parameters", "kv caches"),  # of collection's
  "update": (
    "parameters",
    "optimizer",
    "gradients",
    "activations",
    "logits",
  ),
}


def planned_bytes(
  config, mesh, *, rows, lanes, trunk_length, completion_length, row_length
) -> dict[str, float]:
  """Returns what the memory plan says of a device, by what it is.

  Args:
    config: TransformerConfig.
    mesh: where rows are sharded.
    rows: of a sampler, on all devices.
    lanes: of a row.
    trunk_length, completion_length: of the sampler's caches, in tokens.
    row_length: tokens of a packed row; an update has one a shard.
  """
  shards = sharding.num_row_shards(mesh)
  whole = math_config.get_config()
  whole.rollouts.update(
    max_prompt_length=trunk_length, max_completion_length=completion_length
  )
  whole.collect.update(rows=rows, lanes=lanes)
  whole.learner.update(row_length=row_length, logits_chunk_length=CHUNK_LENGTH)
  whole.run_arms = ("rl",)  # one kind of trees: one sum of gradients
  phases = memory_plan.phases(whole, config, mesh, rows_per_microbatch=shards)
  return phases["train"] | phases["collect"]


def trunks_of(config, unit: Unit, seed: int = 0) -> np.ndarray:
  """Returns trunks for the unit, random tokens int32 [trunks, P]."""
  rng = np.random.default_rng(seed)
  shape = (unit.num_trunks, unit.trunk_length)
  return rng.integers(0, config.vocab_size, shape, np.int32)


def sampling(model: str, unit: Unit) -> Callable[[], object]:
  """Returns what samples a unit once; programs are compiled before."""
  config = shapes.MODELS[model]
  mesh = make_mesh(data=-1, fsdp=1, tensor=1)
  sampler = make_sampler(
    config,
    mesh,
    rows=unit.rows,
    lanes=unit.lanes,
    trunk_length=unit.trunk_length,
    completion_length=max(unit.lengths),
    steps_per_dispatch=32,
  )
  sampler.warm_up(shapes.random_params(config))
  calls = itertools.count()

  def run():
    # New ones each time: a trunk that is still in a cache is not run again.
    trunks = trunks_of(config, unit, seed=next(calls))
    found = sampler.sample(
      [
        Request(
          trunk,
          unit.lanes,
          0,
          i,
          max_tokens=unit.lengths[i * unit.lanes],
        )
        for i, trunk in enumerate(trunks)
      ],
      purpose="sampling",
      seed=0,
    )
    lengths = tuple(len(c.tokens) for group in found for c in group)
    assert lengths == unit.lengths, lengths

  return run


def make_trees(config, unit) -> list[Tree]:
  """Returns trees of random tokens and advantages.

  Args:
    config: TransformerConfig.
    unit: trunk length, forks, lanes a fork, completion length, trees.
  """
  trunk_length, forks, lanes, length, num_trees = unit
  rng = np.random.default_rng(0)
  token = lambda n: rng.integers(0, config.vocab_size, n).astype(np.int32)
  lane = lambda fork: Lane(
    fork,
    token(length),
    np.full(length, -1, np.float32),
    np.full(length, rng.normal(), np.float32),
  )
  return [
    Tree(
      token(trunk_length),
      [lane(fork) for fork in forks for _ in range(lanes)],
      False,
    )
    for _ in range(num_trees)
  ]


def layout_of(trees: Sequence[Tree], row_length: int = 0) -> Layout:
  """Returns how an update packs trees; 0: rows for the longest."""
  longest = max(t.num_tokens for t in trees)
  return layout_for(
    longest_trunk=max(len(t.trunk) for t in trees),
    longest_completion=max(len(x.tokens) for t in trees for x in t.lanes),
    num_lanes=max(len(t.lanes) for t in trees),
    num_trees=(0, len(trees)),
    row_length=row_length or max(longest, 768),
    rows_per_microbatch=1,
  )


def flops_of_step(config, lanes: int) -> float:
  """Returns the FLOPs of the matrix products of a decode step."""
  return lanes * flops_per_token(config, head=True)


def least_seconds(
  config, trees, roofline: Roofline, row_length: int = 0
) -> float:
  """Returns how long an update takes at the roofline.

  Args:
    config: TransformerConfig.
    trees: what it learns from.
    roofline: of this machine.
    row_length: tokens a row; 0: as for the longest tree.
  """
  tokens = sum(t.num_tokens for t in trees)
  lanes = [(x.fork, len(x.tokens)) for t in trees for x in t.lanes]
  pairs = sum(len(t.trunk) * (len(t.trunk) + 1) / 2 for t in trees)
  pairs += sum(n * fork + n * (n + 1) / 2 for fork, n in lanes)
  scored = sum(n for _, n in lanes)
  body = tokens * flops_per_token(config, head=False)
  head = scored * 2 * config.width * config.vocab_size
  row_length = layout_of(trees, row_length).row_length
  head_passes = 3 + (row_length > CHUNK_LENGTH)
  return roofline.seconds(
    3 * (body + attention_flops(config, pairs)) + head_passes * head
  )


def updating(
  model: str, trees: Sequence[Tree], row_length: int = 0
) -> Callable[[], object]:
  """Returns what takes one AdamW step on trees; 0: rows for the longest."""
  config = shapes.MODELS[model]
  params = shapes.random_params(config)
  mesh = make_mesh(data=-1, fsdp=1, tensor=1)
  layout = layout_of(trees, row_length)
  with jax.set_mesh(mesh):
    step, _, init = make_update(config, mesh)
    held = [init(parameters.put_params(config, mesh, params))]
    batch = sharding.put_rows(mesh, pack(trees, layout), axis=1)

  def run():
    with jax.set_mesh(mesh):
      held[0], metrics = step(held[0], batch, None)
    return metrics

  return run
