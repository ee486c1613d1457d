"""The whole method on a laptop CPU: the embedded checksum-chain task.

  python -m prefixrl_jax.main --config=configs/demo.py
  ... --config=configs/demo.py:arms=rl+sft_rl+ppo+prefixrl,seeds=1

Values are the paper's unless a comment says otherwise.
"""

import ml_collections

from prefixrl_jax.configs import sections
from prefixrl_jax.settings.validation import parse_arg


def parse(arg: str) -> ml_collections.ConfigDict:
  """Returns what the argument chooses: see `get_config`."""
  return parse_arg(arg, arms="rl+sft_rl+prefixrl", seeds=3, tiny=False)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config.

  Args:
    arg: arms=a+b; seeds=n, by default three; tiny=true for tests, of one seed.
  """
  chosen = parse(arg)
  is_for_tests = chosen.tiny and "seeds" not in arg
  c = ml_collections.ConfigDict()
  c.run_arms = tuple(chosen.arms.split("+"))
  c.seeds = tuple(range(1 if is_for_tests else chosen.seeds))
  # Every seed has its own problems, traces and cuts.
  c.fresh_data_per_seed = True
  c.wandb = sections.wandb()
  c.profile = sections.profile()

  c.mesh = sections.mesh(data=-1, fsdp=1)

  c.model = sections.model(
    # The base policy: a safetensors file, or empty to run `pretrain`.
    base="package:demo_base.safetensors",
    num_layers=3,
    width=32,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    mlp_width=128,
    vocab_size=30,
    mlp="gelu",
    rope_base=1000.0,
    norm_eps=1e-5,
    tied_head=False,
    dtype="float32",
    remat="none",
    scan_unroll=3,  # all layers: see TransformerConfig
  )

  # The task is ours; a problem is as hard as it has blocks, its size.
  c.problems = dict(
    task="checksum",
    function="",  # FILE.py:NAME, in place of the task's; docs/own_tasks.md
    size=7,
    num_train=48,
    num_heldout=32,
    num_easy=16,
    num_easy_train=0,  # of those, to train on (arms with an easy_share)
    easy_size=2,
  )

  c.rewards = sections.rewards()

  # How the shipped base model was made (`--config.model.base=''
  # --stage=pretrain`).
  c.pretrain = dict(
    seed=1,
    batch_size=64,
    phases=(
      dict(
        num_steps=2500,
        learning_rate=4e-3,
        max_blocks=7,
        lesson_share=0.5,
        max_window=5,
        worked_share=0.05,
        noise=0.01,
        slip_share=0.0,
      ),
      dict(
        num_steps=250,
        learning_rate=1.5e-3,
        max_blocks=7,
        lesson_share=0.5,
        max_window=7,
        worked_share=6e-4,
        noise=0.01,
        slip_share=0.0,
      ),
    ),
    optimizer=dict(b1=0.9, b2=0.98, eps=1e-8, weight_decay=0.01, clip_norm=1.0),
    warmup_steps=50,
  )

  # Paper: hard = 0 correct of 512. A guess succeeds once in 3^7 here.
  c.screen = sections.screen(num_samples=64, rows=16, lanes=8)
  c.collect = sections.collect(budget=2048, rows=16, lanes=8)
  c.traces = sections.traces()
  c.prefixes = sections.prefixes()

  c.rollouts = sections.rollouts(
    max_prompt_length=22, max_completion_length=36, steps_per_dispatch=8
  )
  c.learner = sections.learner(
    # Working a block out is rare at first; Adam's first, large steps would
    # wipe it out (docs/tuning.md).
    warmup_steps=30,
    norms_by_kind=True,  # the model is small
    rows_per_microbatch=2,
    row_length=640,  # tokens of a packed row, unless a tree needs more
  )
  c.sft = sections.sft(batch_size=16, learning_rate=5e-4)

  # Each arm's learning rate and entropy bonus are chosen on held-out problems
  # of other seeds, from three to five settings an arm: docs/tuning.md.
  c.arms = sections.arms(
    dict(
      rl=5e-4,
      sft_rl=1.5e-4,
      off_policy=1e-3,
      luffy=2e-3,
    ),
    sft_epochs=8,
    prefixed_share=0.75,
  )
  c.arms.rl.learner = dict(entropy_coefficient=5e-3)
  c.train = sections.train(
    # Every arm's budget, in the paper's convention: collection (if the arm
    # uses traces) + SFT + sampling + updates.
    flops=7e11,
    prompts_per_step=16,
    checkpoint_every=100,
    log_every=10,  # steps between two lines on the terminal
  )
  c.evals = sections.evals(
    rows=16,
    lanes=16,
    temperature=1.0,
    num_samples=32,  # of the final evaluation, per problem
    curve_points=12,
    # --config.evals.run_sets=shorter evaluates on these, too.
    sets=dict(shorter=dict(size=5, num_problems=32, num_samples=0)),
  )

  c.lora = sections.lora()
  c.export = sections.export()

  if chosen.tiny:
    c.problems.update(
      size=3, num_train=6, num_heldout=4, num_easy=2, easy_size=1
    )
    c.screen.update(num_samples=4, rows=4, lanes=4)
    c.collect.update(budget=256, rows=4, lanes=8)
    c.train.update(
      flops=1.2e10,
      prompts_per_step=4,
      completions_per_prompt=4,
      checkpoint_every=2,
    )
    c.train.rollouts_kept.share = 1.0
    c.learner.update(rows_per_microbatch=2, row_length=256)
    c.evals.update(
      num_samples=2,
      fraction_samples=2,
      fractions=(0.5,),
      curve_points=2,
      curve_samples=2,
    )
  return c
