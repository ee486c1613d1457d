"""What a step of each method takes, next to REINFORCE's at equal tokens.

  python -m benchmarks.methods --arms=rl,rl_clipped,ppo

A step: 16 prompts of 32 tokens, 8 completions of 64 new tokens each, rewards
that cost nothing, and the arm's scoring and updates, as training makes them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags

from benchmarks import measuring, shapes

_PROMPTS, _GROUP, _PROMPT_LENGTH, _NEW_TOKENS = 16, 8, 32, 64
# What is an arm's own beside the arms of the configs.
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
  "rl: 4 mini-batches": ("rl", dict(num_minibatches=4)),
  "rl: 4 mini-batches twice": (
    "rl",
    dict(num_minibatches=4, num_epochs=2),
  ),
  "rl: norms by kind": ("rl", dict(norms_by_kind=True)),
  "rl: KL in the loss": ("rl", dict(kl_coefficient=0.1)),
  "rl: KL in the reward": ("rl", dict(kl_coefficient=0.1, kl_in="reward")),
  "ppo: 1 mini-batch": ("ppo", dict(num_minibatches=1)),
  "ppo: a trunk of its own": ("ppo", dict(critic=dict(kind="trunk"))),
}
_ARMS = flags.DEFINE_list(
  "arms",
  ["rl", "rl_clipped", "rl_entropy", "gspo", "ppo", *_VARIANTS],
  "Rows of config.arms, or variants of them; commas between.",
)
_MODEL = flags.DEFINE_enum("model", "tiny", list(shapes.MODELS), "Model.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed steps of each.", 3)
_PART = flags.DEFINE_enum(
  "part", "step", ["step", "update"], "All of a step, or without sampling."
)
_JSON = measuring.define_json()


def _config(name: str) -> tuple[ml_collections.ConfigDict, str]:
  """Returns a config whose learner is the arm's, and the arm's name."""
  from prefixrl_jax.configs import demo
  from prefixrl_jax.settings import arms

  arm, own = _VARIANTS.get(name, (name, {}))
  config = demo.get_config()
  config.learner = arms.learner_of(config, config.arms[arm])
  config.learner.update({"norms_by_kind": False} | own)
  return config, arm


def _make(model: str, name: str, part: str) -> Callable[[], object]:
  """Returns a step of the arm."""
  # Imported late: each is made in a process of its own.
  from benchmarks import ours
  from prefixrl_jax.distributed.mesh import make_mesh
  from prefixrl_jax.learner.critic import by_part, make_critic
  from prefixrl_jax.learner.learner import Learner
  from prefixrl_jax.learner.losses import make_loss
  from prefixrl_jax.learner.optimizer import make_optimizer
  from prefixrl_jax.learner.packing import layout_for
  from prefixrl_jax.learner.scoring import Scorer
  from prefixrl_jax.ledger import Ledger
  from prefixrl_jax.models import parameters
  from prefixrl_jax.rollouts.requests import Request
  from prefixrl_jax.run.credit import scores_needed
  from prefixrl_jax.run.rollout import Group
  from prefixrl_jax.run.updates import Updater
  from prefixrl_jax.types import Problem, Verdict

  config, arm = _config(name)
  shape, mesh = shapes.MODELS[model], make_mesh(data=-1, fsdp=1, tensor=1)
  learner_config = config.learner
  params = parameters.put_params(shape, mesh, shapes.random_params(shape))
  critic = make_critic(learner_config.critic.kind, True)
  optimizer = make_optimizer(
    learning_rate=1e-6,
    warmup_steps=0,
    decay_steps=0,
    **learner_config.optimizer,
  )
  layout = lambda parts: layout_for(
    longest_trunk=_PROMPT_LENGTH,
    longest_completion=_NEW_TOKENS,
    num_lanes=_GROUP,
    num_trees=(_PROMPTS // 2 // parts, _PROMPTS // 2 // parts),
    row_length=1152,  # two trees
    rows_per_microbatch=1,
  )
  common: dict[str, Any] = dict(
    base_params=params, temperature=1.0, chunk_length=ours.CHUNK_LENGTH
  )
  in_loss = learner_config.kl_in == "loss"
  learner = Learner(
    shape,
    mesh,
    layout(learner_config.num_minibatches),
    by_part(optimizer, optimizer) if critic else optimizer,
    make_loss(
      kl_coefficient=learner_config.kl_coefficient * in_loss,
      entropy_coefficient=learner_config.entropy_coefficient,
      normalization=learner_config.normalization,
      **config.arms[arm].loss,
    ),
    completion_length=_NEW_TOKENS,
    critic=critic,
    mixed=True,
    norms_by_kind=learner_config.norms_by_kind,
    **common,
  )
  wants = scores_needed(learner_config)
  scorer = None
  if wants:
    scorer = Scorer(shape, mesh, layout(1), wants, critic=critic, **common)
  updater = Updater(
    learner, scorer, learner_config, pass_rates={}, ledger=Ledger(shape)
  )
  sampler = ours.make_sampler(
    shape,
    mesh,
    rows=_PROMPTS,
    lanes=_GROUP,
    trunk_length=_PROMPT_LENGTH,
    completion_length=_NEW_TOKENS,
    steps_per_dispatch=_NEW_TOKENS,
  )
  rng = np.random.default_rng(0)
  prompts = rng.integers(
    3, shape.vocab_size, (_PROMPTS, _PROMPT_LENGTH), np.int32
  )
  problem = Problem("", "", "", "", "train", 0)
  held = [learner.init(params)]

  def sample() -> list[Group]:
    sampler.load(learner.policy(held[0]))
    found = sampler.sample(
      [Request(prompt, _GROUP, i, i) for i, prompt in enumerate(prompts)],
      purpose="sampling",
      seed=0,
    )
    return [
      Group(
        problem,
        prompt[:0],
        prompt,
        completions,
        [Verdict(float(np.mean(c.tokens % 2))) for c in completions],
        fraction=0.5 * (i % 2),
      )
      for i, (prompt, completions) in enumerate(zip(prompts, found))
    ]

  once = sample()

  def run():
    groups = sample() if part == "step" else once
    held[0], _ = updater.step(held[0], groups)
    return jax.block_until_ready(held[0].step)

  return run


def main() -> None:
  """Times the steps in turn and prints the table."""
  timed = measuring.alternate(
    {
      name: functools.partial(_make, _MODEL.value, name, _PART.value)
      for name in dict.fromkeys(("rl", *_ARMS.value))
    },
    _REPEATS.value,
  )
  plain = timed["rl"].median
  measuring.show(
    f"{_PART.value} of {_MODEL.value}, next to REINFORCE's",
    [
      {"arm": name, **times.row(), "of REINFORCE's": times.median / plain}
      for name, times in timed.items()
    ],
    _JSON.value,
  )


if __name__ == "__main__":
  measuring.run(main)
