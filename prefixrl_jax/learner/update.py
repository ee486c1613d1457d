"""One jitted, donated update on a TrainBatch."""

import functools

import jax
import jax.numpy as jnp
import optax

from prefixrl_jax.batches import TrainState
from prefixrl_jax.distributed import sharding
from prefixrl_jax.learner import losses
from prefixrl_jax.learner.logprobs import action_logprobs
from prefixrl_jax.learner.packing import Layout


def abstract_state(params, optimizer) -> TrainState:
  """Returns the state's shapes; what belongs to a parameter lies with it.

  Args:
    params: arrays or shapes, with shardings.
    optimizer: from `make_optimizer`.
  """
  shapes = jax.eval_shape(functools.partial(_init, optimizer), params)
  whole = sharding.replicated(jax.tree.leaves(params)[0].sharding.mesh)
  put = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
  like = lambda x, param: put(x, param.sharding)
  return TrainState(
    step=put(shapes.step, whole),
    params=jax.tree.map(like, shapes.params, params),
    opt_state=optax.tree.map_params(
      optimizer,
      like,
      shapes.opt_state,
      params,
      transform_non_params=lambda x: put(x, whole),
    ),
  )


def make_init(optimizer, state: TrainState) -> jax.stages.Wrapped:
  """Returns params -> the state before the first step.

  Args:
    optimizer: from `make_optimizer`.
    state: from `abstract_state`.
  """
  return jax.jit(
    functools.partial(_init, optimizer), out_shardings=_shardings(state)
  )


def _init(optimizer, params) -> TrainState:
  # A copy, since the update donates the state.
  params = jax.tree.map(jnp.copy, params)
  return TrainState(
    step=jnp.int32(0), params=params, opt_state=optimizer.init(params)
  )


def _shardings(state: TrainState) -> TrainState:
  return jax.tree.map(lambda x: x.sharding, state)


def make_update(
  config,
  optimizer: optax.GradientTransformation,
  layout: Layout,
  state: TrainState,
  *,
  temperature: float,
  chunk_length: int,
  kl_coefficient: float,
) -> jax.stages.Wrapped:
  """Returns update(state, batch, reference_params) -> (state, metrics).

  The loss is a sum over the sampled tokens of all micro-batches divided by
  their count, so it does not depend on how they are split. state is donated.

  Args:
    config: TransformerConfig.
    optimizer: from `make_optimizer`.
    layout: of the batch's rows.
    state: from `abstract_state`; the new state lies where the old one did.
    temperature: of the policy, that of sampling.
    chunk_length: see `action_logprobs`.
    kl_coefficient: weight of the KL to the reference policy per token; 0
      leaves it out, and reference_params may be None.
  """

  def logprobs_of(params, rows):
    return action_logprobs(
      config,
      params,
      rows,
      trunk_length=layout.trunk_length,
      num_lanes=layout.num_lanes,
      temperature=temperature,
      chunk_length=chunk_length,
    )

  def loss_sum(params, reference_params, rows):
    logprobs, entropy = logprobs_of(params, rows)
    mask = rows.action_mask
    loss = losses.policy_loss(logprobs, rows.advantages, mask)
    gap = jnp.where(mask, jnp.abs(logprobs - rows.behavior_logprobs), 0.0)
    sums = {
      "loss": loss,
      "tokens": jnp.sum(mask).astype(jnp.float32),
      "entropy": jnp.sum(entropy),
      "logprob_gap": jnp.sum(gap),
      "kl": jnp.float32(0),
    }
    if kl_coefficient:
      reference, _ = logprobs_of(reference_params, rows)
      sums["kl"] = losses.kl_to_reference(
        logprobs, jax.lax.stop_gradient(reference), mask
      )
      loss = loss + kl_coefficient * sums["kl"]
    return loss, (sums, jnp.max(gap))

  def update(state: TrainState, batch, reference_params):
    tokens = jnp.sum(batch.action_mask)
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, jnp.float32), state.params
    )

    def accumulate(carry, rows):
      total, prefixed = carry
      (_, (sums, max_gap)), grads = jax.value_and_grad(loss_sum, has_aux=True)(
        state.params, reference_params, rows
      )
      add = lambda acc, weight: jax.tree.map(
        lambda a, g: a + weight * g.astype(jnp.float32), acc, grads
      )
      weight = rows.is_prefixed.astype(jnp.float32)
      return (add(total, 1.0), add(prefixed, weight)), (sums, max_gap)

    (total, prefixed), (sums, max_gap) = jax.lax.scan(
      accumulate, (zeros, zeros), batch
    )
    count = jnp.maximum(tokens, 1).astype(jnp.float32)
    grads = jax.tree.map(lambda g: g / count, total)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    metrics = {
      "loss": jnp.sum(sums["loss"]) / count,
      "kl": jnp.sum(sums["kl"]) / count,
      "logprob_gap": jnp.sum(sums["logprob_gap"]) / count,
      "logprob_gap_max": jnp.max(max_gap),
      "grad_norm": optax.tree.norm(grads),
    }
    no_prefix = jax.tree.map(lambda t, p: t - p, total, prefixed)
    for kind, part, chosen in (
      ("prefixed", prefixed, batch.is_prefixed),
      ("no_prefix", no_prefix, ~batch.is_prefixed),
    ):
      of_kind = lambda name, chosen=chosen: jnp.sum(
        jnp.where(chosen, sums[name], 0.0)
      )
      metrics[f"{kind}/entropy"] = of_kind("entropy") / jnp.maximum(
        of_kind("tokens"), 1
      )
      metrics[f"{kind}/grad_norm"] = optax.tree.norm(part) / count
    state = TrainState(step=state.step + 1, params=params, opt_state=opt_state)
    return state, metrics

  return jax.jit(
    update, donate_argnums=0, out_shardings=(_shardings(state), None)
  )
