"""A small language model on word problems, all arms at equal FLOPs, on one GPU.

  pip install 'prefixrl_jax[gym,cuda12]'
  python -m prefixrl_jax.main --config=configs/words.py

SmolLM2-135M-Instruct, three seeds of three arms, for some ten minutes of a
data-center GPU; docs/evidence.md says what has been run of it. `task` and
`level` are reasoning-gym's, as in configs/gym.py; `:trial=true` shrinks
everything for a CPU. The learning rates are to be tuned first, every arm alike:

  python -m prefixrl_jax.sweep --config=configs/words.py --seeds=100,101,102 \\
      --set config.arms.{arm}.learning_rate=3e-6,1e-5,3e-5
"""

import ml_collections

from prefixrl_jax.configs import tasks


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; tasks.py has the argument and all fields."""
  c = tasks.get_config(
    arg,
    task="leg_counting",
    level="medium",
    model="smollm2_135m",
    seeds=3,
    instruction="\n\nPut your final answer within \\boxed{}.",
    trial={},
    sizes=_of_ten_minutes,
  )
  c.problems.update(task="gym", name=c.problems.task)
  # As in the demo: a seed is its own problems, traces and cuts.
  c.fresh_data_per_seed = True
  for arm in c.arms.values():
    arm.learning_rate = 1e-5
  return c


def _of_ten_minutes(c: ml_collections.ConfigDict) -> None:
  c.problems.update(num_train=256, num_heldout=128)
  c.screen.update(num_samples=64, rows=64, lanes=16)
  c.collect.update(budget=512, rows=64, lanes=16)
  c.rollouts.update(
    max_prompt_length=256, max_completion_length=128, steps_per_dispatch=32
  )
  c.learner.update(row_length=2048)
  c.train.update(flops=3e15, prompts_per_step=32, checkpoint_every=50)
  c.evals.update(
    rows=64,
    num_samples=32,
    final_problems=0,
    curve_points=8,
    curve_problems=64,
    temperature=1.0,
    curve_temperature=1.0,
  )
