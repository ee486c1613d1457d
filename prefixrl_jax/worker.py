"""A process of a run that has several: see `prefixrl_jax.parallel`.

It has the flags of `prefixrl_jax.main`, which starts it and holds the workdir's
lock.
"""

import os

from prefixrl_jax import main
from prefixrl_jax.storage.metrics import Progress

if __name__ == "__main__":
  os.environ["COLUMNS"] = "200"  # a line of the log is a line of ours
  Progress.seconds_between_lines = 5.0  # what `parallel.view` shows
  main.main(serves=True)
