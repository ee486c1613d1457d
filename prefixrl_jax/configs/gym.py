"""Real models on the procedural tasks of reasoning-gym, as hard as one likes.

  pip install 'prefixrl_jax[gym]'
  python -m prefixrl_jax.main \
      --config=configs/gym.py:task=countdown,level=hard \
      --config.model.folder=MODEL

`task` is a task's name in reasoning-gym, `level` easy, medium, hard or a number
(docs/tasks.md). `:trial=true` shrinks everything to what a CPU does in a
quarter of an hour.
"""

import ml_collections

from prefixrl_jax.configs import tasks


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; tasks.py has the argument and all fields."""
  c = tasks.get_config(
    arg,
    task="countdown",
    instruction=(
      "\n\nPlease reason step by step, and put your final answer within"
      " \\boxed{}."
    ),
    trial=dict(instruction="\n\nPut your final answer within \\boxed{}."),
  )
  c.problems.update(task="gym", name=c.problems.task)
  return c
