"""In words: what the runs show, which arms win, and how sure that is."""

from collections.abc import Mapping
from typing import Any

from prefixrl_jax.evals.names import arm_label, split_label


def finding(summary: Mapping[str, Any]) -> str:
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
    return ""
  best = max(means, key=lambda arm: means[arm])
  versus = summary["versus"][best][split]
  sentence = (
    f"On {split_label(split)} problems, {arm_label(method)} ends at"
    f" {100 * ours:.1f} % and the best other arm, {arm_label(best)}, at"
    f" {100 * means[best]:.1f} %"
  )
  difference = versus["final_difference"]
  num = difference["spread"]["num"]
  if difference["interval"] is None:
    why = "with one seed" if num == 1 else "as they have no seed in common"
    return f"{sentence}; {why}, how much of this is chance is not known."
  finals = [arms[arm]["final"][split] for arm in (method, best)]
  is_all = all(final["accuracy"]["num"] == num for final in finals)
  seeds = f"{num} seeds" if is_all else f"the {num} seeds of both"
  sure, by_chance = _how_sure(difference, seeds)
  sentence += f": {sure}"
  if not by_chance and difference["of_means"] > 0:
    if versus["final_ratio"]["of_means"] is not None:
      ratio = _times(versus["final_ratio"])
      sentence += f", or {ratio} the accuracy"
    faster = versus["speed_up"]["flops_paper"]
    if (faster["of_means"] or 0) > 1:
      sentence += (
        f"; it reaches {arm_label(best)}'s final accuracy"
        f" {_times(faster)} as fast in training FLOPs"
      )
  ours_took_off, took_off = (
    f"{len(final['took_off'])} of {final['accuracy']['num']}"
    for final in finals
  )
  return (
    f"{sentence}; {ours_took_off} seeds took off with {arm_label(method)} and"
    f" {took_off} with {arm_label(best)}."
  )


def _how_sure(difference: Mapping[str, Any], seeds: str) -> tuple[str, bool]:
  """Says a difference with its interval, and whether it may be chance."""
  points = 100 * difference["of_means"]
  low, high = difference["interval"]
  by_chance = low <= 0 <= high
  than = "more" if points >= 0 else "fewer"
  ends = (low, high) if points >= 0 else (-high, -low)
  interval = " to ".join(f"{round(100 * end, 1) + 0:.1f}" for end in ends)
  text = f"{abs(points):.1f} points {than}"
  if by_chance:
    text += ", which may be chance"
  return f"{text} (95 % interval {interval}, {seeds})", by_chance


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
  return [f"No other arm ends above {method} on any kind of problem."]


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
