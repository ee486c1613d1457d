"""Distances of a policy from the base policy: to look at, and to descend."""

import jax
import jax.numpy as jnp

from prefixrl_jax.learner.advantages import KL_ESTIMATORS
from prefixrl_jax.learner.segments import sum_to_end


def kl_to_reference(logprobs, reference_logprobs, action_mask):
  """Unbiased, non-negative estimate of KL(policy || reference) of each token.

  k3 of Schulman's note: exp(d) - d - 1 with d = log reference - log policy. To
  look at: its gradient is not the KL's, see `kl_loss`.

  Args:
    logprobs: float [...], of the policy.
    reference_logprobs: float [...], of the base policy.
    action_mask: bool [...].

  Returns:
    float [...], 0 where action_mask is false.
  """
  log_ratio = jnp.where(action_mask, reference_logprobs - logprobs, 0.0)
  return jnp.expm1(log_ratio) - log_ratio


def kl_loss(estimator, logprobs, reference_logprobs, action_mask, goes_on):
  """What to descend to come nearer to the reference, by token.

  On-policy, and with d = log policy - log reference of a token, the sum's
  expected gradient is that of (arXiv 2506.09477)

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
    float [..., T], 0 where action_mask is false; with "k1" its value says
    nothing.

  Raises:
    ValueError: there is no such estimator.
  """
  reference_logprobs = jax.lax.stop_gradient(reference_logprobs)
  if estimator == "k3":
    return kl_to_reference(logprobs, reference_logprobs, action_mask)
  gap = jnp.where(action_mask, logprobs - reference_logprobs, 0.0)
  if estimator == "k2":
    return jnp.square(gap) / 2
  if estimator != "k1":
    raise ValueError(f"{estimator!r} is none of {KL_ESTIMATORS}")
  to_come = jax.lax.stop_gradient(sum_to_end(gap, goes_on))
  return jnp.where(action_mask, to_come * logprobs, 0.0)
