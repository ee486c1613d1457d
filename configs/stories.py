"""Word problems: a language model on text, with a tokenizer of words.

prefixrl_jax/configs/stories.py has its fields and its argument. For a config
of your own copy this file and change what get_config returns.
"""

import ml_collections

from prefixrl_jax.configs import stories


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; arg is what follows the colon of --config=FILE:arg."""
  c = stories.get_config(arg)
  return c
