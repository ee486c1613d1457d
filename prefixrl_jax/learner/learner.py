"""A model, an optimizer and a loss: what RL, SFT and pretraining learn with."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from prefixrl_jax.batches import TrainState
from prefixrl_jax.distributed import sharding
from prefixrl_jax.learner import losses, update
from prefixrl_jax.learner.packing import Layout, Tree, pack
from prefixrl_jax.models import adapters
from prefixrl_jax.models.transformer import TransformerConfig
from prefixrl_jax.types import NonFiniteError, UpdateUsage


class Learner:
  """Makes states and updates them, by trees that fit into one layout."""

  def __init__(
    self,
    model_config: TransformerConfig,
    mesh: jax.sharding.Mesh,
    layout: Layout,
    optimizer: optax.GradientTransformation,
    loss: losses.Loss,
    *,
    base_params: dict | None,
    temperature: float,
    chunk_length: int,
    mixed: bool = False,
    skip_nonfinite: bool = False,
  ):
    """Sets up the programs; compiles nothing yet.

    Args:
      model_config: of the transformer.
      mesh: that states and batches are sharded over.
      layout: shape of the batches.
      optimizer: from `make_optimizer`.
      loss: from `losses.make_loss`.
      base_params: of the base policy; None if adapters and the loss need none.
      temperature: see `update.make_update`.
      chunk_length: see `update.make_update`.
      mixed: see `update.make_update`.
      skip_nonfinite: see `update.make_update`.
    """
    self._mesh, self._layout, self._loss = mesh, layout, loss
    needs_base = "reference" in loss.needs or model_config.lora is not None
    self._base_params = base_params if needs_base else None
    self._keeps_logits = chunk_length >= layout.row_length
    self._skip_nonfinite = skip_nonfinite
    self.abstract_state = update.abstract_state(
      adapters.abstract_trained(model_config, mesh), optimizer
    )
    self._init: Any = update.make_init(optimizer, self.abstract_state)
    self._update: Any = update.make_update(
      model_config,
      optimizer,
      self.abstract_state,
      loss,
      temperature=temperature,
      chunk_length=chunk_length,
      mixed=mixed,
      skip_nonfinite=skip_nonfinite,
    )

  def compile(self) -> None:
    """Compiles both programs; no later call compiles."""
    with jax.set_mesh(self._mesh):
      batch = self._put(pack([], self._layout))
      self._init = self._init.lower(self.abstract_state.params).compile()
      self._update = self._update.lower(
        self.abstract_state, batch, self._base_params
      ).compile()

  def init(self, params: dict) -> TrainState:
    """Returns the state before the first step; params are copied.

    Args:
      params: what is trained, sharded as `abstract_state.params`.
    """
    with jax.set_mesh(self._mesh):
      return self._init(params)

  def step(
    self, state: TrainState, trees: Sequence[Tree]
  ) -> tuple[TrainState, dict[str, float], UpdateUsage]:
    """Updates a state, which is used up.

    Args:
      state: from `init` or the last step.
      trees: that fit into the layout.

    Returns:
      The next state, the update's metrics ("is_skipped": it was not finite
      and left the state as it was), and what it cost.

    Raises:
      NonFiniteError: it was not finite, and is not to be skipped.
    """
    batch = pack(trees, self._layout)
    started = time.perf_counter()
    with jax.set_mesh(self._mesh):
      state, on_device = self._update(
        state, self._put(batch), self._base_params
      )
    metrics = {k: float(v) for k, v in jax.device_get(on_device).items()}
    usage = UpdateUsage(
      tokens=sum(
        lane.fork + len(lane.tokens) for tree in trees for lane in tree.lanes
      ),
      work={name: metrics.pop(name) for name in update.WORK},
      tokens_per_microbatch=self._layout.row_length
      * self._layout.rows_per_microbatch,
      has_reference="reference" in self._loss.needs,
      keeps_logits=self._keeps_logits,
      seconds=time.perf_counter() - started,
    )
    bad = update.nonfinite(metrics)
    may_skip = self._skip_nonfinite and np.isfinite(metrics["param_norm"])
    if bad and not may_skip:
      raise NonFiniteError(f"the update has {bad}.")
    return state, metrics | {"is_skipped": int(bool(bad))}, usage

  def _put(self, batch):
    return sharding.put_rows(self._mesh, batch, axis=1)
