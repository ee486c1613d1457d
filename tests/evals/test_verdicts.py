"""Sentences about who wins."""

import pytest

from prefixrl_jax.evals.verdicts import verdicts


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
    "No other arm ends above PrefixRL, on any problems."
  ]
  assert _verdicts() == []
