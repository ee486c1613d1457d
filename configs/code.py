"""Real models on programming problems, judged by tests in a sandbox.

prefixrl_jax/configs/code.py has its fields and its argument. For a config
of your own copy this file and change what get_config returns.
"""

import ml_collections

from prefixrl_jax.configs import code


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; arg is what follows the colon of --config=FILE:arg."""
  c = code.get_config(arg)
  return c
