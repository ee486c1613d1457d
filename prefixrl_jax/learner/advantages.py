"""From the rewards of a group to the advantages of its completions' tokens."""

from collections.abc import Sequence

import numpy as np

ESTIMATORS = ("group_mean", "leave_one_out", "group_std")
# The critic's, of each token: `gae`.
GAE = "gae"
# The rest is of losses; it stands here for those who know no jax.
# Of the KL's gradient: see `kl.kl_loss`.
KL_ESTIMATORS = ("k1", "k2", "k3")
# What an importance ratio is of: see `losses.policy_gradient`.
IMPORTANCE = ("none", "token", "sequence", "trajectory")
# What a batch's sum over tokens is divided by: "token", its sampled tokens;
# "length", its completions times the longest that is possible (Dr. GRPO, arXiv
# 2503.20783); "sequence", its completions, each the mean over its tokens.
NORMALIZATIONS = ("token", "length", "sequence")


def advantages(rewards: np.ndarray, estimator: str) -> np.ndarray:
  """Returns the advantage of each completion of each group.

  A group whose rewards are all equal gets exact zeros, whatever the
  estimator: its standard deviation is never divided by.

  Args:
    rewards: float [groups, n].
    estimator: "group_mean" (REINFORCE with the group's mean as baseline, the
      paper's), "leave_one_out" (RLOO: the mean of the others) or "group_std"
      (GRPO: divided by the group's standard deviation).

  Returns:
    float32 [groups, n].

  Raises:
    ValueError: there is no such estimator.
  """
  rewards = np.asarray(rewards, np.float64)
  n = rewards.shape[1]
  centred = rewards - rewards.mean(axis=1, keepdims=True)
  if estimator == "leave_one_out":
    centred = centred * (n / (n - 1)) if n > 1 else 0 * centred
  elif estimator == "group_std":
    std = rewards.std(axis=1, keepdims=True)
    centred = centred / np.where(std > 0, std, 1)
  elif estimator != "group_mean":
    raise ValueError(f"{estimator!r} is none of {ESTIMATORS}")
  equal = np.ptp(rewards, axis=1, keepdims=True) == 0
  return np.where(equal, 0.0, centred).astype(np.float32)


def discounted(
  rewards: np.ndarray, lengths: np.ndarray, discount: float
) -> np.ndarray:
  """Returns rewards as the first token sees them, float64 of their shape.

  A reward comes with the last token. What is made of this by `advantages`
  weighs every token of a completion alike: that is the gradient of the expected
  discounted reward, discount**t of the policy gradient theorem included.

  Args:
    rewards: float [...], of each completion.
    lengths: int [...], tokens of each completion.
    discount: what a token later multiplies a reward by, in (0, 1].
  """
  return np.asarray(rewards, np.float64) * discount ** (np.asarray(lengths) - 1)


def gae(
  rewards: np.ndarray, values: np.ndarray, discount: float, decay: float
) -> np.ndarray:
  """Returns generalised advantages of one completion's tokens, float64 [T].

  delta_t = r_t + discount V_{t+1} - V_t with V = 0 after the last token, and
  A_t = delta_t + discount decay A_{t+1} (arXiv 1506.02438, equation 16). With
  both 1, A = the sum of rewards to come - V.

  Args:
    rewards: float [T], of each token; an outcome's is the last token's.
    values: float [T], expected returns at each token, before it is chosen.
    discount: gamma.
    decay: lambda.
  """
  rewards, values = np.asarray(rewards, float), np.asarray(values, float)
  deltas = rewards + discount * np.append(values[1:], 0.0) - values
  result = np.empty_like(deltas)
  later = 0.0
  for t in reversed(range(len(deltas))):
    result[t] = later = deltas[t] + discount * decay * later
  return result


def whitened(advantages: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Returns advantages with mean 0 and variance 1 over all tokens together.

  Equal ones become 0, whatever their value.

  Args:
    advantages: float [T] of each completion.
  """
  together = np.concatenate([np.asarray(a, np.float64) for a in advantages])
  mean, variance = together.mean(), together.var()
  return [(a - mean) / np.sqrt(variance + 1e-8) for a in advantages]
