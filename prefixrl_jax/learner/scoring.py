"""Scoring: what policies and a critic say of tokens that are there already."""

import functools
import time
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.distributed.ahead import Program
from prefixrl_jax.learner.critic import Critic, critic_values
from prefixrl_jax.learner.logprobs import action_logprobs, num_logit_tokens
from prefixrl_jax.learner.packing import Lane, Layout, Place, Tree, pack
from prefixrl_jax.models import tree_attention
from prefixrl_jax.models.transformer import TransformerConfig
from prefixrl_jax.types import ScoringUsage

# What there is to ask for: the base policy's log-probabilities, and the values
# of the critic in training.
SCORES = ("reference", "values")
_WORK = ("num_microbatches", "pairs", "logit_tokens")


class Scorer:
  """Scores the lanes of trees in forward passes of the layout's shape."""

  def __init__(
    self,
    model_config: TransformerConfig,
    mesh: jax.sharding.Mesh,
    layout: Layout,
    wants: Collection[str] = ("reference",),
    *,
    temperature: float,
    chunk_length: int,
    base_params: dict | None = None,
    critic: Critic | None = None,
  ):
    """Sets up the program; compiles nothing yet.

    Args:
      model_config: of the transformer.
      mesh: that parameters and batches are sharded over.
      layout: shape of the batches.
      wants: of `SCORES`.
      temperature: what logits are divided by, that of sampling.
      chunk_length: see `action_logprobs`.
      base_params: of the base policy; None if neither adapters nor
        "reference" need them.
      critic: whose values are wanted, if any.
    """
    self._mesh, self.layout = mesh, layout
    self._wants = frozenset(wants)
    needs_base = "reference" in self._wants or model_config.lora is not None
    self._base_params = base_params if needs_base else None
    self._score: Any = _program(
      backends.of_mesh(mesh),
      sharding.replicated(mesh),  # every process reads all
      model_config,
      critic,
      self._wants,
      temperature,
      chunk_length,
    )

  @property
  def num_passes(self) -> int:
    """How many models run forward."""
    return len(self._wants)

  @property
  def has_logits(self) -> bool:
    """Whether any of them makes logits."""
    return "reference" in self._wants

  def compile(self, trained: dict) -> None:
    """Compiles the program; no later call compiles.

    Args:
      trained: what is trained, arrays or shapes with shardings.
    """
    with jax.set_mesh(self._mesh):
      batch = sharding.abstract_rows(self._mesh, pack([], self.layout), axis=1)
      self._score = self._score.compile(trained, self._base_params, batch)

  def score(
    self,
    trained: dict,
    trees: Sequence[Tree],
    base_params: dict | None = None,
  ) -> tuple[dict[str, dict[int, np.ndarray]], ScoringUsage]:
    """Scores every lane's tokens.

    Args:
      trained: what is trained.
      trees: that fit into the layout.
      base_params: in place of those given before.

    Returns:
      {score: {id of a lane: float32 [completion length]}}, and what it cost.
    """
    places: dict[int, Place] = {}
    batch = pack(trees, self.layout, places=places)
    started = time.perf_counter()
    with jax.set_mesh(self._mesh):
      on_device = self._score(
        trained, base_params or self._base_params, self._put(batch)
      )
    scores, work = jax.device_get(on_device)
    usage = ScoringUsage(
      tokens=sum(tree.num_sequence_tokens for tree in trees),
      work={name: float(x) for name, x in work.items()},
      tokens_per_microbatch=self.layout.tokens_per_microbatch,
      passes=self.num_passes,
      seconds=time.perf_counter() - started,
    )
    lanes = [lane for tree in trees for lane in tree.lanes]
    return {
      name: {id(lane): _read(x, places[id(lane)], lane) for lane in lanes}
      for name, x in scores.items()
    }, usage

  def logprobs(
    self, params: dict, trunks: Sequence[np.ndarray], groups: Sequence[Sequence]
  ) -> list[list[np.ndarray]]:
    """Returns completions' log-probabilities, float32 [length] each.

    Args:
      params: of a policy, as samplers take them; the scorer's "reference".
      trunks: int32 [trunk length], what each group's completions begin from.
      groups: of completions, int32 [completion length].

    Raises:
      UserError: they do not fit into the layout.
    """
    trees = [
      Tree(
        trunk,
        [
          Lane(len(trunk), x, np.zeros(len(x)), np.zeros(len(x))) for x in group
        ],
        is_prefixed=False,
      )
      for trunk, group in zip(trunks, groups, strict=True)
    ]
    scores, _ = self.score({}, trees, params)
    return [[scores["reference"][id(x)] for x in t.lanes] for t in trees]

  def _put(self, batch):
    return sharding.put_rows(self._mesh, batch, axis=1)


def _read(x, place: Place, lane) -> np.ndarray:
  end = place.start + len(lane.tokens)
  return np.array(x[place.microbatch, place.row, place.start : end])


@functools.lru_cache(maxsize=8)
def _program(backend, whole, *how) -> Program:
  """Returns `_score` for its first arguments, the same one for the same."""
  return Program(
    "score",
    functools.partial(_score, *how),
    out_shardings=whole,
    compiler_options=backend.compiler_options(),
  )


def _score(
  config, critic, wants, temperature, chunk_length, trained, base_params, batch
):
  """Returns ({score: float32 [M, B, T]}, {what the device did: float32 []})."""

  def of_microbatch(rows):
    attend, pairs = tree_attention.for_layers(config, rows)
    scores = {}
    if "reference" in wants:
      scores["reference"] = action_logprobs(
        config,
        base_params,
        rows=rows,
        temperature=temperature,
        chunk_length=chunk_length,
        attend=attend,
      ).logprobs
    if "values" in wants:  # which take no logits
      args = critic, config, base_params, trained
      scores["values"] = critic_values(*args, rows=rows, attend=attend)
    return scores, {
      "num_microbatches": jnp.float32(1),
      "pairs": pairs,
      "logit_tokens": ("reference" in wants)
      * num_logit_tokens(rows.action_mask, chunk_length),
    }

  def add(m, done):
    rows = jax.tree.map(lambda x: x[m], batch)
    scores, work = of_microbatch(rows)
    old_scores, old_work = done
    put = lambda old, new: old.at[m].set(new)
    return (
      jax.tree.map(put, old_scores, scores),
      jax.tree.map(jnp.add, old_work, work),
    )

  zeros = jnp.zeros(batch.tokens.shape, jnp.float32)
  nothing = (
    dict.fromkeys(wants, zeros),
    {name: jnp.float32(0) for name in _WORK},
  )
  num_microbatches = jnp.sum(jnp.any(batch.tree > 0, axis=(1, 2)))
  return jax.lax.fori_loop(0, num_microbatches, add, nothing)
