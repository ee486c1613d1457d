"""Log-probabilities of completions that a policy did not just sample."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from prefixrl_jax.batches import TrainBatch
from prefixrl_jax.distributed import sharding
from prefixrl_jax.learner.logprobs import action_logprobs
from prefixrl_jax.learner.packing import Lane, Layout, Tree, pack
from prefixrl_jax.models import tree_attention
from prefixrl_jax.models.transformer import TransformerConfig


class Scorer:
  """Scores trees that fit into one layout; compiled at the first call."""

  def __init__(
    self,
    model_config: TransformerConfig,
    mesh: jax.sharding.Mesh,
    layout: Layout,
    *,
    temperature: float,
    chunk_length: int,
  ):
    """Sets up the program.

    Args:
      model_config: of the transformer.
      mesh: that parameters and batches are sharded over.
      layout: shape of the batches.
      temperature: what logits are divided by.
      chunk_length: see `action_logprobs`.
    """
    self._mesh, self._layout = mesh, layout

    def of_microbatch(params, batch: TrainBatch, m) -> jax.Array:
      rows = jax.tree.map(lambda x: x[m], batch)
      attend, _ = tree_attention.for_layers(model_config, rows)
      logprobs, *_ = action_logprobs(
        model_config,
        params,
        rows=rows,
        temperature=temperature,
        chunk_length=chunk_length,
        attend=attend,
      )
      return logprobs

    self._of_microbatch: Any = jax.jit(
      of_microbatch, out_shardings=sharding.replicated(mesh)
    )

  def logprobs(
    self, params: dict, trunks: Sequence[np.ndarray], groups: Sequence[Sequence]
  ) -> list[list[np.ndarray]]:
    """Returns the completions' log-probabilities, float32 [length] each.

    Args:
      params: of the policy, as samplers take them.
      trunks: int32 [trunk length], what each group's completions begin from.
      groups: of completions, int32 [completion length].

    Raises:
      UserError: they do not fit into the layout.
    """
    number, trees = 0, []
    for trunk, group in zip(trunks, groups, strict=True):
      lanes = []
      for tokens in group:
        # Packing moves lanes; their numbers, as advantages, tell where to.
        numbers = np.full(len(tokens), number, np.float32)
        lanes.append(Lane(len(trunk), tokens, np.zeros(len(tokens)), numbers))
        number += 1
      trees.append(Tree(trunk, lanes, is_prefixed=False))
    batch = pack(trees, self._layout)
    filled = int(np.any(batch.tree > 0, axis=(1, 2)).sum())
    with jax.set_mesh(self._mesh):
      on_mesh = sharding.put_rows(self._mesh, batch, axis=1)
      scored = [
        np.asarray(self._of_microbatch(params, on_mesh, m))
        for m in range(filled)
      ]
    mask = batch.action_mask[:filled]
    order = np.argsort(batch.advantages[:filled][mask], kind="stable")
    flat = np.array(scored, np.float32).reshape(mask.shape)[mask][order]
    ends = np.cumsum([len(tokens) for group in groups for tokens in group])
    each = iter(np.split(flat, ends[:-1])) if len(ends) else iter(())
    return [[next(each) for _ in group] for group in groups]
