"""Losses: pure functions of the per-token arrays of a micro-batch.

A loss sums over the sampled tokens; the update divides by how many there are in
the whole batch. To add one, write it here, give it an entry of `LOSSES`, and
its options one of `LOSSES` in settings/fields.py (docs/extending.md).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prefixrl_jax.learner.advantages import KL_ESTIMATORS

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
    reference_logprobs: float32, of the base policy; None unless the loss needs
      "reference".
  """

  logprobs: Any
  action_mask: Any
  advantages: Any
  behavior_logprobs: Any
  goes_on: Any
  reference_logprobs: Any = None


class Loss(NamedTuple):
  """A loss, and what must be there for it.

  Attributes:
    function: Tokens -> (float [], what is descended; {name: float []}, further
      sums over the tokens, which become metrics a token). A sum named "loss"
      takes the place of the first in the metrics.
    needs: of "reference" (the base policy's log-probabilities).
    sums: names of the further sums.
  """

  function: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
  needs: frozenset[str] = frozenset()
  sums: tuple[str, ...] = ()


def make_loss(
  name: str,
  *,
  kl_coefficient: float = 0.0,
  kl_estimator: str = "k3",
  **options: Any,
) -> Loss:
  """Returns a loss of `LOSSES`, with a KL to the base policy if it has weight.

  Args:
    name: a key of LOSSES.
    kl_coefficient: weight of the KL per token; 0 leaves it out.
    kl_estimator: what of the KL is descended, see `kl_loss`.
    **options: the loss's own, see its function.

  Raises:
    KeyError: there is no such loss.
  """
  loss = LOSSES[name]
  loss = loss._replace(function=functools.partial(loss.function, **options))
  if not kl_coefficient:
    return loss

  def with_kl(tokens: Tokens):
    value, sums = loss.function(tokens)
    args = tokens.logprobs, tokens.reference_logprobs, tokens.action_mask
    distance = kl_loss(kl_estimator, *args, tokens.goes_on)
    sums = {"loss": value, **sums, "kl": kl_to_reference(*args)}
    return value + kl_coefficient * distance, sums

  return Loss(with_kl, loss.needs | {"reference"}, ("loss", *loss.sums, "kl"))


def policy_gradient(tokens: Tokens):
  """REINFORCE; with advantages of 1, maximum likelihood.

  -sum_t A_t log pi(y_t): its gradient is the policy gradient's (paper, section
  3), with sign reversed. Prompt and prefix tokens have no action_mask, and so
  exactly no gradient.

  Args:
    tokens: arrays [B, T] of a micro-batch.

  Returns:
    float [], and no further sums.
  """
  weighted = tokens.advantages * tokens.logprobs
  return -masked_sum(weighted, tokens.action_mask), {}


def clipped(tokens: Tokens, *, clip_low: float, clip_high: float):
  """PPO's surrogate: a token's ratio pays no further than the clip.

  max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), summed over the sampled
  tokens, with r = policy / behavior policy of a token (arXiv 1707.06347,
  equation 7).

  Args:
    tokens: arrays [B, T] of a micro-batch.
    clip_low: how far the ratio may go below 1.
    clip_high: how far the ratio may go above 1.

  Returns:
    float [], and {"clipped": float [], how many tokens the clip held back}.
  """
  mask, advantages = tokens.action_mask, tokens.advantages
  log_ratio = jnp.clip(
    jnp.where(mask, tokens.logprobs - tokens.behavior_logprobs, 0.0),
    -_MAX_LOG_RATIO,
    _MAX_LOG_RATIO,
  )
  ratio = jnp.exp(log_ratio)
  plain = -advantages * ratio
  held = -advantages * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  return masked_sum(jnp.maximum(plain, held), mask), {
    "clipped": masked_sum(held > plain, mask)
  }


def masked_sum(x, action_mask):
  """Returns the sum over the sampled tokens: float [].

  Args:
    x: float or bool [...].
    action_mask: bool [...].
  """
  return jnp.sum(jnp.where(action_mask, x, 0.0))


def kl_to_reference(logprobs, reference_logprobs, action_mask):
  """Unbiased, non-negative estimate of KL(policy || reference), summed.

  k3 of Schulman's note: exp(d) - d - 1 with d = log reference - log policy. To
  look at: its gradient is not the KL's, see `kl_loss`.

  Args:
    logprobs: float [...], of the policy.
    reference_logprobs: float [...], of the base policy.
    action_mask: bool [...].

  Returns:
    float [].
  """
  log_ratio = jnp.where(action_mask, reference_logprobs - logprobs, 0.0)
  return jnp.sum(jnp.expm1(log_ratio) - log_ratio)


def kl_loss(estimator, logprobs, reference_logprobs, action_mask, goes_on):
  """What to descend to come nearer to the reference, summed.

  On-policy, and with d = log policy - log reference of a token, its expected
  gradient is that of (arXiv 2506.09477)

    "k1": KL(policy || reference) of whole completions: a token is weighed with
      the sum of d from it to its completion's end.
    "k2": KL(policy || reference) of the next token, summed over the places that
      the policy comes to, which are taken as given; d**2 / 2.
    "k3": KL(reference || policy) of the next token, summed likewise: GRPO's
      term, `kl_to_reference` as a loss. It draws the policy to wherever the
      reference goes, not away from where the reference does not.

  Args:
    estimator: one of `advantages.KL_ESTIMATORS`.
    logprobs: float [..., T], of the policy.
    reference_logprobs: float [..., T], of the base policy; has no gradient.
    action_mask: bool [..., T].
    goes_on: bool [..., T], the next token is of the same completion.

  Returns:
    float []; with "k1" its value says nothing.

  Raises:
    ValueError: there is no such estimator.
  """
  reference_logprobs = jax.lax.stop_gradient(reference_logprobs)
  if estimator == "k3":
    return kl_to_reference(logprobs, reference_logprobs, action_mask)
  gap = jnp.where(action_mask, logprobs - reference_logprobs, 0.0)
  if estimator == "k2":
    return jnp.sum(jnp.square(gap)) / 2
  if estimator != "k1":
    raise ValueError(f"{estimator!r} is none of {KL_ESTIMATORS}")
  to_come = jax.lax.stop_gradient(_sum_to_end(gap, goes_on))
  return masked_sum(to_come * logprobs, action_mask)


def _sum_to_end(x, goes_on):
  """Returns sums of x [..., T] from each place to where it goes on no more."""

  def join(later, earlier):
    on, total = earlier
    later_on, later_total = later
    return on & later_on, total + jnp.where(on, later_total, 0)

  axis = x.ndim - 1
  return jax.lax.associative_scan(join, (goes_on, x), reverse=True, axis=axis)[
    1
  ]


LOSSES = {
  "policy_gradient": Loss(policy_gradient),
  "clipped": Loss(clipped, sums=("clipped",)),
}
