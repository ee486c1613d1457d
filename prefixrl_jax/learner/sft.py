"""Supervised learning: the policy's update with every advantage 1."""

from collections.abc import Sequence

import numpy as np

from prefixrl_jax.learner.packing import Lane, Tree
from prefixrl_jax.rounding import ceil_div


def example(prompt: np.ndarray, completion: np.ndarray) -> Tree:
  """Returns a tree that teaches one completion.

  With advantages of 1 the loss is the negative log-likelihood summed over
  the completion's tokens; `update` divides it by the tokens of the whole
  batch, never by micro-batch or device means (arXiv 2604.23747).

  Args:
    prompt: int [prompt length].
    completion: int [completion length], its stop token too.
  """
  ones = np.ones(len(completion), np.float32)
  lane = Lane(len(prompt), completion, 0 * ones, ones)
  return Tree(prompt, [lane], is_prefixed=False)


def num_steps(num_examples: int, batch_size: int, epochs: int) -> int:
  """Returns how many steps a number of epochs take; each ends with its rest.

  Args:
    num_examples: examples of an epoch.
    batch_size: examples a step.
    epochs: how many.
  """
  return epochs * ceil_div(num_examples, batch_size)


def batch(
  examples: Sequence[Tree], batch_size: int, step: int, seed: int
) -> list[Tree]:
  """Returns what a step trains on, a function of (seed, step) alone.

  Every epoch has an order of its own.

  Args:
    examples: from `example`, always in the same order.
    batch_size: examples a step.
    step: from 0.
    seed: seed for the order of each epoch.
  """
  epoch, i = divmod(step, num_steps(len(examples), batch_size, epochs=1))
  order = np.random.default_rng([seed, epoch]).permutation(len(examples))
  return [examples[j] for j in order[i * batch_size : (i + 1) * batch_size]]
