"""A policy small enough to look at everything that it can say."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np


class Tabular:
  """Tokens 0, 1 and 2, of which 0 stops; at most three of them.

  Attributes:
    every: all completions.
    table: float64 [states, 3], logits; a state is what has been said so far.
  """

  def __init__(self, seed: int):
    stop, most = 0, 3
    self.every = [
      tokens
      for n in range(1, most + 1)
      for tokens in itertools.product(range(3), repeat=n)
      if stop not in tokens[:-1] and (n == most or tokens[-1] == stop)
    ]
    self.states = sorted({t[:i] for t in self.every for i in range(len(t))})
    rng = np.random.default_rng(seed)
    self.table = rng.normal(size=(len(self.states), 3))
    self._state = np.zeros((len(self.every), most), int)
    self._token = np.zeros_like(self._state)
    self.mask = np.zeros(self._state.shape, bool)
    for i, tokens in enumerate(self.every):
      for t, token in enumerate(tokens):
        self._state[i, t] = self.states.index(tokens[:t])
        self._token[i, t] = token
        self.mask[i, t] = True

  def of_tokens(self, table):
    """Returns each token's log-probability, [completions, 3]; 0 beyond."""
    each = jax.nn.log_softmax(table)[self._state, self._token]
    return jnp.where(self.mask, each, 0.0)

  def logprobs(self, table):
    """Returns each completion's log-probability."""
    return self.of_tokens(table).sum(axis=1)

  def probs(self, table):
    return jnp.exp(self.logprobs(table))

  def visits(self, table):
    """Returns how likely the policy is to come to each state."""
    probs = np.asarray(self.probs(table))
    return np.array(
      [
        sum(
          p
          for p, tokens in zip(probs, self.every)
          if tokens[: len(state)] == state and len(tokens) > len(state)
        )
        for state in self.states
      ]
    )
