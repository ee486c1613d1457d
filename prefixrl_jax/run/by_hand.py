"""What programs do at the least, counted by hand.

A count is of one device. It is of one decode step, of one layer's prefill, and
of whole updates and scoring passes. Lengths are not known before a run: every
prompt, prefix and completion is taken to be half as long as it may be, every
lane to be at work, and a decoding one to be halfway.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from prefixrl_jax.distributed import sharding
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.learner.packing import Layout, layout_for
from prefixrl_jax.learner.scoring import Scorer
from prefixrl_jax.models import flops, parameters, tree_attention
from prefixrl_jax.models.decoder_config import TransformerConfig
from prefixrl_jax.rollouts.programs import Programs
from prefixrl_jax.rounding import ceil_div
from prefixrl_jax.run import memory_plan
from prefixrl_jax.run.sizes import Sizes
from prefixrl_jax.settings import arms
from prefixrl_jax.types import ScoringUsage, UpdateUsage


class Work(NamedTuple):
  """What a program does at the least, on one device.

  Attributes:
    flops: of products and attention.
    bytes: read and written: each weight once a pass, what a layer keeps for the
      backward pass once out and once in, the keys and values that are met.
    turns: of the loop whose length only the device knows.
    recomputed: those of the FLOPs that are done again to save memory.
  """

  flops: float
  bytes: float
  turns: float = 1.0
  recomputed: float = 0.0


@dataclasses.dataclass(frozen=True)
class Trees:
  """What a learner or a scorer is given at a time.

  Attributes:
    trunk, completion: tokens, at most.
    lanes: of a tree.
    prefixed, originals: trees of each kind.
  """

  trunk: int
  completion: int
  lanes: int
  prefixed: int
  originals: int

  def microbatches(self, layout: Layout) -> int:
    """Returns how many have a tree, at the lengths that are assumed."""
    return layout_for(
      longest_trunk=ceil_div(self.trunk, 2),
      longest_completion=ceil_div(self.completion, 2),
      num_lanes=self.lanes,
      num_trees=(self.prefixed, self.originals),
      row_length=layout.row_length,
      rows_per_microbatch=layout.rows_per_microbatch,
    ).num_microbatches

  @property
  def scored(self) -> float:
    """Tokens of completions, at the lengths that are assumed."""
    trees = self.prefixed + self.originals
    return trees * self.lanes * self.completion / 2

  @property
  def tokens(self) -> float:
    """Tokens of all sequences, a trunk for each of its lanes."""
    trees = self.prefixed + self.originals
    return trees * self.lanes * (self.trunk + self.completion) / 2

  @property
  def pairs(self) -> float:
    """Pairs of tokens that see each other, likewise."""
    trunk, lane = self.trunk / 2, self.completion / 2
    one = trunk**2 / 2 + self.lanes * (trunk * lane + lane**2 / 2)
    return (self.prefixed + self.originals) * one


def trees_of(
  config: ml_collections.ConfigDict,
  arm: ml_collections.ConfigDict,
  sizes: Sizes,
) -> dict[str, Trees]:
  """Returns what an arm's learners and scorers are given, by part of a run.

  Args:
    config: the whole config.
    arm: a row of config.arms.
    sizes: of its data.
  """
  completion = config.rollouts.max_completion_length
  lanes = arms.group_size(config, arm)
  parts = arms.learner_of(config, arm).num_minibatches
  a_step = Trees(
    sizes.trunk, completion, lanes, sizes.prefixed, sizes.originals
  )
  examples = Trees(*sizes.example, 1, 0, config.sft.batch_size)
  return {
    "RL": dataclasses.replace(
      a_step,
      prefixed=ceil_div(sizes.prefixed, parts),
      originals=ceil_div(sizes.originals, parts),
    ),
    "SFT": examples,
    "scoring": a_step,
    "scoring traces": examples,
  }


def prefill(programs: Programs, rows, model, mesh, *, is_last) -> Work:
  """Returns what a layer's prefill does; of the last, what its cache needs.

  Args:
    programs: of the sampler.
    rows: that are filled.
    model: of the run.
    mesh: that is set.
    is_last: whether it is the last layer's.
  """
  shards = sharding.num_row_shards(mesh)
  # What the mesh does not divide is the work of all.
  share = mesh.shape["tensor"] * (shards if rows % shards == 0 else 1)
  tokens = rows * programs.trunk_length
  layers = model.num_layers
  whole = flops.flops_per_token(model, head=False)
  a_token = whole / layers
  of_layer = weights(model, mesh)["layer"]
  kv = 2 * model.num_kv_heads * model.head_dim
  each = kv + (1 if is_last else 2) * model.width
  size = jnp.dtype(model.dtype).itemsize
  moved = of_layer + size * tokens * each / share
  if is_last:
    last = flops.prefill_flops_per_token(model) - (layers - 1) * a_token
    return Work(tokens * last / share, moved)
  pairs = rows * tree_attention.trunk_pairs(model, programs.trunk_length)
  attention = flops.attention_flops(model, pairs) / layers
  return Work((tokens * a_token + attention) / share, moved)


def decode(programs: Programs, model, mesh) -> Work:
  """Returns what a decode step of all lanes does.

  Args:
    programs: of the sampler.
    model: of the run.
    mesh: that it runs on.
  """
  lanes = programs.rows * programs.lanes
  share = mesh.shape["tensor"] * sharding.num_row_shards(mesh)
  trunk = programs.trunk_length / 2
  lane = programs.completion_length / 4
  total = lanes * flops.flops_per_token(model, head=True)
  total += flops.attention_flops(model, lanes * (trunk + lane))
  heads = model.num_kv_heads
  if heads % mesh.shape["tensor"] == 0:
    heads /= mesh.shape["tensor"]
  key_and_value = 2 * heads * model.head_dim * model.num_layers
  size = jnp.dtype(model.dtype).itemsize
  rows = programs.rows / sharding.num_row_shards(mesh)
  met = rows * (trunk + programs.lanes * lane)
  return Work(
    total / share,
    weights(model, mesh)["all"] + size * met * key_and_value,
  )


def update(learner: Learner, trees: Trees, model, mesh) -> Work:
  """Returns what an update does.

  Args:
    learner: that makes it.
    trees: that it learns from.
    model: of the run.
    mesh: that is set.
  """
  layout = learner.layout
  turns = trees.microbatches(layout)
  usage = UpdateUsage(
    tokens=0,
    work={
      "num_microbatches": turns,
      "pairs": trees.pairs,
      "pairs_back": trees.pairs
      * tree_attention.backward_passes(layout.row_length),
      "logit_tokens": trees.scored,
    },
    tokens_per_microbatch=layout.tokens_per_microbatch,
    has_reference=learner.has_reference,
    keeps_logits=learner.keeps_logits,
    seconds=0.0,
    has_critic_trunk=learner.has_critic_trunk,
  )
  passes = 3 + (model.remat == "full") + learner.has_reference
  kept = memory_plan.kept_of_layer(model, mesh)
  if model.remat == "full":
    size = jnp.dtype(model.dtype).itemsize
    kept = size * model.width / mesh.shape["tensor"]
  a_device = layout.tokens_per_microbatch / sharding.num_row_shards(mesh)
  activations = a_device * model.num_layers * kept
  state = memory_plan.bytes_of(learner.abstract_state, mesh)
  done = flops.update_flops(model, usage)
  once = flops.update_flops(dataclasses.replace(model, remat="none"), usage)
  return Work(
    done / mesh.size,
    turns * (passes * weights(model, mesh)["all"] + 2 * activations)
    # Read and written; of the gradients' sum, both in every micro-batch.
    + 2 * state
    + turns * 2 * state / 3,
    turns,
    (done - once) / mesh.size,
  )


def score(scorer: Scorer, trees: Trees, model, mesh) -> Work:
  """Returns what scoring does.

  Args:
    scorer: of the trees.
    trees: that are scored.
    model: of the run.
    mesh: that it runs on.
  """
  layout, passes = scorer.layout, scorer.num_passes
  turns = trees.microbatches(layout)
  usage = ScoringUsage(
    tokens=0,
    work={
      "num_microbatches": turns,
      "pairs": trees.pairs,
      "logit_tokens": trees.scored * scorer.has_logits,
    },
    tokens_per_microbatch=layout.tokens_per_microbatch,
    passes=passes,
    seconds=0.0,
  )
  return Work(
    flops.scoring_flops(model, usage) / mesh.size,
    turns * passes * weights(model, mesh)["all"],
    turns,
  )


@functools.cache
def weights(model: TransformerConfig, mesh) -> dict[str, float]:
  """Returns a device's bytes of weights, to compute: what of, and of all.

  Of a layer; of the experts of all layers; of all that computes. Other experts
  than those that a token meets are read too: some token meets them.
  """
  sampled = parameters.abstract_unstacked(model, mesh)
  of = lambda tree: memory_plan.bytes_of(tree, mesh)
  head = "embedding" if model.tied_head else "head"
  layers = of(sampled["layers"])
  experts = [
    leaf
    for path, leaf in jax.tree.leaves_with_path(sampled["layers"])
    if path[-1].key.startswith("expert_")
  ]
  return {
    "layer": layers / model.num_layers,
    "experts": of(experts),
    "all": layers + of(sampled[head]),
  }
