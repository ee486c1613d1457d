"""What training left, by windows of its cost: by hand."""

import math

import numpy as np
import pytest

from prefixrl_jax.evals.curves import RunRecord
from prefixrl_jax.evals.summary import summarize
from prefixrl_jax.evals.training import TrainingRecord, over_training
from prefixrl_jax.evals.training_figures import figure_d, figure_e, figure_f


def _row(step, cost, **values):
  return {
    "step": step,
    "flops_paper": cost,
    **{f"train/{name.replace('__', '/')}": x for name, x in values.items()},
  }


def _rows(norms):
  """A step costs 10; the middles of the windows of four are 25, 55."""
  return [
    _row(i + 1, 10.0 * (i + 1), grad_norm=norm) for i, norm in enumerate(norms)
  ]


def test_windows_have_means_and_deviations_of_seeds():
  runs = [
    TrainingRecord(_rows([1, 2, 3, 2, 5, 5, 5, 5])),
    TrainingRecord(_rows([4, 4, 4, 4, 7, 9, 7, 9])),
  ]
  steps = over_training(runs)["steps"]
  # From 10 to 80: windows end at 45 and 80.
  assert steps["grad_norm"]["all"] == {
    "cost": [27.5, 62.5],
    "mean": [3.0, 6.5],
    "min": [2.0, 5.0],
    "max": [4.0, 8.0],
  }
  deviations = [[math.sqrt(2 / 3), 0], [0, math.sqrt(4 / 3)]]
  found = steps["grad_norm_std"]["all"]
  np.testing.assert_allclose(found["mean"], np.mean(deviations, axis=0))
  np.testing.assert_allclose(found["max"], np.max(deviations, axis=0))


def test_a_window_of_a_single_value_has_no_deviation():
  rows = _rows([1.0, None, None, None])  # those that were not finite
  steps = over_training([TrainingRecord(rows)])["steps"]
  assert steps["grad_norm"]["all"]["mean"] == [1.0]
  assert set(steps) == {"grad_norm"}


def test_only_what_was_sampled_has_an_entropy_and_a_signal():
  # An update reports an entropy of 0 for what is not there.
  sampled = [
    _row(
      i,
      float(i),
      prefixed__entropy=0.0,
      no_prefix__entropy=0.5,
      no_prefix__accuracy=0.0,
      no_prefix__signal=0.25,
      no_prefix__any_correct=1.0,
      no_prefix__all_correct=0.0,
      no_prefix__marker=0.125,
    )
    for i in range(1, 5)
  ]
  steps = over_training([TrainingRecord(sampled)])["steps"]
  assert {m: list(by_kind) for m, by_kind in steps.items()} == {
    "signal": ["no_prefix"],
    "entropy": ["no_prefix"],
    "marker": ["no_prefix"],
  }
  assert steps["signal"]["no_prefix"]["mean"] == [0.25]
  off_policy = [_row(1, 1.0, no_prefix__entropy=0.5, prefixed__entropy=0.0)]
  assert over_training([TrainingRecord(off_policy)])["steps"] == {}


def test_the_signal_of_older_runs_is_between_any_and_all_correct():
  rows = [
    _row(
      1,
      1.0,
      prefixed__accuracy=0.5,
      prefixed__any_correct=0.75,
      prefixed__all_correct=0.25,
    )
  ]
  steps = over_training([TrainingRecord(rows)])["steps"]
  assert steps["signal"]["prefixed"]["mean"] == [0.5]


def test_groups_are_told_apart_by_the_author_of_their_trace():
  prefixed = [(1, "a", 0.0), (1, "a", 1.0), (4, "b", 0.25), (9, "b", 1.0)]
  record = TrainingRecord(_rows([1.0] * 8), prefixed)  # without a step 9
  sources = over_training([record])["sources"]
  assert sources == {
    "a": {"cost": [27.5], "mean": [0.5], "min": [0.5], "max": [0.5]},
    "b": {"cost": [27.5], "mean": [0.25], "min": [0.25], "max": [0.25]},
  }


def test_what_a_prefix_gains_is_by_token():
  gains = [np.array([1.0, 3.0]), np.array([2.0])]
  record = TrainingRecord(_rows([1.0]), prefix_gains=gains)
  other = TrainingRecord(_rows([1.0]), prefix_gains=[np.array([0.5, 1.0])])
  assert over_training([record, other])["prefix_kl"] == {
    "position": [0.5, 1.5],
    "mean": [1.0, 2.0],
    "min": [0.5, 1.0],
    "max": [1.5, 3.0],
  }
  assert over_training([TrainingRecord(_rows([1.0]))])["prefix_kl"] is None


def test_windows_are_as_many_as_there_are_steps_for():
  count = lambda steps: len(
    over_training([TrainingRecord(_rows([1.0] * steps))])["steps"]["grad_norm"][
      "all"
    ]["cost"]
  )
  assert [count(n) for n in (1, 7, 8, 40, 1000)] == [1, 1, 2, 10, 32]


def test_old_runs_have_nothing_and_figures_are_left_out(tmp_path):
  summary = summarize([RunRecord("prefixrl", 0, [], [], True)])
  assert summary["arms"]["prefixrl"]["training"] == {
    "steps": {},
    "sources": {},
    "prefix_kl": None,
  }
  for draw in (figure_d, figure_e, figure_f):
    assert not draw(summary, tmp_path / "figure")
  assert list(tmp_path.iterdir()) == []


def _summary(authors, **values):
  rows = [
    _row(i, 10.0 * i, grad_norm=1.0, prefixed__accuracy=0.5, **values)
    for i in range(1, 9)
  ]
  prefixed = [(i, author, 0.5) for i in range(1, 9) for author in authors]
  record = TrainingRecord(rows, prefixed)
  return summarize([RunRecord("prefixrl", 0, [], [], True, training=record)])


@pytest.mark.parametrize(("authors", "is_drawn"), [("a", False), ("ab", True)])
def test_one_source_of_prefixes_is_no_figure(tmp_path, authors, is_drawn):
  summary = _summary(authors)
  assert summary["prefix_authors"] == [*authors]
  assert figure_d(summary, tmp_path / "d") == is_drawn
  assert (tmp_path / "d.svg").exists() == is_drawn


def test_strategy_is_drawn_from_entropy_alone(tmp_path):
  assert not figure_f(_summary(""), tmp_path / "f")
  assert figure_f(_summary("", prefixed__entropy=0.5), tmp_path / "f")
  assert figure_e(_summary(""), tmp_path / "e")
  assert (tmp_path / "f.svg").exists()
  assert (tmp_path / "e.png").exists()
