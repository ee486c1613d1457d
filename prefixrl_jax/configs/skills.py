"""Several skills: twelve kinds of checksum's chains, each learnt for itself.

  python -m prefixrl_jax.main --config=configs/skills.py

In the demo one discovery solves everything, so that a seed is all or nothing.
Here a run makes up to twelve, nearly independent ones.
"""

import ml_collections

from prefixrl_jax.configs import demo
from prefixrl_jax.embedded.skills import SYMBOLS


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config. arg: arms=a+b, seeds=n, tiny=true, as the demo's."""
  c = demo.get_config(arg)
  c.model.update(
    base="",  # `--stage=pretrain` makes it
    width=48,
    head_dim=12,
    mlp_width=192,
    vocab_size=len(SYMBOLS),
  )
  c.problems.task = "skills"
  # Of two settings each of the baselines', on seed 100: docs/evidence.md.
  c.arms.rl.learner = dict()
  c.arms.sft_rl.learning_rate = 5e-4
  first, second = (dict(phase) for phase in c.pretrain.phases)
  c.pretrain.phases = (
    first | dict(num_steps=6000, lesson_share=0.6, rarest_share=0.05),
    second | dict(num_steps=350, worked_share=2e-3, rarest_share=2e-4),
  )
  if not demo.parse(arg).tiny:
    # Sixteen problems of a kind; with few, what they have in common is not
    # learnt, but each by heart.
    c.problems.update(num_train=192, num_heldout=96, num_easy=24)
    c.train.flops = 6e12
  return c
