"""From the rewards of a group to the advantages of its completions."""

import numpy as np

ESTIMATORS = ("group_mean", "leave_one_out", "group_std")


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


def discounted(advantage: float, length: int, discount: float) -> np.ndarray:
  """Spreads a completion's advantage over its tokens, float32 [length].

  The reward comes with the last token, so the token that has k more to come
  is credited discount**k of it.
  """
  remaining = np.arange(length - 1, -1, -1)
  return (advantage * discount**remaining).astype(np.float32)
