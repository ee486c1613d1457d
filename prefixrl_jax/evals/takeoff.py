"""When a run takes off: when working, signal and accuracy first are there."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from prefixrl_jax.storage.metrics import read_jsonl

_STEPS = 10  # over which a share is taken


def first_step(
  rows: Sequence[dict[str, Any]], field: str, share: float
) -> int | None:
  """Returns the first step whose last ten have a mean of at least the share.

  Args:
    rows: of metrics, one a step; a row without the field is left out.
    field: of the rows.
    share: from 0 to 1.
  """
  there = [(row["step"], row[field]) for row in rows if field in row]
  for end in range(_STEPS, len(there) + 1):
    last = [value for _, value in there[end - _STEPS : end]]
    if sum(last) >= share * _STEPS:
      return there[end - 1][0]
  return None


def of_run(run: epath.Path) -> dict[str, Any]:
  """Returns what is shown of a run.

  Args:
    run: its folder, WORKDIR/train/ARM/seed_N.
  """
  rows = [r for r in read_jsonl(run / "metrics.jsonl") if "sft/loss" not in r]
  signal = "train/no_prefix/signal"
  # With few groups a step, any with signal will do.
  had = [r | {signal: float(r[signal] > 0)} for r in rows if signal in r]
  curve = json.loads((run / "curve.json").read_text())
  entropy = [r["train/no_prefix/entropy"] for r in rows[-_STEPS:]]
  return {
    "after prefixes": first_step(rows, "train/prefixed/marker", 0.5),
    "no prefix": first_step(rows, "train/no_prefix/marker", 0.5),
    "signal": first_step(had, signal, 0.5),
    "steps": len(rows),
    "entropy": sum(entropy) / len(entropy),
    "held-out": curve[-1]["accuracy"]["heldout"],
  }
