"""Real models on the procedural tasks of reasoning-gym, as hard as one likes.

prefixrl_jax/configs/gym.py has its fields and its argument. For a config
of your own copy this file and change what get_config returns.
"""

import ml_collections

from prefixrl_jax.configs import gym


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; arg is what follows the colon of --config=FILE:arg."""
  c = gym.get_config(arg)
  return c
