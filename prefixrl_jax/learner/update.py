"""One jitted, donated update on a TrainBatch."""

import functools
import math

import jax
import jax.numpy as jnp
import optax

from prefixrl_jax.batches import TrainState
from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.learner import losses
from prefixrl_jax.learner.logprobs import action_logprobs, num_scored
from prefixrl_jax.models import adapters, experts, tree_attention

# Metrics that say what the device did, for the ledger: micro-batches, pairs of
# tokens that attention took in a forward pass and what its backward pass costs,
# in pairs of a forward one, tokens whose logits were computed.
WORK = ("micros", "pairs", "pairs_back", "scored")
# Metrics that say whether an update was finite, as people call them.
_FINITE = {
  "loss": "loss",
  "grad_norm": "gradient norm",
  "param_norm": "norm of the parameters",
}


def nonfinite(metrics) -> str:
  """Returns which of an update's quantities are NaN or infinite, in words."""
  return ", ".join(
    f"{label} {float(metrics[name])}"
    for name, label in _FINITE.items()
    if not math.isfinite(metrics[name])
  )


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
  state: TrainState,
  *,
  temperature: float,
  chunk_length: int,
  kl_coefficient: float,
  kl_estimator: str = "k3",
  mixed: bool,
  skip_nonfinite: bool = False,
) -> jax.stages.Wrapped:
  """Returns update(state, batch, base_params) -> (state, metrics).

  The loss is a sum over the sampled tokens of all micro-batches divided by
  their count, so it does not depend on how they are split. Micro-batches
  without a tree are left out. state is donated; with adapters, it is theirs.

  Args:
    config: TransformerConfig.
    optimizer: from `make_optimizer`.
    state: from `abstract_state`; the new state lies where the old one did.
    temperature: of the policy, that of sampling.
    chunk_length: see `action_logprobs`.
    kl_coefficient: weight of the KL to the base policy per token; 0 leaves it
      out, and base_params may be None if all parameters are trained.
    kl_estimator: what of the KL is descended, see `losses.kl_loss`.
    mixed: batches hold prefixed and other trees; their gradients' norms are
      told apart, at the price of a second sum of gradients.
    skip_nonfinite: where the loss or the gradient is NaN or infinite, the new
      parameters and moments are the old ones; metrics say so, see `nonfinite`.
  """

  def loss_sum(trained, base_params, rows):
    attend, pairs = tree_attention.for_layers(config, rows)
    logprobs_of = functools.partial(
      action_logprobs,
      config,
      rows=rows,
      temperature=temperature,
      chunk_length=chunk_length,
      attend=attend,
    )
    logprobs, entropy, load = logprobs_of(
      adapters.policy(config, base_params, trained)
    )
    mask = rows.action_mask
    loss = losses.policy_loss(logprobs, rows.advantages, mask)
    gap = jnp.where(mask, jnp.abs(logprobs - rows.behavior_logprobs), 0.0)
    sums = {
      "loss": loss,
      "tokens": jnp.sum(mask).astype(jnp.float32),
      "entropy": jnp.sum(entropy),
      "logprob_gap": jnp.sum(gap),
      "kl": jnp.float32(0),
      "micros": jnp.float32(1),
      "pairs": pairs,
      "pairs_back": pairs
      * tree_attention.backward_passes(rows.tokens.shape[1]),
      "scored": num_scored(rows.action_mask, chunk_length),
    }
    if kl_coefficient:
      reference, *_ = logprobs_of(base_params)
      sums["kl"] = losses.kl_to_reference(logprobs, reference, mask)
      loss += kl_coefficient * losses.kl_loss(
        kl_estimator, logprobs, reference, mask, _goes_on(rows)
      )
    return loss, (sums, jnp.max(gap), load)

  grad = jax.value_and_grad(loss_sum, has_aux=True)

  def update(state: TrainState, batch, base_params):
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, jnp.float32), state.params
    )

    def accumulate(m, carry):
      total, prefixed, sums, max_gap, all_load = carry
      rows = jax.tree.map(lambda x: x[m], batch)
      (_, (new, gap, load)), grads = grad(state.params, base_params, rows)
      add = lambda acc, weight: jax.tree.map(
        lambda a, g: a + weight * g.astype(jnp.float32), acc, grads
      )
      total = add(total, 1.0)
      if mixed:
        prefixed = add(prefixed, rows.is_prefixed.astype(jnp.float32))
      kind = rows.is_prefixed.astype(jnp.int32)
      sums = {name: sums[name].at[kind].add(new[name]) for name in sums}
      max_gap = jnp.maximum(max_gap, gap)
      return total, prefixed, sums, max_gap, all_load + load

    names = ("loss", "tokens", "entropy", "logprob_gap", "kl", *WORK)
    by_kind = {name: jnp.zeros(2) for name in names}
    num_micros = jnp.sum(jnp.any(batch.tree > 0, axis=(1, 2)))
    load = jnp.zeros((config.num_layers, 2, config.num_experts))
    total, prefixed, by_kind, max_gap, load = jax.lax.fori_loop(
      0,
      num_micros,
      accumulate,
      (zeros, zeros if mixed else None, by_kind, jnp.float32(0), load),
    )
    sums = {name: jnp.sum(values) for name, values in by_kind.items()}
    count = jnp.maximum(sums["tokens"], 1)
    grads = jax.tree.map(lambda g: g / count, total)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    loss, grad_norm = sums["loss"] / count, optax.tree.norm(grads)
    if skip_nonfinite:
      is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
      params, opt_state = jax.tree.map(
        functools.partial(jnp.where, is_finite),
        (params, opt_state),
        (state.params, state.opt_state),
      )

    metrics = {
      "loss": loss,
      "kl": sums["kl"] / count,
      "logprob_gap": sums["logprob_gap"] / count,
      "logprob_gap_max": max_gap,
      "grad_norm": grad_norm,
      "param_norm": optax.tree.norm(
        jax.tree.map(lambda x: x.astype(jnp.float32), params)
      ),
      **{name: sums[name] for name in WORK},
    }
    if config.num_experts:
      balance = experts.balance(load)
      metrics["load_balance"] = jnp.mean(balance)
      metrics["load_balance_max"] = jnp.max(balance)
    norms = _norms_by_kind(total, prefixed, batch.is_prefixed)
    for kind, name in enumerate(("no_prefix", "prefixed")):
      metrics[f"{name}/entropy"] = by_kind["entropy"][kind] / jnp.maximum(
        by_kind["tokens"][kind], 1
      )
      metrics[f"{name}/grad_norm"] = norms[kind] / count
    state = TrainState(step=state.step + 1, params=params, opt_state=opt_state)
    return state, metrics

  return jax.jit(
    update,
    donate_argnums=0,
    out_shardings=(_shardings(state), None),
    compiler_options=backends.of_mesh(
      state.step.sharding.mesh
    ).compiler_options(),
  )


def _goes_on(rows):
  """Returns where the next token is of the same completion, bool [B, T]."""
  tree, branch, mask = rows.tree, rows.branch, rows.action_mask
  same = (tree[:, 1:] == tree[:, :-1]) & (branch[:, 1:] == branch[:, :-1])
  same &= mask[:, 1:] & mask[:, :-1]
  return jnp.pad(same, ((0, 0), (0, 1)))


def _norms_by_kind(total, prefixed, is_prefixed):
  """Returns the gradient's norm from no-prefix trees, and from prefixed ones.

  Args:
    total: sum of all gradients.
    prefixed: of prefixed trees alone; None if all trees are of one kind.
    is_prefixed: bool [M].
  """
  if prefixed is None:
    norm, any_prefixed = optax.tree.norm(total), jnp.any(is_prefixed)
    return jnp.where(any_prefixed, 0, norm), jnp.where(any_prefixed, norm, 0)
  others = jax.tree.map(lambda t, p: t - p, total, prefixed)
  return optax.tree.norm(others), optax.tree.norm(prefixed)
