"""A process of a run that has several: see `prefixrl_jax.parallel`.

It has the flags of `prefixrl_jax.main`, which starts it and holds the workdir's
lock.
"""

from prefixrl_jax import main
from prefixrl_jax.storage.metrics import Progress

if __name__ == "__main__":
  Progress.seconds_between_lines = 5.0  # what `parallel.view` shows
  main.main(serves=True)
