"""Supervised learning: the policy's update with every advantage 1."""

import numpy as np

from prefixrl_jax.learner.packing import Lane, Tree


def example(prompt: np.ndarray, completion: np.ndarray) -> Tree:
  """Returns a tree that teaches one completion.

  With advantages of 1 the loss is the negative log-likelihood summed over
  the completion's tokens; `update` divides it by the tokens of the whole
  batch, never by micro-batch or device means (arXiv 2604.23747).

  Args:
    prompt: int [prompt length]. completion: int [length], its stop token too.
  """
  ones = np.ones(len(completion), np.float32)
  lane = Lane(len(prompt), completion, 0 * ones, ones)
  return Tree(prompt, [lane], is_prefixed=False)


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
  """Returns the order of an epoch, a function of (seed, epoch) alone."""
  return np.random.default_rng([seed, epoch]).permutation(num_examples)
