"""Losses as pure functions of per-token arrays, as sums and counts."""

import jax.numpy as jnp


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

  k3 of Schulman's note: exp(d) - d - 1 with d = log reference - log policy.

  Args:
    logprobs, reference_logprobs: float [...]. action_mask: bool [...].

  Returns:
    float [].
  """
  log_ratio = jnp.where(action_mask, reference_logprobs - logprobs, 0.0)
  return jnp.sum(jnp.expm1(log_ratio) - log_ratio)
