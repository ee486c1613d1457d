"""What the configs of real models have alike: math, code, logic, gym.

Values are the paper's unless a comment says otherwise.
"""

from collections.abc import Callable
from typing import Any

import ml_collections

from prefixrl_jax.configs import models, sections
from prefixrl_jax.settings.validation import parse_arg


def get_config(
  arg: str,
  *,
  task: str,
  instruction: str,
  trial: dict[str, Any],
  sets: tuple[str, ...] = (),
  level: str = "",
  model: str = "",
  seeds: int = 1,
  sizes: Callable[[ml_collections.ConfigDict], None] = lambda c: None,
) -> ml_collections.ConfigDict:
  """Returns a task's config.

  Args:
    arg: task=NAME, level=NAME, model=NAME, arms=a+b, seeds=n, trial=true.
    task, level, model, seeds: the defaults.
    instruction: the end of every prompt.
    trial: fields of config.problems that are others in a trial.
    sets: tasks that are rows of config.evals.sets, by their own names.
    sizes: sets what a trial then shrinks.
  """
  chosen = parse_arg(
    arg,
    task=task,
    level=level,
    model=model,
    arms="rl+sft_rl+prefixrl",
    seeds=seeds,
    trial=False,
  )
  c = ml_collections.ConfigDict()
  c.run_arms = tuple(chosen.arms.split("+"))
  c.seeds = tuple(range(chosen.seeds))
  # Traces are dear: all seeds share those of the first.
  c.fresh_data_per_seed = False
  c.wandb = sections.wandb()
  c.profile = sections.profile()

  c.mesh = sections.mesh(data=1, fsdp=-1)
  # Its folder is given on the command line, or by a preset.
  c.model = sections.model(
    dtype="bfloat16",
    remat="auto",  # recompute layers if they do not fit into memory
  )
  c.problems = dict(
    task=chosen.task,  # docs/tasks.md has them
    level=chosen.level,  # how hard, in the task's own words
    file="",  # in place of the hub; * for several
    function="",  # FILE.py:NAME, in place of both; docs/own_tasks.md
    split="",  # of the source; empty: the one for training
    name="",  # of the tfds or reasoning-gym data set
    max_number=25,  # of countdown
    # Fields of a row, of tasks jsonl and tfds.
    problem_field="problem",
    answer_field="answer",
    answer_pattern="",  # regex; group 1 is the answer within its field
    id_field="",
    start=0,
    num_train=3000,
    num_heldout=500,
    # Where held-out problems are, if not where the source has them.
    heldout=dict(task="", file="", split="", level=""),
    # TASK or TASK=FILE, with commas between: none of it is trained on.
    exclude="",
    instruction=instruction,
    # Of arms with hints: what stands before the instruction.
    hint=(
      "{prompt}\n\nHere is the beginning of a correct solution:\n\n{hint}\n\n"
      "Write a whole solution: repeat what this beginning has worked out, as"
      " briefly as you like, and continue from where it ends."
    ),
    too_long="error",  # prompts; drop: they are left out and counted
    # Programming problems whose tests all stand in their own statement; keep:
    # looking up the output is as good as a program.
    shown_tests="drop",
  )
  c.pretrain = dict()
  c.rewards = sections.rewards()

  c.screen = sections.screen(num_samples=512, rows=32, lanes=16)
  c.collect = sections.collect(budget=2500, rows=32, lanes=16)
  c.traces = sections.traces()
  c.prefixes = sections.prefixes()
  c.rollouts = sections.rollouts(
    max_prompt_length=1024, max_completion_length=16384, steps_per_dispatch=128
  )
  c.learner = sections.learner(
    rows_per_microbatch=0,  # what the memory plan has room for
    row_length=32768,  # tokens of a packed row, unless a tree needs more
  )
  c.sft = sections.sft(batch_size=32, learning_rate=1e-5)
  c.arms = sections.arms(dict(rl=1e-6), sft_epochs=2, prefixed_share=0.75)
  c.train = sections.train(
    flops=2.4e20,  # max_steps is no limit; the paper's runs take 400 steps
    prompts_per_step=128,
    checkpoint_every=20,
    log_every=1,  # steps between two lines on the terminal
  )
  c.evals = sections.evals(
    rows=32,
    lanes=16,
    temperature=0.7,
    # What both cost beside a run: docs/evaluation.md.
    num_samples=64,
    final_problems=256,
    curve_points=16,
    curve_problems=128,
    # --config.evals.run_sets=NAME evaluates on one; `own` is for a file.
    sets={name: sections.problem_set(task=name) for name in sets}
    | {"own": sections.problem_set(task="jsonl")},
  )

  c.lora = sections.lora()
  c.export = sections.export()

  if chosen.model:
    models.apply(c, chosen.model)
  sizes(c)
  if chosen.trial:
    # XLA:CPU multiplies bfloat16 slower than float32.
    c.model.update(dtype="float32", remat="none")
    # A model this small comes to no end in 128 tokens if asked to reason, and
    # to little sense at temperature 1.
    c.problems.update(num_train=32, num_heldout=8, **trial)
    c.rewards.num_workers = 2
    c.screen.update(num_samples=2, max_correct=1, rows=8, lanes=2)
    c.collect.update(budget=8, rows=8, lanes=8)
    c.rollouts.update(
      max_prompt_length=320,
      max_completion_length=128,
      steps_per_dispatch=32,
      temperature=0.5,
    )
    c.learner.update(row_length=1024, rows_per_microbatch=1)
    c.train.update(
      max_steps=3,
      prompts_per_step=8,
      completions_per_prompt=4,
      checkpoint_every=1,
    )
    c.train.rollouts_kept.share = 1.0
    c.evals.update(
      rows=8,
      lanes=2,
      num_samples=2,
      fractions=(0.5,),
      fraction_samples=2,
      curve_points=1,
      curve_samples=1,
    )
  return c
