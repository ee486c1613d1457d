"""Sentences about who wins."""

import pytest

from prefixrl_jax.evals.verdicts import finding, verdicts


def _versus(difference, interval=None, *, num=1, speed_up=None):
  return {
    "final_difference": {
      "of_means": difference,
      "interval": interval,
      "spread": {"num": num},
    },
    "speed_up": {"flops_paper": {"of_means": speed_up}},
  }


def _verdicts(**versus):
  return verdicts({"method": "prefixrl", "versus": versus})


def test_a_clear_win_of_a_baseline_says_so_with_its_interval():
  sentences = _verdicts(
    rl={"train": _versus(0.3, [0.1, 0.4], num=3)},
    luffy={
      "train": _versus(-0.123, [-0.2, -0.05], num=3, speed_up=0),
      "heldout": _versus(-0.02, [-0.1, 0.0004], num=3, speed_up=0.8),
      "easy": _versus(0.5, num=3),
    },
  )
  assert sentences == [
    "LUFFY ends above PrefixRL: on training problems by 12.3 points (95 %"
    " interval 5.0 to 20.0, 3 seeds), an accuracy that PrefixRL never reaches"
    " in training; on held-out problems by 2.0 points (95 % interval 0.0 to"
    " 10.0, 3 seeds: not beyond chance), an accuracy for which PrefixRL needs"
    " 1.2 times the FLOPs."
  ]


def test_every_winner_has_a_sentence_and_one_seed_is_called_that():
  sentences = _verdicts(
    mine={"aime": _versus(-0.5)}, hint={"heldout": _versus(-0.25)}
  )
  assert sentences == [
    "mine ends above PrefixRL: on aime problems by 50.0 points (1 seed to"
    " compare).",
    "RL with hints ends above PrefixRL: on held-out problems by 25.0 points (1"
    " seed to compare).",
  ]


@pytest.mark.parametrize("difference", [0.2, 0.0, None])
def test_without_a_winner_it_says_that(difference):
  assert _verdicts(rl={"train": _versus(difference)}) == [
    "No other arm ends above PrefixRL on any kind of problem."
  ]
  assert _verdicts() == []


def _of_arm(mean, took_off, *, num=4):
  accuracy = {"mean": mean, "num": num}
  return {"final": {"heldout": {"accuracy": accuracy, "took_off": took_off}}}


def _compared(difference, ratio, speed_up, *, num):
  """Each with its interval, as in a summary."""
  as_comparison = lambda value: {
    "of_means": value[0],
    "interval": value[1:] or None,
    "spread": {"num": num},
  }
  return {
    "heldout": {
      "final_difference": as_comparison(difference),
      "final_ratio": as_comparison(ratio),
      "speed_up": {"flops_paper": as_comparison(speed_up)},
    }
  }


def test_the_finding_names_the_best_arm_and_how_sure_it_is():
  summary = {
    "method": "prefixrl",
    "arms": {
      "base": _of_arm(0.99, []),  # no arm that is trained
      "rl": _of_arm(0.1, [3]),
      "sft_rl": _of_arm(0.4, [1, 2]),
      "prefixrl": _of_arm(0.8, [0, 1, 2, 3]),
    },
    "versus": {
      "rl": _compared((0.7,), (8.0,), (3.0,), num=4),
      "sft_rl": _compared((0.4, 0.2, 0.6), (2, 1.5, 4), (1.96, 1, 3), num=4),
    },
  }
  assert finding(summary) == (
    "On held-out problems, PrefixRL ends at 80.0 % and the best other arm, SFT"
    " + RL, at 40.0 %: 40.0 points more (95 % interval 20.0 to 60.0, 4 seeds),"
    " or 2.0 times (95 % interval 1.5 to 4.0) the accuracy; it reaches SFT +"
    " RL's final accuracy 2.0 times (95 % interval 1.0 to 3.0) as fast in"
    " training FLOPs; 4 of 4 seeds took off with PrefixRL and 2 of 4 with SFT +"
    " RL."
  )
  summary["versus"]["sft_rl"] = _compared((0.4,), (2.0,), (0.9,), num=1)
  assert finding(summary) == (
    "On held-out problems, PrefixRL ends at 80.0 % and the best other arm, SFT"
    " + RL, at 40.0 %; with one seed, how much of this is chance is not known."
  )


def test_a_finding_of_arms_without_a_common_seed_has_no_interval():
  summary = {
    "method": "prefixrl",
    "arms": {"rl": _of_arm(0.1, []), "prefixrl": _of_arm(0.2, [0])},
    "versus": {"rl": _compared((0.1,), (2.0,), (None,), num=0)},
  }
  assert finding(summary) == (
    "On held-out problems, PrefixRL ends at 20.0 % and the best other arm, RL,"
    " at 10.0 %; as they have no seed in common, how much of this is chance is"
    " not known."
  )


def test_a_finding_that_chance_explains_says_so():
  summary = {
    "method": "prefixrl",
    "arms": {
      "rl": _of_arm(0.0, [], num=2),
      "prefixrl": _of_arm(0.1, [0], num=2),
    },
    "versus": {"rl": _compared((0.1, 0.0, 0.2), (None,), (None,), num=2)},
  }
  assert finding(summary) == (
    "On held-out problems, PrefixRL ends at 10.0 % and the best other arm, RL,"
    " at 0.0 %: 10.0 points more, which may be chance (95 % interval 0.0 to"
    " 20.0, 2 seeds); 1 of 2 seeds took off with PrefixRL and 0 of 2 with RL."
  )
  assert finding(summary | {"versus": {}}) == ""


def test_a_method_that_loses_is_said_to_have_fewer_points():
  summary = {
    "method": "prefixrl",
    "arms": {
      "rl": _of_arm(0.5, [0, 1, 2], num=3),
      "prefixrl": _of_arm(0.2, [], num=2),
    },
    "versus": {"rl": _compared((-0.25, -0.4, -0.1), (0.4,), (0,), num=2)},
  }
  assert finding(summary) == (
    "On held-out problems, PrefixRL ends at 20.0 % and the best other arm, RL,"
    " at 50.0 %: 25.0 points fewer (95 % interval 10.0 to 40.0, the 2 seeds of"
    " both); 0 of 2 seeds took off with PrefixRL and 3 of 3 with RL."
  )
