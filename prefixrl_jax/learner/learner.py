"""A model, an optimizer and a loss: what RL, SFT and pretraining learn with."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from prefixrl_jax.batches import TrainState
from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.learner import critic as critics
from prefixrl_jax.learner import losses, update
from prefixrl_jax.learner.packing import Layout, Tree, pack
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
    completion_length: int = 0,
    critic: critics.Critic | None = None,
    mixed: bool = False,
    norms_by_kind: bool = False,
    skip_nonfinite: bool = False,
    hold_without_signal: bool = False,
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
      completion_length: tokens of the longest possible one, by which a loss of
        normalization "length" is divided.
      critic: that is trained beside the policy, if any.
      mixed: see `update.make_update`.
      norms_by_kind: see `update.make_update`.
      skip_nonfinite: see `update.make_update`.
      hold_without_signal: see `update.make_update`.
    """
    self._mesh, self.layout, self._loss = mesh, layout, loss
    needs_base = "reference" in loss.needs or model_config.lora is not None
    self._base_params = base_params if needs_base else None
    self.keeps_logits = chunk_length >= layout.row_length
    self._skip_nonfinite = skip_nonfinite
    self._completion_length = completion_length
    self._critic = critic
    self.abstract_state, self._init, self._update = _programs(
      backends.of_mesh(mesh),
      model_config,
      mesh,
      optimizer,
      loss,
      temperature=temperature,
      chunk_length=chunk_length,
      critic=critic,
      mixed=mixed,
      norms_by_kind=norms_by_kind,
      skip_nonfinite=skip_nonfinite,
      hold_without_signal=hold_without_signal,
    )

  @property
  def has_reference(self) -> bool:
    """Whether the base policy runs forward too."""
    return "reference" in self._loss.needs

  @property
  def has_critic_trunk(self) -> bool:
    """Whether a critic's own trunk is trained too."""
    return self._critic is not None and self._critic.has_trunk

  def compile(self) -> None:
    """Compiles both programs; no later call compiles."""
    with jax.set_mesh(self._mesh):
      batch = sharding.abstract_rows(
        self._mesh, self._pack([], kl_coefficient=0.0), axis=1
      )
      policy = self.policy(self.abstract_state)
      self._init = self._init.compile(policy)
      self._update = self._update.compile(
        self.abstract_state, batch, self._base_params
      )

  def init(self, params: dict) -> TrainState:
    """Returns the state before the first step; params are copied.

    Args:
      params: of the policy, what is trained of it.
    """
    with jax.set_mesh(self._mesh):
      return self._init(params)

  def policy(self, state: TrainState) -> dict:
    """Returns what is trained of the policy, without a critic.

    Args:
      state: of arrays, shapes or shardings.
    """
    return critics.policy_of(self._critic, state.params)

  def step(
    self,
    state: TrainState,
    trees: Sequence[Tree],
    kl_coefficient: float = 0.0,
  ) -> tuple[TrainState, dict[str, float], UpdateUsage]:
    """Updates a state, which is used up.

    Args:
      state: from `init` or the last step.
      trees: that fit into the layout.
      kl_coefficient: if the loss adapts it.

    Returns:
      The next state, the update's metrics ("is_skipped": it was not finite
      and left the state as it was), and what it cost.

    Raises:
      NonFiniteError: it was not finite, and is not to be skipped.
    """
    batch = self._pack(trees, kl_coefficient)
    started = time.perf_counter()
    with jax.set_mesh(self._mesh):
      state, on_device = self._update(
        state, self._put(batch), self._base_params
      )
    metrics = {k: float(v) for k, v in jax.device_get(on_device).items()}
    usage = UpdateUsage(
      tokens=sum(tree.num_sequence_tokens for tree in trees),
      work={name: metrics.pop(name) for name in update.WORK},
      tokens_per_microbatch=self.layout.tokens_per_microbatch,
      has_reference=self.has_reference,
      keeps_logits=self.keeps_logits,
      seconds=time.perf_counter() - started,
      has_critic_trunk=self.has_critic_trunk,
    )
    bad = update.nonfinite(metrics)
    may_skip = self._skip_nonfinite and np.isfinite(metrics["param_norm"])
    if bad and not may_skip:
      raise NonFiniteError(f"the update has {bad}.")
    return state, metrics | {"is_skipped": int(bool(bad))}, usage

  def _pack(self, trees: Sequence[Tree], kl_coefficient: float):
    """Returns a batch with all that the loss needs."""
    num_lanes = sum(len(tree.lanes) for tree in trees)
    scalars: dict[str, float] = {}
    if self._loss.normalization == "sequence":
      trees, scalars["normalizer"] = [_by_length(t) for t in trees], num_lanes
    elif self._loss.normalization == "length":
      scalars["normalizer"] = num_lanes * self._completion_length
    if self._loss.trace_mean:
      trees = _with_mean_of_traces(trees, scalars.get("normalizer"))
    if "kl_coefficient" in self._loss.needs:
      scalars["kl_coefficient"] = kl_coefficient
    return pack(trees, self.layout, needs=self._loss.needs, scalars=scalars)

  def _put(self, batch):
    return sharding.put_rows(self._mesh, batch, axis=1)


# As many as a run's arms and its SFT have, so that the next seed's are at hand.
@functools.lru_cache(maxsize=8)
def _programs(
  backend, model_config, mesh, optimizer, loss, *, critic, **how
) -> tuple[TrainState, Any, Any]:
  """Returns a state's shapes, what makes it and what updates it.

  They are the same ones for learners of the same settings, so that JAX traces
  and compiles them once.

  Args:
    backend: what they are traced for.
    model_config, mesh, optimizer, loss, critic: see `Learner`.
    **how: see `update.make_update`.
  """
  del backend
  state = update.abstract_state(
    critics.abstract_trained(critic, model_config, mesh), optimizer
  )
  return (
    state,
    update.make_init(optimizer, state, model_config, critic),
    update.make_update(
      model_config, optimizer, state, loss, critic=critic, **how
    ),
  )


def _by_length(tree: Tree) -> Tree:
  """Returns the tree with every lane's tokens weighted to their mean."""
  weighted = [
    dataclasses.replace(lane, weight=lane.weight / len(lane.tokens))
    for lane in tree.lanes
  ]
  return dataclasses.replace(tree, lanes=weighted)


def _with_mean_of_traces(
  trees: Sequence[Tree], normalizer: float | None
) -> list[Tree]:
  """Returns the trees with traces weighted to the mean over all their tokens.

  Args:
    trees: of a batch.
    normalizer: that the batch's sum is divided by; None: its tokens.
  """
  lanes = [lane for tree in trees for lane in tree.lanes]
  of_traces = sum(len(lane.tokens) for lane in lanes if lane.is_trace)
  if normalizer is None:
    normalizer = sum(len(lane.tokens) for lane in lanes)
  weight = normalizer / max(of_traces, 1)
  return [
    dataclasses.replace(
      tree,
      lanes=[
        dataclasses.replace(lane, weight=weight) if lane.is_trace else lane
        for lane in tree.lanes
      ],
    )
    for tree in trees
  ]
