"""Several skills: twelve kinds of checksum chains, each learnt for itself.

prefixrl_jax/configs/skills.py has its fields and its argument. For a config
of your own copy this file and change what get_config returns.
"""

import ml_collections

from prefixrl_jax.configs import skills


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; arg is what follows the colon of --config=FILE:arg."""
  c = skills.get_config(arg)
  return c
