"""Points are ranked by accuracy, then by how early it came."""

import json

import pytest

from prefixrl_jax.evals.curves import CurvePoint, RunRecord
from prefixrl_jax.sweep.points import Point
from prefixrl_jax.sweep.table import Result, area, best_runs, markdown, rank


def _run(seed, costs, heldout, train=None, arm="rl"):
  def ledger(flops):
    cost = dict.fromkeys(("flops_executed", "tokens", "completions"), 0.0)
    return {"update": cost | {"flops_paper": flops, "seconds": 0.0}}

  curve = [
    CurvePoint(
      step,
      ledger(cost),
      {}
      | ({} if heldout is None else {"heldout": heldout[step]})
      | {"train": (train or heldout)[step]},
    )
    for step, cost in enumerate(costs)
  ]
  return RunRecord(arm, seed, curve, [], False)


def _result(rate, *runs, arm="rl", error="", **others):
  settings = [(f"config.arms.{arm}.learning_rate", rate)]
  settings += [(f"config.{k.replace('__', '.')}", v) for k, v in others.items()]
  name = f"w/{arm}/{rate}/{others}"
  return Result(Point(arm, tuple(settings)), name, runs, error)


def test_area_is_the_mean_over_the_budget():
  # .2 until 10 FLOPs, when the curve begins; then in a line to 1 at 20; then 1.
  run = _run(0, [10, 20, 40], [0.2, 1.0, 1.0])
  assert area(run, "heldout") == pytest.approx((10 * 0.2 + 10 * 0.6 + 20) / 40)
  assert area(_run(0, [0], [0.3]), "heldout") == 0.3


def test_the_best_of_each_arm_is_first():
  late, early = (
    _run(0, [0, 1, 2], [0, 0, 0.8]),
    _run(0, [0, 1, 2], [0, 0.8, 0.8]),
  )
  records = rank(
    [
      _result("1", _run(0, [0, 2], [0, 0.5]), _run(1, [0, 2], [0, 0.9])),
      _result("2", late),
      _result("3", early),
      _result("4", _run(0, [0, 2], [0, 0.1]), arm="sft_rl"),
    ]
  )
  assert [(r["settings"], r["is_best"]) for r in records] == [
    ({"arms.rl.learning_rate": "3"}, True),
    ({"arms.rl.learning_rate": "2"}, False),
    ({"arms.rl.learning_rate": "1"}, False),
    ({"arms.sft_rl.learning_rate": "4"}, True),
  ]
  spread = records[2]["heldout"]
  assert (spread["mean"], spread["min"], spread["max"]) == (0.7, 0.5, 0.9)
  json.dumps(records, allow_nan=False)


def test_without_heldout_problems_training_accuracy_ranks():
  records = rank(
    [
      _result("1", _run(0, [0, 1], None, [0, 0.1])),
      _result("2", _run(0, [0, 1], None, [0, 0.9])),
    ]
  )
  assert [r["settings"]["arms.rl.learning_rate"] for r in records] == ["2", "1"]
  assert records[0]["heldout"]["mean"] is None
  assert "| - | **0.90** |" in markdown(records, 1).replace("**-**", "-")


def test_points_with_other_problems_are_ranked_apart():
  results = [
    _result("1", _run(0, [0, 1], [0, 0.9]), problems__size="5"),
    _result("2", _run(0, [0, 1], [0, 0.3]), problems__size="6"),
    _result("1", _run(0, [0, 1], [0, 0.2]), problems__size="6"),
    _result("2", _run(0, [0, 1], [0, 0.8]), problems__size="5"),
  ]
  records = rank(results)
  assert [(r["settings"]["problems.size"], r["is_best"]) for r in records] == [
    ("5", True),
    ("5", False),
    ("6", True),
    ("6", False),
  ]
  panels = best_runs(results, records)
  assert {k: v[0].curve[-1].accuracy["heldout"] for k, v in panels.items()} == {
    "size 5": 0.9,
    "size 6": 0.3,
  }


def test_a_point_that_has_failed_is_shown_last_with_its_reason():
  records = rank(
    [
      _result("1", _run(0, [0, 1], [0, 0.9]), error="it | broke"),
      _result("2", _run(0, [0, 1], [0, 0.2]), _run(1, [0, 1], [0, 0.4])),
      _result("3", error="not finished yet"),
    ]
  )
  assert [r["is_best"] for r in records] == [True, False, False]
  lines = markdown(records, 2).splitlines()
  assert lines[0] == (
    "| arm | learning_rate | seeds | held-out | training | area |"
  )
  assert lines[2] == (
    "| **rl** | **2** | **2** | **0.30 (0.20 to 0.40)** |"
    " **0.30 (0.20 to 0.40)** | **0.15 (0.10 to 0.20)** |"
  )
  assert lines[3] == "| rl | 1 | 1 | it \\| broke |  |  |"
  assert lines[4] == "| rl | 3 | 0 | not finished yet |  |  |"


def test_an_arm_of_which_nothing_has_finished_has_no_best_point():
  records = rank([_result("1", error="no"), _result("2", error="no")])
  assert [r["is_best"] for r in records] == [False, False]


def test_columns_are_named_as_briefly_as_they_differ():
  records = rank(
    [
      _result(
        "1",
        _run(0, [0, 1], [0, 1]),
        sft__learning_rate="2",
        learner__warmup_steps="3",
      ),
      _result("1", _run(0, [0, 1], [0, 1]), arm="ppo"),
    ]
  )
  header, _, line, other, *_ = markdown(records, 1).splitlines()
  assert header.startswith(
    "| arm | learning_rate | sft.learning_rate | warmup_steps | seeds |"
  )
  assert line.startswith("| **rl** | **1** | **2** | **3** | **1** |")
  assert other.startswith("| **ppo** | **1** |  |  | **1** |")
