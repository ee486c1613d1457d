"""Evaluations side by side, by their settings and what differs."""

import json

import pytest

from prefixrl_jax.evals.curves import RunRecord
from prefixrl_jax.evals.evaluations import Evaluation, compare, label
from prefixrl_jax.evals.page import print_summary, write_report
from prefixrl_jax.types import EvalResult

_HARD = frozenset({"h0"})


def _result(name, split, correct, samples=4, fraction=0.0):
  return EvalResult(name, split, fraction, samples, correct)


def _of(arm, seed, results, of_set="", **settings):
  fields = {
    "evals.num_samples": 4,
    "evals.temperature": 1.0,
    "data_seed": seed,
    "traces_from": "collect",
    **({"set": of_set} if of_set else {}),
    **{name.replace("__", "."): value for name, value in settings.items()},
  }
  run = RunRecord(arm, seed, [], results, False, _HARD)
  return Evaluation(of_set, fields, run)


@pytest.fixture
def evaluations():
  """Two evaluations of two seeds, and a set with a draw of its own each."""
  own = lambda n, samples: [
    _result("t", "train", n, samples),
    _result("t", "train", samples, samples, fraction=0.5),
    _result("h0", "heldout", 0, samples),
    _result("h1", "heldout", samples, samples),
  ]
  made = []
  for seed in (0, 1):
    made += [
      _of("rl", seed, own(1 + seed, 4)),
      _of("rl", seed, own(4, 8), evals__num_samples=8, evals__temperature=0.5),
      _of(
        "rl",
        seed,
        [_result("a", "aime", 1), _result("b", "aime", 3)],
        "aime",
        problems=f"digest {seed}",
      ),
    ]
  return made


def test_equal_settings_of_all_seeds_are_together(evaluations):
  first, second, aime = compare(evaluations)
  train = first["arms"]["rl"]["final"]["train"]
  assert train["accuracy"]["num"] == 2
  assert train["accuracy"]["mean"] == pytest.approx((1 / 4 + 2 / 4) / 2)
  assert (train["num_problems"], train["num_samples"]) == (1, 4)
  assert second["arms"]["rl"]["final"]["train"]["accuracy"]["mean"] == 0.5
  assert list(second["arms"]["rl"]["final"]) == [
    "train",
    "heldout",
    "heldout_hard",
  ]
  assert second["arms"]["rl"]["final"]["heldout_hard"]["accuracy"]["mean"] == 0
  by_share = first["arms"]["rl"]["by_fraction"]["train"]
  assert by_share["fraction"] == [0.0, 0.5]
  assert by_share["mean"] == [pytest.approx(0.375), 1.0]
  final = aime["arms"]["rl"]["final"]["aime"]
  assert final["accuracy"]["mean"] == 0.5
  # pass@2 of 1 and of 3 in 4 samples: 1 - C(3,2)/C(4,2), and 1.
  assert final["pass_at_k"]["2"]["mean"] == pytest.approx((0.5 + 1) / 2)


def test_they_are_named_by_what_differs(evaluations):
  assert list(map(label, compare(evaluations))) == [
    "own problems, num_samples = 4, temperature = 1.0",
    "own problems, num_samples = 8, temperature = 0.5",
    "aime",
  ]
  [only] = compare(evaluations[:1])
  assert label(only) == "own problems"


def test_other_problems_of_the_same_set_are_another_evaluation(evaluations):
  again = _of(
    "rl", 0, [_result("c", "aime", 4)], "aime", problems="another digest"
  )
  names = [label(e) for e in compare([*evaluations, again])]
  assert names[2:] == [
    "aime, problems = digest 0",
    "aime, problems = digest 1",
    "aime, problems = another ",
  ]


def test_the_report_has_all_of_them(evaluations, tmp_path, capsys):
  runs = [e.run for e in evaluations if not e.of_set][::2]
  how = dict(samples=[], notes={}, trained_band=(0.4, 0.8))
  summary = write_report(tmp_path / "a", runs, evaluations=evaluations, **how)
  there = json.loads((tmp_path / "a/summary.json").read_text())
  assert there["evaluations"] == summary["evaluations"]
  page = (tmp_path / "a/index.html").read_text()
  assert ">Other evaluations</a></h2>" in page
  assert "own problems, num_samples = 8, temperature = 0.5" in page
  print_summary(summary)
  said = capsys.readouterr().out
  assert "Evaluation: aime" in said
  assert "2 x 4" in said
  # One alone is the report.
  write_report(tmp_path / "b", runs, evaluations=evaluations[:1], **how)
  assert "Other evaluations" not in (tmp_path / "b/index.html").read_text()
