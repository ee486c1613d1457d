"""One jitted, donated update on a TrainBatch."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from prefixrl_jax.batches import TrainState
from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.distributed.ahead import Program
from prefixrl_jax.learner import losses
from prefixrl_jax.learner.critic import Critic, with_critic, with_values
from prefixrl_jax.learner.logprobs import action_logprobs, num_logit_tokens
from prefixrl_jax.models import experts, tree_attention

# Metrics that say what the device did, for the ledger: micro-batches, pairs of
# tokens that attention took in a forward pass and what its backward pass costs,
# in pairs of a forward one, tokens whose logits were computed. The learner
# takes them out: none is written to the metrics' file.
WORK = ("num_microbatches", "pairs", "pairs_back", "logit_tokens")
# Metrics that say whether an update was finite, as people call them.
_FINITE = {
  "loss": "loss",
  "grad_norm": "gradient norm",
  "param_norm": "norm of the parameters",
}


def nonfinite(metrics) -> str:
  """Returns which of an update's quantities are NaN or infinite, in words.

  Args:
    metrics: of an update, {name: float or float32 []}.
  """
  return ", ".join(
    f"{label} {float(metrics[name])}"
    for name, label in _FINITE.items()
    if not math.isfinite(metrics[name])
  )


def abstract_state(params, optimizer) -> TrainState:
  """Returns the state's shapes; moments are sharded as their parameters are.

  Args:
    params: arrays or shapes, with shardings.
    optimizer: from `make_optimizer`.

  Returns:
    TrainState of shapes with shardings.
  """
  shapes = jax.eval_shape(functools.partial(_init, optimizer), params)
  whole = sharding.replicated(jax.tree.leaves(params)[0].sharding.mesh)
  put = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
  # What one part's optimizer does not hold stands as a MaskedNode.
  is_masked = lambda x: isinstance(x, optax.MaskedNode)
  like = lambda x, param: x if is_masked(x) else put(x, param.sharding)
  return TrainState(
    step=put(shapes.step, whole),
    params=jax.tree.map(like, shapes.params, params),
    opt_state=optax.tree.map_params(
      optimizer,
      like,
      shapes.opt_state,
      params,
      transform_non_params=lambda x: put(x, whole),
      is_leaf=is_masked,
    ),
  )


def make_init(
  optimizer, state: TrainState, config=None, critic: Critic | None = None
) -> Program:
  """Returns the policy's params -> the state before the first step.

  Args:
    optimizer: from `make_optimizer`.
    state: from `abstract_state`.
    config: TransformerConfig; None if there is no critic.
    critic: that is trained beside the policy, if any.
  """

  def init(policy) -> TrainState:
    return _init(optimizer, with_critic(critic, config, policy))

  return Program("learner's state", init, out_shardings=_shardings(state))


def _init(optimizer, params) -> TrainState:
  # A copy, since the update donates the state.
  params = jax.tree.map(jnp.copy, params)
  return TrainState(
    step=jnp.int32(0), params=params, opt_state=optimizer.init(params)
  )


def _shardings(state: TrainState) -> TrainState:
  return jax.tree.map(lambda x: x.sharding, state)


class _Totals(NamedTuple):
  """What is summed over the micro-batches of an update.

  Attributes:
    grads: as the parameters, float32.
    prefixed_grads: those of prefixed trees alone; None unless both kinds are
      there and told apart.
    sums: {name: float32 [2]}, of trees without prefix and of prefixed ones.
    max_gap: float32 [], the largest gap between two log-probabilities of a
      token: the sampler's and the learner's.
    load: float32 [L, 2, experts], see `transformer.forward`.
  """

  grads: Any
  prefixed_grads: Any
  sums: dict[str, jax.Array]
  max_gap: jax.Array
  load: jax.Array


def make_update(
  config,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  loss: losses.Loss,
  *,
  temperature: float,
  chunk_length: int,
  critic: Critic | None = None,
  mixed: bool = False,
  norms_by_kind: bool = False,
  skip_nonfinite: bool = False,
  hold_without_signal: bool = False,
) -> Program:
  """Returns update(state, batch, base_params) -> (state, metrics).

  The loss is a sum over the sampled tokens of all micro-batches divided by
  their count, or by the batch's normalizer, so it does not depend on how they
  are divided into micro-batches. Micro-batches without a tree are left out.

  The function returned takes a TrainState, which is donated (with adapters, it
  is theirs), a TrainBatch of fields [M, B, T], and the base policy's
  parameters, which may be None if all parameters are trained and the loss needs
  no reference. Its metrics are float32 [].

  Args:
    config: TransformerConfig.
    optimizer: from `make_optimizer`.
    state: from `abstract_state`; the new state is sharded alike.
    loss: what is descended, from `losses.make_loss`.
    temperature: what logits are divided by, that of sampling.
    chunk_length: see `action_logprobs`.
    critic: that is trained beside the policy, if any.
    mixed: batches hold prefixed and other trees.
    norms_by_kind: their gradients' norms are told apart, at the price of a
      second sum of gradients.
    skip_nonfinite: where the loss or the gradient is NaN or infinite, the new
      parameters and moments are the old ones; metrics say so, see `nonfinite`.
    hold_without_signal: where no advantage differs from 0, the new parameters
      and moments are the old ones: moments do not decay through a drought.
  """
  of_microbatch = functools.partial(
    _microbatch_loss, config, loss, critic, temperature, chunk_length
  )
  grad = jax.value_and_grad(of_microbatch, has_aux=True)
  backend = backends.of_mesh(state.step.sharding.mesh)

  def update(state: TrainState, batch, base_params):
    with jax.named_scope("gradients"):
      totals = _accumulate(
        lambda rows: grad(state.params, base_params, rows),
        batch,
        _no_totals(config, loss, state.params, mixed and norms_by_kind),
      )
    divisor = jnp.maximum(jnp.sum(totals.sums["tokens"]), 1)
    if batch.normalizer is not None:
      divisor = jnp.maximum(batch.normalizer[0], 1)
    grads = jax.tree.map(lambda g: g / divisor, totals.grads)
    with jax.named_scope("optimizer"):
      updates, opt_state = optimizer.update(
        grads, state.opt_state, state.params
      )
      params = optax.apply_updates(state.params, updates)
    metrics = {
      "grad_norm": optax.tree.norm(grads),
      **_of_totals(config, loss, totals, divisor),
      **_by_kind(totals, divisor, batch.is_prefixed, mixed),
    }
    accepted = jnp.bool_(True)
    if skip_nonfinite:
      of_step = metrics["loss"], metrics["grad_norm"]
      accepted &= jnp.all(jnp.isfinite(jnp.stack(of_step)))
    if hold_without_signal:
      accepted &= jnp.any(batch.advantages != 0)
    if skip_nonfinite or hold_without_signal:
      params, opt_state = jax.tree.map(
        functools.partial(jnp.where, accepted),
        (params, opt_state),
        (state.params, state.opt_state),
      )
    metrics["param_norm"] = optax.tree.norm(_in_float32(params))
    state = TrainState(step=state.step + 1, params=params, opt_state=opt_state)
    return state, metrics

  return Program(
    "update",
    update,
    donate_argnums=0,
    out_shardings=(_shardings(state), None),
    compiler_options=backend.compiler_options(),
  )


def _of_totals(config, loss, totals: _Totals, divisor) -> dict[str, jax.Array]:
  """Returns the metrics that are means over tokens, or counts of work."""
  sums = {name: jnp.sum(values) for name, values in totals.sums.items()}
  count = jnp.maximum(sums["tokens"], 1)
  return {
    "loss": sums["loss"] / divisor,
    **{name: sums[name] / count for name in loss.sums if name != "loss"},
    "logprob_gap": sums["logprob_gap"] / count,
    "logprob_gap_max": totals.max_gap,
    **{name: sums[name] for name in WORK},
    **_balance(config, totals.load),
  }


def _in_float32(tree):
  return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def _microbatch_loss(
  config, loss, critic, temperature, chunk_length, trained, base_params, rows
):
  """Returns the loss of a micro-batch, its sums, largest gap, experts' load.

  Args:
    config, loss, critic, temperature, chunk_length: see `make_update`.
    trained: what is differentiated.
    base_params: of the base policy, or None.
    rows: TrainBatch without its micro-batch axis, fields [B, T].
  """
  attend, pairs = tree_attention.for_layers(config, rows)
  actions_of = functools.partial(
    action_logprobs,
    config,
    rows=rows,
    temperature=temperature,
    chunk_length=chunk_length,
    attend=attend,
    entropy_gradient="entropy" in loss.needs,
  )
  actions = with_values(
    critic, config, base_params, trained, actions_of, rows=rows, attend=attend
  )
  logprobs, mask = actions.logprobs, rows.action_mask
  tokens = losses.Tokens(
    logprobs=logprobs,
    action_mask=mask,
    advantages=rows.advantages,
    behavior_logprobs=rows.behavior_logprobs,
    goes_on=_goes_on(rows),
    weights=rows.weights,
    entropy=actions.entropy,
    values=actions.values,
    old_values=rows.old_values,
    returns=rows.returns,
    is_trace=rows.is_trace,
    kl_coefficient=rows.kl_coefficient,
  )
  if "reference" in loss.needs:
    reference = actions_of(base_params).logprobs
    tokens = tokens._replace(reference_logprobs=reference)
  value, sums = loss.function(tokens)
  gap = jnp.where(mask, jnp.abs(logprobs - rows.behavior_logprobs), 0.0)
  if rows.is_trace is not None:  # whose log-probabilities may be unknown
    gap = jnp.where(rows.is_trace, 0.0, gap)
  sums = {
    "loss": value,
    "tokens": jnp.sum(mask).astype(jnp.float32),
    "entropy": jnp.sum(actions.entropy),
    "logprob_gap": jnp.sum(gap),
    "num_microbatches": jnp.float32(1),
    "pairs": pairs,
    "pairs_back": pairs * tree_attention.backward_passes(rows.tokens.shape[1]),
    "logit_tokens": num_logit_tokens(mask, chunk_length),
    **sums,
  }
  return value, (sums, jnp.max(gap), actions.load)


def _no_totals(config, loss: losses.Loss, params, apart: bool) -> _Totals:
  """Returns the totals of no micro-batch."""
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
  names = {"loss", "tokens", "entropy", "logprob_gap", *loss.sums, *WORK}
  return _Totals(
    grads=zeros,
    prefixed_grads=zeros if apart else None,
    sums={name: jnp.zeros(2) for name in sorted(names)},
    max_gap=jnp.float32(0),
    load=jnp.zeros((config.num_layers, 2, config.num_experts)),
  )


def _accumulate(grad, batch, totals: _Totals) -> _Totals:
  """Adds up the micro-batches that have a tree.

  Args:
    grad: rows -> what `_microbatch_loss` returns, and its gradient.
    batch: TrainBatch.
    totals: to begin with.
  """

  def add(m, totals):
    rows = jax.tree.map(lambda x: x[m], batch)
    (_, (new, gap, load)), grads = grad(rows)
    plus = lambda acc, weight: jax.tree.map(
      lambda a, g: a + weight * g.astype(jnp.float32), acc, grads
    )
    prefixed = totals.prefixed_grads
    if prefixed is not None:
      prefixed = plus(prefixed, rows.is_prefixed.astype(jnp.float32))
    kind = rows.is_prefixed.astype(jnp.int32)
    return _Totals(
      grads=plus(totals.grads, 1.0),
      prefixed_grads=prefixed,
      sums={k: v.at[kind].add(new[k]) for k, v in totals.sums.items()},
      max_gap=jnp.maximum(totals.max_gap, gap),
      load=totals.load + load,
    )

  num_microbatches = jnp.sum(jnp.any(batch.tree > 0, axis=(1, 2)))
  return jax.lax.fori_loop(0, num_microbatches, add, totals)


def _goes_on(rows):
  """Returns where the next token is of the same completion, bool [B, T]."""
  tree, branch, mask = rows.tree, rows.branch, rows.action_mask
  same = (tree[:, 1:] == tree[:, :-1]) & (branch[:, 1:] == branch[:, :-1])
  same &= mask[:, 1:] & mask[:, :-1]
  return jnp.pad(same, ((0, 0), (0, 1)))


def _balance(config, load) -> dict[str, jax.Array]:
  """Returns how evenly experts were used, if there are any."""
  if not config.num_experts:
    return {}
  balance = experts.balance(load)
  return {
    "load_balance": jnp.mean(balance),
    "load_balance_max": jnp.max(balance),
  }


def _by_kind(
  totals: _Totals, divisor, is_prefixed, mixed: bool
) -> dict[str, jax.Array]:
  """Returns entropy and gradient norm of trees without prefix and with one.

  Args:
    totals: of the update.
    divisor: float [], of the objective.
    is_prefixed: bool [M].
    mixed: there may be trees of both kinds.
  """
  entropy, tokens = totals.sums["entropy"], totals.sums["tokens"]
  by_kind = {"entropy": entropy / jnp.maximum(tokens, 1)}
  if not mixed or totals.prefixed_grads is not None:
    norms = _norms_by_kind(totals.grads, totals.prefixed_grads, is_prefixed)
    by_kind["grad_norm"] = jnp.stack(norms) / divisor
  return {
    f"{name}/{what}": values[kind]
    for kind, name in enumerate(("no_prefix", "prefixed"))
    for what, values in by_kind.items()
  }


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
