"""Speed-ups, ratios and means, computed by hand."""

import json

import numpy as np
import pytest

from prefixrl_jax import ledger as ledger_lib
from prefixrl_jax.evals import summary as summary_lib
from prefixrl_jax.evals.curves import (
  AXES,
  CurvePoint,
  RunRecord,
  cost_to_reach,
  costs_to_reach,
)
from prefixrl_jax.evals.summary import summarize
from prefixrl_jax.types import EvalResult, UserError


def entry(cost):
  """Costs that differ between counts by known factors."""
  return {
    "flops_paper": cost,
    "flops_executed": 3 * cost,
    "tokens": 100 * cost,
    "completions": 2 * cost,
    "seconds": cost / 10,
  }


def run(
  arm,
  costs,
  accuracies,
  *,
  seed=0,
  collection=None,
  screening=0.0,
  final=0.5,
  heldout=None,
  fractions=None,
):
  """A run whose training costs, collection included, are `costs`."""
  curve = []
  for step, (cost, accuracy) in enumerate(zip(costs, accuracies)):
    ledger = {"evaluation": entry(1e9)}
    if collection is not None:
      ledger["screening"] = entry(screening)
      ledger["collection"] = entry(collection)
    rest = cost - (collection or 0.0)
    ledger["sampling"] = entry(rest / 4)
    ledger["update"] = entry(rest * 3 / 4)
    by_split = {"train": accuracy}
    if heldout is not None:
      by_split["heldout"] = heldout[step]
    curve.append(CurvePoint(step, ledger, by_split))
  accuracy_at = {0.0: final, **(fractions or {})}
  results = [
    EvalResult(f"p{i}", "train", fraction, 20, round(20 * accuracy))
    for fraction, accuracy in accuracy_at.items()
    for i in range(3)
  ]
  return RunRecord(arm, seed, curve, results, collection is not None)


def rl(**kwargs):
  """Reaches its final 0.4 at cost 40."""
  settings = {"final": 0.4} | kwargs
  return run("rl", [0, 10, 20, 30, 40], [0, 0.1, 0.2, 0.3, 0.4], **settings)


def prefixrl(**kwargs):
  """Pays 10 for traces, has 0.4 at cost 20 and 0.8 at cost 30."""
  settings = {"final": 0.8, "collection": 10.0, "screening": 20.0} | kwargs
  return run("prefixrl", [10, 20, 30], [0, 0.4, 0.8], **settings)


def versus(summary, baseline="rl", split="train"):
  return summary["versus"][baseline][split]


def test_purposes_are_those_of_the_ledger():
  assert summary_lib.PURPOSES == ledger_lib.PURPOSES
  assert summary_lib.TRAINING == ledger_lib.TRAINING


def test_cost_to_reach_is_the_first_crossing():
  cost = np.array([10.0, 20.0, 30.0, 40.0])
  accuracy = np.array([0.1, 0.5, 0.2, 0.9])
  assert cost_to_reach(cost, accuracy, 0.05) == 10
  assert cost_to_reach(cost, accuracy, 0.3) == pytest.approx(15)
  assert cost_to_reach(cost, accuracy, 0.5) == pytest.approx(20)
  assert cost_to_reach(cost, accuracy, 0.7) == pytest.approx(30 + 10 * 5 / 7)
  assert cost_to_reach(cost, accuracy, 0.95) is None


def test_costs_to_reach_of_several_lines():
  cost = np.array([10.0, 20.0, 30.0])
  accuracy = np.array([[0.1, 0.5, 0.2], [0.5, 0.5, 0.5], [0.0, 0.1, 0.1]])
  reached = costs_to_reach(cost, accuracy, np.array([0.3, 0.5, 0.2]))
  np.testing.assert_allclose(reached, [15, 10, np.inf])
  # A line that begins there, at or above its level.
  late = np.array([[np.nan, 0.3, 0.5]])
  np.testing.assert_allclose(costs_to_reach(cost, late, np.array([0.3])), [20])
  np.testing.assert_allclose(costs_to_reach(cost, late, np.array([0.4])), [25])


def test_speed_up_and_ratio_by_hand():
  compared = versus(summarize([rl(), prefixrl()]))
  assert compared["accuracy"] == 0.4
  for name in ("speed_up", "speed_up_first_crossing"):
    speed_up = {a: c["of_means"] for a, c in compared[name].items()}
    assert speed_up == {
      axis: pytest.approx(1.0 if axis.endswith("_with_screening") else 2.0)
      for axis in AXES
    }
  assert compared["final_ratio"]["of_means"] == pytest.approx(2.0)


def test_interactions_saved_by_hand():
  # RL has 80 completions judged for 0.4, PrefixRL needs 40 of them.
  saved = versus(summarize([rl(), prefixrl()]))["interactions_saved"]
  assert saved["of_means"] == pytest.approx(0.5)
  assert saved["seeds"] == {"0": pytest.approx(0.5)}
  # 0.2 is there after 2 * 60, of RL's 2 * 40; 0.4 never is.
  for end, expected in ((0.2, -0.5), (0.3, None)):
    slow = run("prefixrl", [0, 60], [0, end], final=end)
    last = run("rl", [0, 40], [0, end if expected else 0.4])
    saved = versus(summarize([last, slow]))["interactions_saved"]
    assert saved["of_means"] == expected
    assert saved["spread"]["num"] == (expected is not None)


def test_final_differences_are_of_pairs_of_seeds():
  ours, theirs = (0.9, 0.6, 0.8), (0.5, 0.2, 0.4)
  runs = [prefixrl(seed=s, final=x) for s, x in enumerate(ours)]
  runs += [rl(seed=s, final=x) for s, x in enumerate(theirs)]
  difference = versus(summarize(runs))["final_difference"]
  assert difference["of_means"] == pytest.approx(0.4)
  # Every pair differs by 0.4, however far seeds are apart.
  assert difference["interval"] == [pytest.approx(0.4)] * 2
  assert difference["spread"]["std"] == pytest.approx(0)


def test_gain_is_over_the_base_model_and_totals_are_over_seeds():
  runs = [run("base", [], [], final=0.1), rl(), rl(seed=1, final=0.6)]
  arms = summarize(runs)["arms"]
  assert arms["base"]["final"]["train"]["gain"] is None
  gain = arms["rl"]["final"]["train"]["gain"]
  assert gain["of_means"] == pytest.approx(0.5 - 0.1)
  assert gain["seeds"] == {"0": pytest.approx(0.3)}  # that have a base model
  assert arms["base"]["totals"] == {}
  assert arms["rl"]["totals"]["completions"] == {
    "mean": 80,
    "min": 80,
    "max": 80,
    "std": 0,
    "num": 2,
  }
  assert summarize(runs[1:])["arms"]["rl"]["final"]["train"]["gain"] is None


def test_pass_at_k_of_an_arm_by_hand():
  # Seed 0 has 4 samples of each problem, seed 1 has 3: k ends there.
  seeds = ([("a", 4, 1), ("b", 4, 4)], [("a", 3, 0), ("b", 3, 3)])
  runs = [
    RunRecord(
      "base",
      s,
      [],
      [EvalResult(p, "train", 0.0, n, c) for p, n, c in of_seed],
      0,
    )
    for s, of_seed in enumerate(seeds)
  ]
  by_k = summarize(runs)["arms"]["base"]["final"]["train"]["pass_at_k"]
  means = {k: value["mean"] for k, value in by_k.items()}
  # pass@k of a: 1/4, 1/2, 3/4 in seed 0, none in seed 1; b is always solved.
  assert means == {
    "1": pytest.approx((0.625 + 0.5) / 2),
    "2": pytest.approx((0.75 + 0.5) / 2),
    "3": pytest.approx((0.875 + 0.5) / 2),
  }
  for value in by_k.values():
    assert value["interval"][1] == 1  # b alone
    # a alone, of seed 1: with 1/4 times 1/4 of the draws.
    assert value["interval"][0] == 0


def test_axes_by_hand():
  of_run = summarize([prefixrl()])["arms"]["prefixrl"]["runs"]["0"]
  assert of_run["curve"]["step"] == [0, 1, 2]
  assert of_run["curve"]["cost"] == {
    "flops_paper": [10, 20, 30],
    "flops_paper_with_screening": [30, 40, 50],
    "flops_executed": [30, 60, 90],
    "flops_executed_with_screening": [90, 120, 150],
    "tokens": [1000, 2000, 3000],
    "tokens_with_screening": [3000, 4000, 5000],
    "completions": [20, 40, 60],
    "completions_with_screening": [60, 80, 100],
  }
  assert of_run["costs"]["training"] == entry(30)
  assert of_run["costs"]["sft"] == entry(0)
  levels = of_run["cost_to_level"]["flops_paper"]["train"]
  assert levels["0.05"] == pytest.approx(11.25)
  assert levels["0.6"] == pytest.approx(25)
  assert levels["0.9"] is None


def test_screening_is_charged_only_to_arms_with_traces():
  screened = rl()
  for point in screened.curve:
    point.ledger["screening"] = entry(1000.0)
  cost = summarize([screened])["arms"]["rl"]["runs"]["0"]["curve"]["cost"]
  assert cost["flops_paper_with_screening"] == cost["flops_paper"]


def test_accuracy_never_reached_is_a_speed_up_of_0():
  weak = run("prefixrl", [10, 50], [0, 0.3], collection=10.0, final=0.3)
  compared = versus(summarize([rl(), weak]))
  assert compared["speed_up"]["flops_paper"]["of_means"] == 0
  assert compared["speed_up"]["flops_paper"]["spread"]["max"] == 0
  assert compared["final_ratio"]["of_means"] == pytest.approx(0.75)


def test_baseline_at_0_has_nothing_to_speed_up():
  stuck = run("rl", [0, 40], [0.1, 0], final=0.0)
  compared = versus(summarize([stuck, prefixrl()]))
  assert compared["accuracy"] == 0
  assert compared["speed_up"]["flops_paper"]["of_means"] is None
  assert compared["speed_up"]["flops_paper"]["spread"]["num"] == 0
  assert compared["final_ratio"]["of_means"] is None
  assert compared["final_ratio"]["seeds"] == {"0": None}


def test_baseline_that_learned_nothing_crosses_at_cost_0():
  unchanged = run("rl", [0, 40], [0.1, 0.1], final=0.1)
  compared = versus(summarize([unchanged, prefixrl()]))
  crossing = compared["speed_up_first_crossing"]["flops_paper"]
  assert crossing["of_means"] is None
  # All of its 40, against 12.5 for an accuracy of 0.1.
  assert compared["speed_up"]["flops_paper"]["of_means"] == pytest.approx(3.2)
  assert compared["final_ratio"]["of_means"] == pytest.approx(8)


def test_method_that_starts_there_pays_for_its_collection():
  ahead = run("prefixrl", [16, 20], [0.4, 0.5], collection=16.0)
  compared = versus(summarize([rl(), ahead]))
  assert compared["speed_up"]["flops_paper"]["of_means"] == pytest.approx(2.5)
  free = run("prefixrl", [0, 20], [0.4, 0.5])
  compared = versus(summarize([rl(), free]))
  assert compared["speed_up"]["flops_paper"]["of_means"] is None


def test_first_crossing_is_harder_on_the_method():
  # The baseline overshoots: it has its final 0.2 at cost 10 already.
  fallen = run("rl", [0, 20, 40], [0, 0.4, 0.2], final=0.2)
  compared = versus(summarize([fallen, prefixrl()]))
  crossing = compared["speed_up_first_crossing"]["flops_paper"]["of_means"]
  assert crossing == pytest.approx(10 / 15)
  speed_up = compared["speed_up"]["flops_paper"]["of_means"]
  assert speed_up == pytest.approx(40 / 15)


def test_mean_curve_is_defined_where_all_seeds_are():
  summary = summarize(
    [
      prefixrl(),  # 0.4 at 20, 0.8 at 30
      run("prefixrl", [15, 35], [0, 0.4], seed=1, collection=15.0, final=0.4),
    ]
  )
  curve = summary["arms"]["prefixrl"]["mean_curve"]["flops_paper"]["train"]
  assert curve["cost"] == [15, 20, 30]
  np.testing.assert_allclose(curve["min"], [0, 0.1, 0.3])
  np.testing.assert_allclose(curve["max"], [0.2, 0.4, 0.8])
  np.testing.assert_allclose(curve["mean"], [0.1, 0.25, 0.55])


def test_comparisons_over_seeds_by_hand():
  slower = run("prefixrl", [10, 50], [0, 0.4], seed=1, collection=10.0)
  summary = summarize([rl(), rl(seed=1), prefixrl(), slower, rl(seed=2)])
  compared = versus(summary)["speed_up"]["flops_paper"]
  assert compared["seeds"] == {
    "0": pytest.approx(2.0),
    "1": pytest.approx(0.8),
  }
  spread = compared["spread"]
  assert (spread["min"], spread["max"]) == pytest.approx((0.8, 2.0))
  assert spread["mean"] == pytest.approx(1.4)
  assert spread["std"] == pytest.approx(0.6 * 2**0.5)
  assert spread["num"] == 2
  # Mean curve: (0.4, 0.1) at 20, (0.8, 0.2) at 30; 0.4 at 20 + 10 * 15 / 25.
  assert compared["of_means"] == pytest.approx(40 / 26)
  # The ratio of means takes every seed: mean (0.8, 0.5) / 0.4.
  ratio = versus(summary)["final_ratio"]
  assert ratio["of_means"] == pytest.approx(0.65 / 0.4)
  assert ratio["seeds"] == {"0": pytest.approx(2), "1": pytest.approx(1.25)}


def test_intervals_equal_enumeration_of_all_draws_of_two_seeds():
  # Of two pairs of seeds a quarter of the draws has the first twice, a quarter
  # the second twice; so the middle 95 % reach from the lesser to the greater.
  slower = run(
    "prefixrl", [10, 50], [0, 0.4], seed=1, collection=10.0, final=0.4
  )
  compared = versus(summarize([rl(), rl(seed=1), prefixrl(), slower]))
  for comparison, ends in (
    (compared["final_ratio"], (1.0, 2.0)),
    (compared["speed_up"]["flops_paper"], (0.8, 2.0)),
  ):
    assert comparison["interval"] == pytest.approx(ends)
    assert comparison["undefined"] == 0


def test_interval_holds_95_percent_of_the_draws():
  # Of the 27 draws of three seeds one has a ratio of 1, one of 3 (1/27 each,
  # more than 2.5 %); the middle half would end at 5/3 and 7/3.
  finals = (0.2, 0.4, 0.6)
  runs = [rl(seed=s, final=0.2) for s in range(3)]
  runs += [prefixrl(seed=s, final=f) for s, f in enumerate(finals)]
  ratio = versus(summarize(runs))["final_ratio"]
  assert ratio["of_means"] == pytest.approx(2)
  assert ratio["interval"] == pytest.approx([1, 3])


def test_seeds_of_both_arms_are_drawn_in_pairs():
  # Each is twice as good as the baseline on its seed, and so is every mean of
  # pairs; drawn apart, the ratios would reach from 1 to 4.
  runs = [rl(final=0.2), rl(seed=1, final=0.4)]
  runs += [prefixrl(final=0.4), prefixrl(seed=1, final=0.8)]
  ratio = versus(summarize(runs))["final_ratio"]
  assert ratio["interval"] == pytest.approx([2, 2])


def test_interval_says_how_many_draws_have_no_value():
  stuck = run("rl", [0, 40], [0, 0], seed=1, final=0.0)
  method = [prefixrl(), prefixrl(seed=1)]
  ratio = versus(summarize([rl(), stuck, *method]))["final_ratio"]
  # 0.8 / mean(0.4, 0) in half of the draws, 2 in a quarter, else 0.8 / 0.
  assert ratio["of_means"] == pytest.approx(4)
  assert ratio["interval"] == pytest.approx([2, 4])
  assert ratio["undefined"] == pytest.approx(0.25, abs=0.03)


def test_a_speed_up_of_a_draw_that_never_gets_there_is_0():
  stuck = run("prefixrl", [10, 30], [0, 0], seed=1, collection=10.0, final=0.0)
  compared = versus(summarize([rl(), rl(seed=1), prefixrl(), stuck]))
  speed_up = compared["speed_up"]["flops_paper"]
  assert speed_up["interval"] == pytest.approx([0, 2])
  # The mean of 0.8 and 0 at cost 30 is the target: its speed-up is no seed's.
  assert speed_up["of_means"] == pytest.approx(40 / 30)
  assert speed_up["seeds"] == {"0": pytest.approx(2.0), "1": 0}


def test_one_seed_has_no_interval():
  ratio = versus(summarize([rl(), prefixrl()]))["final_ratio"]
  assert ratio["interval"] is None
  assert ratio["undefined"] is None


def test_who_took_off_by_hand():
  base = run("base", [], [], final=0.1)
  runs = [
    base,
    rl(final=0.5),
    rl(seed=1, final=0.45),
    prefixrl(final=0.9),
    prefixrl(seed=1, final=0.1),
  ]
  summary = summarize(runs)
  assert summary["take_off"] == {"train": pytest.approx(0.5)}
  took_off = {
    arm: of_arm["final"]["train"]["took_off"]
    for arm, of_arm in summary["arms"].items()
  }
  assert took_off == {"base": [], "rl": [0], "prefixrl": [0]}
  # A base model whose seeds differ may be above the threshold on one of them.
  runs.append(run("base", [], [], seed=1, final=0.7))
  summary = summarize(runs)
  assert summary["take_off"] == {"train": pytest.approx(0.65)}
  assert summary["arms"]["base"]["final"]["train"]["took_off"] == []
  # Where nobody gets beyond the base model, nobody has taken off.
  summary = summarize([base, rl(final=0.1)])
  assert summary["take_off"] == {"train": None}
  assert summary["arms"]["rl"]["final"]["train"]["took_off"] == []


def test_hard_heldout_problems_are_shown_apart():
  results = [
    EvalResult("hard", "heldout", 0.0, 4, 1),
    EvalResult("solved", "heldout", 0.0, 4, 3),
    EvalResult("t", "train", 0.0, 4, 4),
    EvalResult("t", "train", 0.5, 4, 2),
  ]
  record = RunRecord(
    "base", 0, [], results, False, hard=frozenset({"hard", "t"})
  )
  of_arm = summarize([record])["arms"]["base"]
  final = of_arm["runs"]["0"]["final"]
  assert {s: f["accuracy"] for s, f in final.items()} == {
    "train": 1,
    "heldout": 0.5,
    "heldout_hard": 0.25,
  }
  assert final["heldout"]["pass_at_k"]["4"] == 1
  assert final["heldout_hard"]["num_problems"] == 1
  assert of_arm["by_fraction"]["train"]["fraction"] == [0.0, 0.5]
  # Without hard ones among them there is nothing to show apart.
  easy = summarize([RunRecord("base", 0, [], results, False)])
  assert list(easy["arms"]["base"]["final"]) == ["train", "heldout"]


def test_seeds_that_share_no_cost_have_no_mean_curve():
  late = run("prefixrl", [50, 60], [0, 0.9], seed=1, collection=50.0)
  summary = summarize([rl(), prefixrl(), late])
  curve = summary["arms"]["prefixrl"]["mean_curve"]["flops_paper"]["train"]
  assert curve == {"cost": [], "mean": [], "min": [], "max": []}
  compared = versus(summary)["speed_up"]["flops_paper"]
  assert compared["of_means"] is None
  assert compared["seeds"] == {"0": pytest.approx(2.0)}


def test_single_seed_has_no_deviation():
  final = summarize([rl()])["arms"]["rl"]["final"]["train"]["accuracy"]
  assert final == {
    "mean": pytest.approx(0.4),
    "min": pytest.approx(0.4),
    "max": pytest.approx(0.4),
    "std": None,
    "num": 1,
  }


def test_final_accuracy_pass_at_k_and_interval():
  results = [
    EvalResult("a", "train", 0.0, 4, 4),
    EvalResult("b", "train", 0.0, 4, 0),
    EvalResult("c", "train", 0.0, 4, 1),
    EvalResult("a", "train", 0.5, 4, 4),
    EvalResult("d", "easy", 0.0, 6, 3),
  ]
  final = summarize([RunRecord("base", 0, [], results, False)])["arms"]["base"][
    "runs"
  ]["0"]["final"]
  assert list(final) == ["train", "easy"]
  train = final["train"]
  assert train["accuracy"] == pytest.approx(5 / 12)
  assert train["num_problems"] == 3
  assert train["interval"][0] < 5 / 12 < train["interval"][1]
  assert train["pass_at_k"] == {
    "1": pytest.approx(5 / 12),
    "2": pytest.approx(1 / 2),
    "4": pytest.approx(2 / 3),
  }
  assert list(final["easy"]["pass_at_k"]) == ["1", "2", "4", "6"]


def test_the_interval_of_an_accuracy_is_over_problems():
  # One problem is always solved, one never: a quarter of the draws has either
  # of them twice. Samples drawn one by one would hardly ever come to that.
  results = [EvalResult(f"p{c}", "train", 0.0, 4, c) for c in (0, 4)]
  summary = summarize([RunRecord("base", 0, [], results, False)])
  final = summary["arms"]["base"]["runs"]["0"]["final"]["train"]
  assert final["accuracy"] == 0.5
  assert final["interval"] == [0.0, 1.0]


def test_accuracy_by_fraction():
  summary = summarize(
    [
      prefixrl(fractions={0.5: 0.9}),
      prefixrl(seed=1, final=0.6, fractions={0.5: 0.7, 0.8: 1.0}),
    ]
  )
  by_fraction = summary["arms"]["prefixrl"]["by_fraction"]["train"]
  assert by_fraction["fraction"] == [0.0, 0.5, 0.8]
  assert by_fraction["mean"] == pytest.approx([0.7, 0.8, 1.0])
  assert by_fraction["min"] == pytest.approx([0.6, 0.7, 1.0])
  assert by_fraction["seeds"]["0"] == [
    pytest.approx(0.8),
    pytest.approx(0.9),
    None,
  ]


def test_heldout_is_compared_apart_from_train():
  summary = summarize(
    [
      rl(heldout=[0, 0, 0, 0.1, 0.2]),
      prefixrl(heldout=[0, 0.1, 0.2]),
    ]
  )
  speed_up = versus(summary, split="heldout")["speed_up"]["flops_paper"]
  assert speed_up["of_means"] == pytest.approx(40 / 30)
  # Without a final evaluation of this split there is no ratio.
  ratio = versus(summary, split="heldout")["final_ratio"]
  assert ratio["of_means"] is None


def test_base_and_variants_of_the_method_are_no_baselines():
  base = RunRecord("base", 0, [], rl().results, False)
  only = run("prefixrl_only", [10, 20], [0, 0.1], collection=10.0)
  summary = summarize([base, rl(), prefixrl(), only])
  assert list(summary["versus"]) == ["rl"]
  assert list(summary["arms"]) == ["base", "rl", "prefixrl", "prefixrl_only"]
  assert summary["arms"]["base"]["runs"]["0"]["costs"] == {}
  assert summarize([base, rl()])["versus"] == {}
  assert list(summarize([rl(), prefixrl()], method="rl")["versus"]) == [
    "prefixrl"
  ]


def test_summary_survives_json():
  summary = summarize(
    [
      RunRecord("base", 0, [], rl().results, False),
      run("rl", [0, 40], [0, 0], final=0.0),
      run("single", [0], [0.0]),
      prefixrl(fractions={0.5: 1.0}),
    ]
  )
  assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_no_runs_is_the_users_to_mend():
  with pytest.raises(UserError, match="no runs"):
    summarize([])


def test_inconsistent_runs_are_refused():
  with pytest.raises(ValueError, match="seed 0"):
    summarize([rl(), rl()])
  with pytest.raises(ValueError, match="shrinks"):
    summarize([run("rl", [10, 5], [0, 0])])
