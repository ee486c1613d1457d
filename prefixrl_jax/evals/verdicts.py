"""In words: which arms end above the method, and by how much."""

from collections.abc import Mapping
from typing import Any

from prefixrl_jax.evals.names import arm_label, split_label


def verdicts(summary: Mapping[str, Any]) -> list[str]:
  """Returns a sentence for each arm that wins, else one that says none does.

  Args:
    summary: from `summarize`.
  """
  method = arm_label(summary["method"])
  winners = []
  for arm, by_split in summary["versus"].items():
    where = [
      f"on {split_label(split)} problems {_by(versus)}{_speed(versus, method)}"
      for split, versus in by_split.items()
      if (versus["final_difference"]["of_means"] or 0) < 0
    ]
    if where:
      winners.append(
        f"{arm_label(arm)} ends above {method}: {'; '.join(where)}."
      )
  if winners or not summary["versus"]:
    return winners
  return [f"No other arm ends above {method}, on any problems."]


def _by(versus: Mapping[str, Any]) -> str:
  """Says by how much the other arm ends higher, and how sure that is."""
  difference = versus["final_difference"]
  points = f"by {_points(difference['of_means'])} points"
  num = difference["spread"]["num"]
  if difference["interval"] is None:
    return f"{points} ({num or 'no'} seed{'' if num == 1 else 's'} to compare)"
  low, high = (_points(end) for end in reversed(difference["interval"]))
  interval = f"95 % interval {low} to {high}, {num} seeds"
  if difference["interval"][1] >= 0:
    interval += ": not beyond chance"
  return f"{points} ({interval})"


def _speed(versus: Mapping[str, Any], method: str) -> str:
  """Says how late the method reaches what the other arm ends with."""
  times = versus["speed_up"]["flops_paper"]["of_means"]
  if times == 0:
    return f", an accuracy that {method} never reaches in training"
  if times is not None and times < 1:
    return (
      f", an accuracy for which {method} needs {1 / times:.1f} times the FLOPs"
    )
  return ""


def _points(difference: float) -> str:
  return f"{round(-100 * difference, 1) + 0:.1f}"  # never -0.0
