"""Where the method pays, by hand."""

import json
import re

import pytest
from etils import epath

from prefixrl_jax.evals.curves import CurvePoint, RunRecord
from prefixrl_jax.sweep import regimes as module
from prefixrl_jax.sweep.points import Point
from prefixrl_jax.sweep.regimes import figure_of_regimes, markdown
from prefixrl_jax.sweep.table import Collected, Result, rank


def _run(arm, seed, *ends):
  """Its accuracies, at 10 FLOPs each."""
  count = dict.fromkeys(("flops_executed", "tokens", "completions"), 0.0)
  curve = [
    CurvePoint(
      step,
      {"update": count | {"flops_paper": 10.0 * step, "seconds": 0.0}},
      {"heldout": end},
    )
    for step, end in enumerate(ends)
  ]
  return RunRecord(arm, seed, curve, [], False)


def _result(arm, size, *curves, collected=None):
  runs = [_run(arm, seed, *ends) for seed, ends in enumerate(curves)]
  settings = (("config.problems.size", size),)
  return Result(Point(arm, settings), f"{arm}{size}", runs, "", collected)


def regimes(results):
  return module.regimes(results, rank(results))


def test_the_method_is_compared_with_the_best_other_arm_of_a_regime():
  some = Collected(attempts=500.0, traced=6.0)
  found = regimes(
    [
      _result("rl", "5", (0, 0.2), (0, 0.4)),
      _result("sft_rl", "5", (0, 0.1), (0, 0.1), collected=some),
      _result("prefixrl", "5", (0, 0.4, 0.4), (0, 0.8, 0.8), collected=some),
      _result("rl", "6", (0, 0.5)),
      _result("prefixrl", "6", (0, 0.0)),
    ]
  )
  first, second = found
  assert first["settings"] == {"problems.size": "5"}
  assert (first["attempts"], first["traced"]) == (500.0, 6.0)
  assert first["best_other"] == "rl"
  assert first["arms"]["prefixrl"]["heldout"]["mean"] == pytest.approx(0.6)
  assert first["arms"]["prefixrl"]["took_off"] == 1
  # .4 / .2 and .8 / .4, and any mixture of the two pairs.
  assert first["ratio"]["of_means"] == pytest.approx(2)
  assert first["ratio"]["interval"] == pytest.approx([2, 2])
  # RL ends at .3 after 10 FLOPs, which PrefixRL's mean has after 5.
  assert first["speed_up"]["of_means"] == pytest.approx(2)
  assert second["attempts"] is None
  assert second["ratio"] == {"of_means": 0.0, "interval": None}
  json.dumps(found, allow_nan=False)


def test_a_ratio_to_nothing_is_none():
  (found,) = regimes(
    [
      _result("rl", "7", (0, 0), (0, 0)),
      _result("prefixrl", "7", (0, 0.9), (0, 0.9)),
    ]
  )
  assert found["ratio"] == {"of_means": None, "interval": None}
  assert "| 7 | - | - | 0.00 (0 of 2) | 0.90 (2 of 2) | - | - |" in markdown(
    [found]
  )


def test_without_a_rival_or_the_method_there_is_nothing_to_compare():
  assert regimes([_result("rl", "7", (0, 1))]) == []
  assert regimes([_result("prefixrl", "7", (0, 1))]) == []
  assert regimes([_result("rl", "7"), _result("prefixrl", "7", (0, 1))]) == []


def test_the_figure_shows_take_offs_and_where_it_does_not_pay(tmp_path):
  some = Collected(attempts=500.0, traced=6.0)
  found = regimes(
    [
      _result("rl", "5", (0, 0.0), (0, 0.9)),
      _result("prefixrl", "5", (0, 0.8), (0, 0.8), collected=some),
      _result("rl", "6", (0, 0.9), (0, 0.9)),
      _result("prefixrl", "6", (0, 0.0), (0, 0.8), collected=some),
    ]
  )
  figure_of_regimes(found, epath.Path(tmp_path) / "regimes")
  drawn = (tmp_path / "regimes.svg").read_text()
  texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
  assert "2 : 1 of 2" in texts
  assert "1 : 2 of 2" in texts
  assert "paper's regime" in texts
