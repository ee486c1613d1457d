"""A second task for a laptop CPU: countdown in steps, traces by rule.

  python -m prefixrl_jax.main --config=configs/countdown.py

Nothing is shipped: the base model is made first (`pretrain`). What is not said
here is as in configs/demo.py; docs/countdown.md has what came of it.
"""

import ml_collections

from prefixrl_jax.configs import demo
from prefixrl_jax.embedded.countdown_steps import SYMBOLS


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config. arg: arms=a+b, seeds=n, tiny=true (for tests)."""
  c = demo.get_config(arg)
  is_tiny = c.problems.num_train < 10
  c.model.update(base="", vocab_size=len(SYMBOLS))
  c.problems.update(
    task="countdown_steps",
    size=4,
    num_train=192,
    num_heldout=128,
    num_easy=16,
    num_easy_train=0,  # of those, to train on (arms with an easy_share)
    easy_size=2,
  )
  c.screen.num_samples = 512  # as in the paper; the demo's 64 hide one in 100
  c.traces.file = "rules:countdown_steps"
  c.pretrain.phases = (
    dict(
      num_steps=2000,
      learning_rate=3e-3,
      max_numbers=4,
      lesson_share=0.5,
      solved_share=0.002,
      known=2,
      # It adds, as if there were little else.
      weights={"+": 1.0, "-": 0.005, "*": 0.005},
    ),
  )
  c.prefixes.update(low=0.2, high=0.7)
  c.train.flops /= 2
  c.evals.update(
    fractions=c.evals.fractions[::2],
    sets=dict(shorter=dict(size=3, num_problems=32, num_samples=0)),
  )
  c.rollouts.update(max_prompt_length=8, max_completion_length=40)
  c.arms.rl.learning_rate = 5e-4
  c.arms.sft_rl.learning_rate = 5e-4
  c.arms.prefixrl.learning_rate = 5e-4
  c.arms.prefixrl_only.learning_rate = 5e-4
  if is_tiny:
    phase = dict(c.pretrain.phases[0], num_steps=60, max_numbers=3)
    c.pretrain.phases = (phase,)
    c.problems.update(
      size=3, num_train=6, num_heldout=4, num_easy=2, easy_size=2
    )
    c.screen.update(num_samples=4, max_correct=3)
  return c
