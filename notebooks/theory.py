# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why it works, in exact numbers
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/ORGANISATION/prefixrl_jax/blob/main/notebooks/theory.ipynb)
#
# Three statements about learning from prefixes, each on a problem so small that
# every expectation is computed and nothing is sampled: prefixes separate what is
# learnt in exponential from what is learnt in polynomial time; they raise the
# gradient's signal above its noise; and they do not change what is best, under a
# condition. The statements are the paper's
# ([arXiv 2601.18795](https://arxiv.org/abs/2601.18795)); these experiments are ours.

# %%
# Installs the package if it is not there; on Colab choose a CPU or a TPU.
import importlib.util
import subprocess
import sys

SOURCE = "git+https://github.com/ORGANISATION/prefixrl_jax"
if not importlib.util.find_spec("prefixrl_jax"):
  package = f"prefixrl_jax[notebooks] @ {SOURCE}"
  subprocess.check_call([sys.executable, "-m", "pip", "install", package])

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np

# %% [markdown]
# ## Separation: a hidden string
#
# The reward is 1 if all of $H$ bits are those of a hidden string. The policy has a
# number for each position, $p_t = \sigma(\theta_t)$ is its probability of the right
# bit, and all begin at one half. Then $J = \prod_t p_t$, and its gradient in
# $\theta_t$ is $J (1 - p_t)$: at first $2^{-H}/2$, next to nothing.
#
# With a prefix of $k$ right bits the return is $\prod_{t > k} p_t$ instead. The mean
# over all cuts has terms that are large from the start: the last bit after a prefix
# of all others is right half of the time.


# %%
def gradient(p, cuts):
  """Returns the mean over cuts of d(return)/d(theta), exactly."""
  total = np.zeros_like(p)
  for k in cuts:
    total[k:] += np.prod(p[k:]) * (1 - p[k:])
  return total / len(cuts)


def steps_to_learn(length, cuts, rate=4.0):
  """Returns how many exact steps it takes until J = 0.9."""
  theta, steps = np.zeros(length), 0
  while np.prod(p := 1 / (1 + np.exp(-theta))) < 0.9:
    theta += rate * gradient(p, cuts)
    steps += 1
  return steps


# %%
lengths = range(2, 17)
alone = [steps_to_learn(n, [0]) for n in lengths]
prefixed = [steps_to_learn(n, range(n)) for n in lengths]
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(lengths, alone, marker="o", color="#2c6fbb", label="RL")
axes.plot(lengths, prefixed, marker="o", color="#c0392b", label="all cuts")
axes.set_yscale("log")
axes.set_xlabel("Length of the string, bits")
axes.set_ylabel("Exact gradient steps")
axes.legend()
plt.show()

# %% [markdown]
# RL's steps come close to doubling with each bit (a straight line on this axis).
# With prefixes they grow much more slowly: the last bits are learnt first, and each
# makes the one before it learnable. (Short strings need no prefixes.) And that is with exact gradients; with samples RL has nothing
# at all to learn from until a first success, after about $2^H$ attempts.

# %%
print("RL, steps by length:      ", dict(zip(lengths, alone)))
print("prefixes, steps by length:", dict(zip(lengths, prefixed)))
print("RL, each bit multiplies by", round(alone[-1] / alone[-2], 2))

# %% [markdown]
# ## Variance: signal and noise of one gradient
#
# The policy-gradient estimate of a completion is reward times score. Its mean and
# its variance are sums over all completions, of which there are few enough to list
# them. Below: the mean's norm over the standard deviation, and the chance that the
# rewards of a group of eight are not all the same, without which GRPO and REINFORCE
# with a group's mean learn nothing.


# %%
def signal_to_noise(length, given, p=0.5):
  """Returns |mean| / deviation of reward times score, by enumeration."""
  mean, square = np.zeros(length - given), 0.0
  for bits in itertools.product((0, 1), repeat=length - given):
    right = np.array(bits)
    chance = np.prod(np.where(right, p, 1 - p))
    estimate = float(right.all()) * (right - p)
    mean += chance * estimate
    square += chance * estimate @ estimate
  return np.linalg.norm(mean) / np.sqrt(square - mean @ mean)


def has_signal(length, given, group=8, p=0.5):
  """Returns the probability that a group has right and wrong completions."""
  right = p ** (length - given)
  return 1 - right**group - (1 - right) ** group


# %%
LENGTH = 12
given = np.arange(LENGTH)
figure, axes = plt.subplots(figsize=(6, 3))
ratio = [signal_to_noise(LENGTH, k) for k in given]
chance = [has_signal(LENGTH, k) for k in given]
axes.plot(
  given / LENGTH, ratio, marker="o", color="#c0392b", label="|mean| / sd"
)
axes.plot(given / LENGTH, chance, marker="o", color="#2c6fbb", label="signal")
axes.set_xlabel("Share revealed")
axes.legend()
plt.show()

# %% [markdown]
# ## Consistency: what is best stays best
#
# If the traces are right and **one** policy of the class fits them all, a policy
# that maximises the PrefixRL objective maximises $J$. The condition matters. Take
# two problems and a policy with a single number $\theta$, the probability of a 1 in
# both places of either answer. Problem X accepts 11 and 00, problem Y 00 alone:
# $J = \frac12(\theta^2 + (1-\theta)^2) + \frac12(1-\theta)^2$, best at $\theta = 0$.
#
# The trace 00 of X agrees with that policy. The trace 11 of X is right as well, yet
# no policy of the class writes 11 for X and 00 for Y.

# %%
theta = np.linspace(0, 1, 1001)
no_prefix = 0.5 * (theta**2 + (1 - theta) ** 2) + 0.5 * (1 - theta) ** 2
after = {"prefix 0, of the trace 00": 1 - theta, "prefix 1, of 11": theta}
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(theta, no_prefix, color="#777777", label="J, no prefix")
for (name, line), colour in zip(after.items(), ("#2c6fbb", "#c0392b")):
  objective = 0.25 * no_prefix + 0.75 * line
  best = theta[objective.argmax()]
  axes.plot(theta, objective, color=colour, label=name)
  axes.axvline(best, color=colour, linestyle=":")
  print(
    f"{name}: best theta {best:.2f}, where J = {no_prefix[objective.argmax()]:.2f}"
  )
axes.set_xlabel("theta")
axes.legend()
plt.show()

# %% [markdown]
# With traces that one policy can write the maximum is where J has its own; with
# the other ones it is not. Real policies are large enough to fit a trace each,
# which is why the condition is mild there.
#
# One thing a table cannot show: states before the earliest cut are never trained,
# so a policy with a number for every state would learn nothing there.
# Back-generalization needs shared parameters; [prefixes](prefixes.ipynb) shows it
# on a network.

# %% [markdown]
# ## Where to go on
#
# - [The method in one page](../docs/method.md).
# - [quickstart](quickstart.ipynb): the same separation with a transformer.
# - [How PrefixRL takes off, over twenty seeds](../docs/evidence.md).
