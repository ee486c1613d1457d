"""In words: what the runs show, which arms win, and how sure that is."""

from collections.abc import Mapping
from typing import Any

from prefixrl_jax.evals.names import arm_label, split_label


def finding(summary: Mapping[str, Any]) -> list[str]:
  """Returns one sentence: the method beside the best other arm, how sure it is.

  Of held-out problems, else of those trained on; empty if there is no other
  arm, or nothing to compare.

  Args:
    summary: from `summarize`.
  """
  method, arms = summary["method"], summary["arms"]
  for split in ("heldout", "train"):
    means = {
      arm: of_arm["final"][split]["accuracy"]["mean"]
      for arm, of_arm in arms.items()
      if split in of_arm["final"] and arm in (method, *summary["versus"])
    }
    ours = means.pop(method, None)
    if ours is not None and means:
      break
  else:
    return []
  best = max(means, key=lambda arm: means[arm])
  versus = summary["versus"][best][split]
  num = versus["final_difference"]["spread"]["num"]
  sentence = (
    f"{arm_label(method)} ends at {100 * ours:.1f} % of {split_label(split)}"
    f" problems, the best other arm, {arm_label(best)}, at"
    f" {100 * means[best]:.1f} %"
  )
  if (ratio := versus["final_ratio"]["of_means"]) is not None:
    sentence += f": {_times(versus['final_ratio'])} as much"
    if ratio > 1 and (versus["speed_up"]["flops_paper"]["of_means"] or 0) > 1:
      faster = _times(versus["speed_up"]["flops_paper"])
      sentence += f", and that accuracy {faster} as early"
  took_off = [
    f"{arm_label(arm)} {len(arms[arm]['final'][split]['took_off'])}"
    for arm in (method, best)
  ]
  if versus["final_difference"]["interval"] is None:
    seeds = "One seed says" if num == 1 else "Seeds that differ say"
    return [f"{sentence}. {seeds} nothing of chance."]
  takes_off = f"Seeds that took off, of {num}: {took_off[0]}, {took_off[1]}."
  low, high = versus["final_difference"]["interval"]
  beyond = (
    "" if low > 0 or high < 0 else " The difference is not beyond chance."
  )
  return [f"{sentence}. {takes_off}{beyond}"]


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


def _times(comparison: Mapping[str, Any]) -> str:
  """Returns 2.5 times (95 % interval 1.9 to 3.0)."""
  times = f"{comparison['of_means']:.1f} times"
  if comparison["interval"] is None:
    return times
  low, high = comparison["interval"]
  return f"{times} (95 % interval {low:.1f} to {high:.1f})"


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
