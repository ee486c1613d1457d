"""Sections that all configs have alike, every field with its default."""

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


def rewards() -> dict[str, Any]:
  """Returns config.rewards: what judges, and what that may cost."""
  return dict(
    verifier="",  # rewards/verifiers.py has the names; empty: the task's own
    num_workers=8,  # processes
    timeout_seconds=5.0,  # of a comparison, or of one test of a program
    # The rest is for programs.
    total_seconds=60.0,  # of all tests of one
    memory_mb=512,  # of one
    sandbox="bubblewrap",  # or unsafe_subprocess, within a container of yours
    partial=False,  # True: the share of tests passed is the reward
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
