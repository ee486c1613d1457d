"""The whole method on a laptop CPU: the embedded checksum-chain task.

prefixrl_jax/configs/demo.py has its fields and its argument. For a config
of your own copy this file and change what get_config returns.
"""

import ml_collections

from prefixrl_jax.configs import demo


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; arg is what follows the colon of --config=FILE:arg."""
  c = demo.get_config(arg)
  return c
