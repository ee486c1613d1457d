"""A small language model on word problems, all arms at equal FLOPs, on one GPU.

prefixrl_jax/configs/words.py has its fields and its argument. For a config
of your own copy this file and change what get_config returns.
"""

import ml_collections

from prefixrl_jax.configs import words


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; arg is what follows the colon of --config=FILE:arg."""
  c = words.get_config(arg)
  return c
