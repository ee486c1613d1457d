"""Real models on deductions, and on puzzles that are drawn by rule.

prefixrl_jax/configs/logic.py has its fields and its argument. For a config
of your own copy this file and change what get_config returns.
"""

import ml_collections

from prefixrl_jax.configs import logic


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; arg is what follows the colon of --config=FILE:arg."""
  c = logic.get_config(arg)
  return c
