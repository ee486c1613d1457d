"""Sections that all configs have alike, each field with its default.

Values are the paper's unless a comment says otherwise. A config gives as
keywords the fields that have no default, and those whose default it does not
want.
"""

from typing import Any

# PPO's surrogate at its usual clip.
CLIPPED = dict(name="clipped", clip_low=0.2, clip_high=0.2)
# Prefixes that half of the completions solve, or nearly so.
ADAPTIVE = dict(name="adaptive", low=0.25, high=0.75)


def arm(
  *,
  learning_rate: float,
  prefixed_share: float = 0.0,
  sft_epochs: int = 0,
  schedule: dict[str, Any] | None = None,
  loss: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Returns a row of config.arms.

  Args:
    learning_rate: of RL, at its peak.
    prefixed_share: of a step's problems.
    sft_epochs: on the traces, before RL.
    schedule: which prefixes a step has, see prefixes/schedules.py.
    loss: of the updates, see learner/losses.py.
  """
  return dict(
    prefixed_share=prefixed_share,
    sft_epochs=sft_epochs,
    learning_rate=learning_rate,
    schedule=schedule or dict(name="mixture"),
    loss=loss or dict(name="policy_gradient"),
  )


def mesh(**own: Any) -> dict[str, Any]:
  """Returns config.mesh: devices by what they share; gives data and fsdp."""
  return dict(tensor=1, expert=1) | own


def model(**own: Any) -> dict[str, Any]:
  """Returns config.model: which policy is trained; gives dtype and remat."""
  return (
    dict(
      folder="",  # a Hugging Face folder, or ORGANISATION/MODEL[@REVISION]
      base="",  # of an embedded task: a safetensors file
      param_dtype="float32",
    )
    | own
  )


def rewards() -> dict[str, Any]:
  """Returns config.rewards: what judges, and what that may cost."""
  return dict(
    verifier="",  # rewards/verifiers.py has the names; empty: the task's own
    function="",  # FILE.py:NAME, in its place; docs/own_tasks.md
    num_workers=0,  # processes; 0: one a core
    timeout_seconds=5.0,  # of a comparison, or of one test of a program
    # The rest is for programs.
    total_seconds=60.0,  # of all tests of one
    memory_mb=512,  # of one
    sandbox="bubblewrap",  # or unsafe_subprocess, within a container of yours
    partial=False,  # True: the share of tests passed is the reward
  )


def screen(**own: Any) -> dict[str, Any]:
  """Returns config.screen; gives num_samples, rows and lanes."""
  # Hard are problems that no sample solves.
  return dict(max_correct=0, problems_per_part=64) | own


def collect(**own: Any) -> dict[str, Any]:
  """Returns config.collect: our own traces; gives budget, rows and lanes."""
  return dict(traces_per_problem=1, problems_per_part=64) | own


def prefixes() -> dict[str, Any]:
  """Returns config.prefixes: where traces are cut."""
  return dict(num_cuts=3, low=0.4, high=0.8)


def rollouts(**own: Any) -> dict[str, Any]:
  """Returns config.rollouts; gives the three lengths."""
  return (
    dict(
      temperature=1.0,  # left open by the paper
      top_k=0,  # off, as is top_p: both bias the ratio
      top_p=1.0,
    )
    | own
  )


def learner(**own: Any) -> dict[str, Any]:
  """Returns config.learner; gives rows_per_microbatch and row_length."""
  return (
    dict(
      # Left open by the paper: optimizer, KL, clip, length normalisation.
      optimizer=dict(
        b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0, clip_norm=1.0
      ),
      warmup_steps=0,
      decay_steps=0,
      advantage="group_mean",
      discount=1.0,
      kl_coefficient=0.0,  # 0: off
      kl_estimator="k3",  # GRPO's; k1 and k2: see learner/losses.py
      skip_nonfinite=False,  # True: leave such updates out, instead of stopping
      logits_chunk_length=512,
    )
    | own
  )


def sft(*, batch_size: int, learning_rate: float) -> dict[str, Any]:
  """Returns config.sft: on the traces, before RL."""
  return dict(batch_size=batch_size, learning_rate=learning_rate)


def train(**own: Any) -> dict[str, Any]:
  """Returns config.train: every arm's budget, and a step's size.

  Gives flops, prompts_per_step, checkpoint_every and log_every.
  """
  return (
    dict(
      max_steps=0,  # no limit but the budget
      rows=0,  # prompts that are sampled at a time; 0: all of a step's
      cuts_together=False,  # True: a step has all cuts of a trace, on one trunk
      completions_per_prompt=8,
      checkpoints_kept=2,
      # Of a run's rollouts, to be read: docs/rollouts.md.
      rollouts_kept=dict(share=0.1, max_megabytes=200),
    )
    | own
  )


def evals(**own: Any) -> dict[str, Any]:
  """Returns config.evals.

  Gives rows, lanes, temperature, num_samples, curve_points and sets.
  """
  return (
    dict(
      # The final evaluation: another one is added beside what is there.
      final_problems=0,  # of a split, at most; all
      fractions=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
      fraction_samples=16,
      # The curve: part of a run, which another one would make another run.
      curve_temperature=own["temperature"],
      curve_samples=8,
      curve_problems=0,  # of a split, at most; all
      # Of a strategy, as "wait|check": what share of completions has it.
      marker="",
      run_sets="",  # rows of `sets` to evaluate on as well, + between
    )
    | own
  )


def problem_set(*, task: str, **own: Any) -> dict[str, Any]:
  """Returns a row of config.evals.sets: problems only to evaluate on.

  Args:
    task: as config.problems.task.
    **own: fields as in config.problems.
  """
  return (
    dict(
      task=task,
      level="",
      file="",
      split="",
      name="",
      problem_field="problem",
      answer_field="answer",
      answer_pattern="",
      id_field="",
      num_problems=0,  # all that there are
      num_samples=0,  # evals.num_samples
    )
    | own
  )


def lora() -> dict[str, Any]:
  """Returns config.lora: adapters are trained, the base is frozen."""
  return dict(
    rank=0,  # of an adapter; 0: all parameters are trained, there is none
    alpha=16.0,  # adapters count alpha / rank
    targets="all",  # or attention, mlp, names: "query+value" (docs/lora.md)
  )


def traces() -> dict[str, Any]:
  """Returns config.traces: other people's traces, `--stage=import`."""
  return dict(
    # JSONL or Parquet of other people's traces, or rules:TASK for worked ones
    # by rule; --traces sets it.
    file="",
    model="",  # who wrote them, where no column says so
    # Columns; empty: guessed, see docs/imported_traces.md.
    problem_field="",
    id_field="",
    text_field="",
    reasoning_field="",
    model_field="",
    finish_field="",
    verdict_field="",
  )


def export() -> dict[str, Any]:
  """Returns config.export: a run's policy as a folder, `--stage=export`."""
  return dict(
    lora="merged",  # adapters added in; or peft: the adapters alone, for peft
    arm="",  # the first of run_arms
    seed=-1,  # the first of seeds
    step=-1,  # the last one's checkpoint
    directory="",  # export/ARM/seed_N/model in the workdir
    dtype="",  # that of the parameters; or bfloat16, float32
    shard_gigabytes=5.0,  # of the largest weight file
  )
