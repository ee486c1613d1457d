"""Sections that all configs have alike, every field with its default."""

from typing import Any


def traces() -> dict[str, Any]:
  """Returns config.traces: other people's traces, `--stage=import`."""
  return dict(
    file="",  # JSONL or Parquet of other people's traces; --traces sets it
    model="",  # who wrote them, where no column says so
    # Columns; empty: guessed, see docs/imported_traces.md.
    problem_field="",
    id_field="",
    text_field="",
    model_field="",
    finish_field="",
    verdict_field="",
  )


def export() -> dict[str, Any]:
  """Returns config.export: a run's policy as a folder, `--stage=export`."""
  return dict(
    arm="",  # the first of run_arms
    seed=-1,  # the first of seeds
    step=-1,  # the newest checkpoint
    directory="",  # export/ARM/seed_N/model in the workdir
    dtype="",  # that of the parameters; or bfloat16, float32
    shard_gigabytes=5.0,  # of the largest weight file
  )
