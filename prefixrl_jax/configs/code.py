"""Real models on programming problems, judged by tests in a sandbox.

  python -m prefixrl_jax.main --config=configs/code.py:level=interview \
      --config.model.folder=MODEL

Tasks are apps, code_contests, mbpp, humaneval (docs/tasks.md). Model-written
code runs in bubblewrap. `:trial=true` shrinks everything to what a CPU does.
"""

import ml_collections

from prefixrl_jax.configs import tasks


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; tasks.py has the argument and all fields."""
  return tasks.get_config(
    arg,
    task="apps",
    instruction="\n\nThink step by step before you write the program.",
    sets=("humaneval", "mbpp"),
    trial=dict(instruction=""),
  )
