"""From the rewards of a group to the advantages of its completions."""

import numpy as np

ESTIMATORS = ("group_mean", "leave_one_out", "group_std")
# Of the KL's gradient: see `losses.kl_loss`. (Here, for those who know no jax.)
KL_ESTIMATORS = ("k1", "k2", "k3")


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
