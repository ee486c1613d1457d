"""Losses: pure functions of the per-token arrays of a micro-batch.

A loss sums over the sampled tokens; the update divides by a normalizer of the
whole batch (`advantages.NORMALIZATIONS`). To add one, write it here, give it an
entry of `LOSSES`, and its options one of `LOSSES` in settings/learner_fields.py
(docs/extending.md).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prefixrl_jax.learner.advantages import IMPORTANCE
from prefixrl_jax.learner.kl import kl_loss, kl_to_reference
from prefixrl_jax.learner.segments import sum_of_completion

# Log-ratios are cut off here, so that no ratio overflows.
_MAX_LOG_RATIO = 20.0


class Tokens(NamedTuple):
  """What a loss is a function of: arrays [B, T], aligned with the tokens.

  Attributes:
    logprobs: float32, of the policy, 0 where action_mask is false; the one that
      carries a gradient.
    action_mask: bool, true on sampled tokens alone.
    advantages: float32.
    behavior_logprobs: float32, of the policy that sampled the tokens.
    goes_on: bool, the next token is of the same completion.
    weights: float32, of a token in the objective; None: all 1.
    reference_logprobs: float32, of the base policy; None unless the loss needs
      "reference".
    entropy: float32, of the next token's distribution, with a gradient; None
      unless the loss needs "entropy".
    values: float32, the critic's, with a gradient; None unless the loss needs
      "values", as are the next two.
    old_values: float32, the critic's before the batch's first update.
    returns: float32, what values are to predict.
    is_trace: bool, of a stored trace, not of the policy's own; None unless the
      loss needs "traces".
    kl_coefficient: float32 [], in place of the loss's own; None unless it is
      adapted.
  """

  logprobs: Any
  action_mask: Any
  advantages: Any
  behavior_logprobs: Any
  goes_on: Any
  weights: Any = None
  reference_logprobs: Any = None
  entropy: Any = None
  values: Any = None
  old_values: Any = None
  returns: Any = None
  is_trace: Any = None
  kl_coefficient: Any = None

  def total(self, x):
    """Returns x [B, T] summed over the sampled tokens by their weights."""
    return masked_sum(
      x if self.weights is None else self.weights * x, self.action_mask
    )


class Loss(NamedTuple):
  """A loss, and what must be there for it.

  Attributes:
    function: Tokens -> (float [], what is descended; {name: float []}, further
      sums over the tokens, which become metrics a token). A sum named "loss"
      takes the place of the first in the metrics.
    needs: of "reference" (the base policy's log-probabilities), "entropy" (its
      gradient), "values" (a critic's), "traces" (which tokens are a trace's),
      "weights" (of tokens) and "kl_coefficient" (adapted by the batch).
    sums: names of the further sums.
    normalization: what the sum is divided by, one of
      `advantages.NORMALIZATIONS`.
    trace_mean: see `make_loss`.
  """

  function: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
  needs: frozenset[str] = frozenset()
  sums: tuple[str, ...] = ()
  normalization: str = "token"
  trace_mean: bool = False


def make_loss(
  name: str,
  *,
  kl_coefficient: float = 0.0,
  kl_estimator: str = "k3",
  adapts_kl: bool = False,
  entropy_coefficient: float = 0.0,
  normalization: str = "token",
  trace_mean: bool = False,
  **options: Any,
) -> Loss:
  """Returns a loss of `LOSSES`, with what is added to any of them.

  It is the same one for the same settings.

  Args:
    name: a key of LOSSES.
    kl_coefficient: weight of the KL per token; 0 leaves it out.
    kl_estimator: which estimate of the KL is minimised, see `kl.kl_loss`.
    adapts_kl: the coefficient comes with each batch.
    entropy_coefficient: weight of the entropy bonus per token; 0 leaves it out.
    normalization: one of `advantages.NORMALIZATIONS`.
    trace_mean: traces count by the mean over all of their tokens, whatever the
      normalization.
    **options: the loss's own, see its function.

  Raises:
    KeyError: there is no such loss.
  """
  return _with_terms(
    LOSSES[name],
    kl_coefficient,
    kl_estimator,
    adapts_kl,
    entropy_coefficient,
    normalization,
    trace_mean,
    **options,
  )


@functools.cache
def _with_terms(
  loss: Loss,
  kl_coefficient: float,
  kl_estimator: str,
  adapts_kl: bool,
  entropy_coefficient: float,
  normalization: str,
  trace_mean: bool,
  **options: Any,
) -> Loss:
  own = functools.partial(loss.function, **options)
  needs, sums = set(loss.needs), loss.sums
  if normalization == "sequence" or trace_mean:
    needs.add("weights")
  if kl_coefficient:
    needs |= {"reference"} | ({"kl_coefficient"} if adapts_kl else set())
    sums = ("loss", *sums, "kl")
  if entropy_coefficient:
    needs.add("entropy")
    sums = sums if "loss" in sums else ("loss", *sums)

  def function(tokens: Tokens):
    value, of_loss = own(tokens)
    if "loss" in sums:
      of_loss = {"loss": value, **of_loss}
    if kl_coefficient:
      args = tokens.logprobs, tokens.reference_logprobs, tokens.action_mask
      distance = kl_loss(kl_estimator, *args, tokens.goes_on)
      weight = tokens.kl_coefficient if adapts_kl else kl_coefficient
      value = value + weight * tokens.total(distance)
      of_loss |= {"kl": jnp.sum(kl_to_reference(*args))}
    if entropy_coefficient:
      value = value - entropy_coefficient * tokens.total(tokens.entropy)
    return value, of_loss

  return Loss(function, frozenset(needs), sums, normalization, trace_mean)


def policy_gradient(
  tokens: Tokens,
  *,
  importance: str = "none",
  clip_low: float = 0.0,
  clip_high: float = 0.0,
  dual_clip: float = 0.0,
  detached: bool = False,
):
  """The policy gradient, by choice with an importance ratio and its clips.

  Without a ratio, REINFORCE: -sum_t A_t log pi(y_t), whose gradient is the
  policy gradient's (paper, section 3), with sign reversed; with advantages of
  1, maximum likelihood. Prompt and prefix tokens have no action_mask, and so
  exactly no gradient.

  With a ratio r of policy and behavior policy, -A r; clipped, PPO's surrogate
  max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)) (arXiv 1707.06347, equation
  7). Detached, -sg(clip(r)) A log pi: CISPO (2506.13585), and truncated
  importance sampling.

  Args:
    tokens: arrays [B, T] of a micro-batch.
    importance: what the ratio is of. "none"; "token"; "sequence": the geometric
      mean over a completion's tokens, its gradient that of each token's own
      ratio (GSPO, arXiv 2507.18071); "trajectory": the product over a
      completion, with a gradient only if not detached.
    clip_low: how far a ratio may go below 1; 0: any.
    clip_high: how far a ratio may go above 1; 0: any.
    dual_clip: c of dual-clip PPO (arXiv 1912.09729): with A < 0, a token costs
      no more than -c A; 0: any.
    detached: the ratio only weighs log pi.

  Returns:
    float [], and {"clipped": float [], how many tokens the clip held back}.
  """
  mask, advantages = tokens.action_mask, tokens.advantages
  nothing = {"clipped": jnp.float32(0)}
  if importance == "none":
    return -tokens.total(advantages * tokens.logprobs), nothing
  ratio = _ratio(tokens, importance)
  low = 1 - clip_low if clip_low else -jnp.inf
  high = 1 + clip_high if clip_high else jnp.inf
  clipped = jnp.clip(ratio, low, high)
  if detached:
    weight = jax.lax.stop_gradient(clipped)
    return -tokens.total(weight * advantages * tokens.logprobs), {
      "clipped": masked_sum(clipped != ratio, mask)
    }
  plain, held = -advantages * ratio, -advantages * clipped
  loss = jnp.maximum(plain, held)
  is_held = held > plain
  if dual_clip:
    limit = -dual_clip * advantages
    is_above = (advantages < 0) & (loss > limit)
    loss, is_held = jnp.where(is_above, limit, loss), is_held | is_above
  return tokens.total(loss), {"clipped": masked_sum(is_held, mask)}


def ppo(
  tokens: Tokens,
  *,
  clip_low: float,
  clip_high: float,
  dual_clip: float = 0.0,
  value_clip: float,
  value_coefficient: float,
):
  """PPO: the clipped surrogate of tokens, and the critic's clipped error.

  The critic's is max((V - G)^2, (clip(V, V_old +- value_clip) - G)^2) / 2
  (arXiv 1707.06347; the clip is of its authors' code).

  Args:
    tokens: arrays [B, T] of a micro-batch.
    clip_low: see `policy_gradient`.
    clip_high: see `policy_gradient`.
    dual_clip: see `policy_gradient`.
    value_clip: how far a value may move from what it was; 0: any.
    value_coefficient: weight of the critic's error.

  Returns:
    float [], and the sums "clipped", "value_loss" and "value_clipped".
  """
  surrogate, sums = policy_gradient(
    tokens,
    importance="token",
    clip_low=clip_low,
    clip_high=clip_high,
    dual_clip=dual_clip,
  )
  error = jnp.square(tokens.values - tokens.returns)
  worst = error
  if value_clip:
    moved = tokens.values - tokens.old_values
    held = tokens.old_values + jnp.clip(moved, -value_clip, value_clip)
    worst = jnp.maximum(error, jnp.square(held - tokens.returns))
  value_loss = tokens.total(worst) / 2
  return surrogate + value_coefficient * value_loss, {
    "policy_loss": surrogate,
    **sums,
    "value_loss": masked_sum(worst, tokens.action_mask) / 2,
    "value_clipped": masked_sum(worst > error, tokens.action_mask),
  }


def luffy(tokens: Tokens, *, shaping: str, shift: float = 0.1):
  """LUFFY: on-policy tokens by their ratio, a trace's by a shaped probability.

  -A r for the policy's own tokens, without a clip; -A f(pi) for a trace's,
  whose behavior probability is taken as 1 (arXiv 2504.14945, equation 8).

  Args:
    tokens: arrays [B, T] of a micro-batch.
    shaping: f. "ratio": x / (x + shift); "sqrt": the root of x; "log": log x,
      maximum likelihood.
    shift: of "ratio".

  Returns:
    float [], and {"trace_probability": float [], summed over traces' tokens}.
  """
  mask, is_trace = tokens.action_mask, tokens.is_trace
  logprobs = jnp.where(is_trace & mask, tokens.logprobs, 0.0)
  probability = jnp.exp(logprobs)
  shaped = {
    "ratio": probability / (probability + shift),
    "sqrt": jnp.exp(logprobs / 2),
    "log": logprobs,
  }[shaping]
  gain = jnp.where(is_trace, shaped, _ratio(tokens, "token"))
  return -tokens.total(tokens.advantages * gain), {
    "trace_probability": masked_sum(probability * is_trace, mask)
  }


def _ratio(tokens: Tokens, importance: str):
  """Returns policy / behavior policy, float [B, T]; see `policy_gradient`."""
  mask = tokens.action_mask
  gap = jnp.where(mask, tokens.logprobs - tokens.behavior_logprobs, 0.0)
  if importance == "sequence":
    length = sum_of_completion(mask.astype(jnp.float32), tokens.goes_on)
    mean = sum_of_completion(gap, tokens.goes_on) / jnp.maximum(length, 1)
    # The value is the sequence's, the gradient the token's own.
    own = tokens.logprobs - jax.lax.stop_gradient(tokens.logprobs)
    gap = jax.lax.stop_gradient(mean) + jnp.where(mask, own, 0.0)
  elif importance == "trajectory":
    gap = sum_of_completion(gap, tokens.goes_on)
  elif importance != "token":
    raise ValueError(f"{importance!r} is none of {IMPORTANCE}")
  return jnp.exp(jnp.clip(gap, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))


def masked_sum(x, action_mask):
  """Returns the sum over the sampled tokens: float [].

  Args:
    x: float or bool [...].
    action_mask: bool [...].
  """
  return jnp.sum(jnp.where(action_mask, x, 0.0))


LOSSES = {
  "policy_gradient": Loss(policy_gradient, sums=("clipped",)),
  "ppo": Loss(
    ppo,
    needs=frozenset({"values"}),
    sums=("policy_loss", "clipped", "value_loss", "value_clipped"),
  ),
  "luffy": Loss(
    luffy,
    needs=frozenset({"traces"}),
    sums=("trace_probability",),
  ),
}
