"""Real models on deductions, and on puzzles that are drawn by rule.

  python -m prefixrl_jax.main --config=configs/logic.py \
      --config.model.folder=MODEL
  ... --config=configs/logic.py:task=countdown,level=5 --traces=rules:countdown

Tasks are folio, prontoqa, countdown, game24, parities (docs/tasks.md); the last
three have worked traces by rule. `:trial=true` shrinks everything to what a CPU
does in a quarter of an hour.
"""

import ml_collections

from prefixrl_jax.configs import tasks


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; tasks.py has the argument and all fields."""
  return tasks.get_config(
    arg,
    task="folio",
    instruction=(
      "\n\nReason as in a proof: one step a line, each with the premises or"
      " earlier steps that it follows from."
    ),
    sets=("folio", "prontoqa"),
    trial=dict(instruction=""),
  )
