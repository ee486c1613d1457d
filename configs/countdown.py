"""A second task for a laptop CPU: countdown in steps, traces by rule.

prefixrl_jax/configs/countdown.py has its fields and its argument. For a config
of your own copy this file and change what get_config returns.
"""

import ml_collections

from prefixrl_jax.configs import countdown


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; arg is what follows the colon of --config=FILE:arg."""
  c = countdown.get_config(arg)
  return c
