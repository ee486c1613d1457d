"""Losses as pure functions of per-token arrays, as sums and counts."""

import jax
import jax.numpy as jnp

from prefixrl_jax.learner.advantages import KL_ESTIMATORS


def policy_loss(logprobs, advantages, action_mask):
  """The policy gradient's surrogate, summed over sampled tokens.

  Its gradient is that of sum_t A_t log pi(y_t) (paper, section 3: REINFORCE),
  with sign reversed. Prompt and prefix tokens have no action_mask, and so
  exactly no gradient. With advantages of 1 it is the SFT loss.

  Args:
    logprobs, advantages: float [...]. action_mask: bool [...].

  Returns:
    float [], to be divided by the count of sampled tokens of the whole batch.
  """
  return -jnp.sum(jnp.where(action_mask, advantages * logprobs, 0.0))


def kl_to_reference(logprobs, reference_logprobs, action_mask):
  """Unbiased, non-negative estimate of KL(policy || reference), summed.

  k3 of Schulman's note: exp(d) - d - 1 with d = log reference - log policy. To
  look at: its gradient is not the KL's, see `kl_loss`.

  Args:
    logprobs, reference_logprobs: float [...]. action_mask: bool [...].

  Returns:
    float [].
  """
  log_ratio = jnp.where(action_mask, reference_logprobs - logprobs, 0.0)
  return jnp.sum(jnp.expm1(log_ratio) - log_ratio)


def kl_loss(estimator, logprobs, reference_logprobs, action_mask, same_lane):
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
    logprobs, reference_logprobs: float [..., T]; the reference has no gradient.
    action_mask: bool [..., T].
    same_lane: bool [..., T], the next token is of the same completion.

  Returns:
    float []; with "k1" its value says nothing.
  """
  reference_logprobs = jax.lax.stop_gradient(reference_logprobs)
  if estimator == "k3":
    return kl_to_reference(logprobs, reference_logprobs, action_mask)
  gap = jnp.where(action_mask, logprobs - reference_logprobs, 0.0)
  if estimator == "k2":
    return jnp.sum(jnp.square(gap)) / 2
  if estimator != "k1":
    raise ValueError(f"{estimator!r} is none of {KL_ESTIMATORS}")
  to_come = jax.lax.stop_gradient(_sum_to_end(gap, same_lane))
  return -policy_loss(logprobs, to_come, action_mask)


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
