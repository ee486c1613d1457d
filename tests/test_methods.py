"""Every method trains on the one loop, resumes, and is charged what it does."""

import jax
import numpy as np
import pandas as pd
import pytest
import tiny_run
from documented import undocumented
from etils import epath

from prefixrl_jax import train
from prefixrl_jax.configs import demo
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.models import parameters
from prefixrl_jax.run import provenance, rollout
from prefixrl_jax.settings.validation import validate
from prefixrl_jax.storage.metrics import read_jsonl
from prefixrl_jax.train import trained_params
from prefixrl_jax.types import Verdict


@pytest.fixture(scope="module")
def mesh():
  return make_mesh(1, 1, 1, devices=jax.devices()[:1])


@pytest.fixture(autouse=True)
def judged(monkeypatch):
  """Some completions are right, as their tokens have it."""

  def judge(verifier, tokenizer, problems, prefixes, completions):
    return [Verdict(float(c.tokens.sum() % 4 == 0)) for c in completions]

  monkeypatch.setattr(rollout, "judge", judge)


def _train(mesh, folder, arm, **fields):
  config = tiny_run.config(
    **{"train.max_steps": 4, "train.checkpoint_every": 1, **fields}
  )
  config.run_arms = (arm,)
  config.problems.num_easy_train = 3
  validate(config)
  session, directory = tiny_run.session(config, mesh), epath.Path(folder)
  trained = train.train(session, tiny_run.data(), directory, arm=arm, seed=0)
  weights = parameters.weight_hash(trained_params(session, directory))
  return trained.curve, read_jsonl(directory / "metrics.jsonl"), weights


# Fields beside an arm's own, and after how many updates it is killed.
_RESUMED = {
  # In the midst of the third step's mini-batches.
  "ppo": (
    {
      "learner.kl_coefficient": 0.1,
      "learner.kl_in": "reward",
      "learner.kl_target": 0.01,
      "learner.kl_horizon": 10,
    },
    10,
  ),
  "dapo": ({"learner.kl_coefficient": 0.1, "learner.kl_target": 0.01}, 6),
  "luffy": ({}, 2),
  "off_policy": ({}, 2),
  "hint": ({"learner.truncated": "masked", "learner.whiten": True}, 2),
}


# What each spends, beside sampling and updates.
_SPENDS = {
  "ppo": {"scoring"},
  "sft_rl": {"sft"},
  # Of a made-up author, whose log-probabilities nobody knows: the base's.
  "off_policy": {"scoring"},
  "off_policy_truncated": {"scoring"},
}


# Arms that are another one but for numbers, the learning rate aside.
_LIKE = {
  "rl_clipped": ("rl_clip_higher", {"loss.clip_high"}),
  "rl_n64": ("rl_easy", {"group_size", "easy_share"}),
  "prefixrl_only": ("prefixrl", {"prefixed_share"}),
}


@pytest.mark.parametrize("arm", _LIKE)
def test_an_arm_that_is_not_run_is_like_one_that_is(arm):
  """And `_LIKE` says how it differs."""
  other, fields = _LIKE[arm]
  assert other not in _LIKE
  one, two = (
    dict(provenance.flatten(demo.get_config().arms[x])) for x in (arm, other)
  )
  assert one.keys() == two.keys()
  differs = {field for field in one if one[field] != two[field]}
  assert differs - {"learning_rate"} == fields


# The others are resumed, and looked at then.
@pytest.mark.parametrize(
  "arm", sorted(demo.get_config().arms.keys() - _RESUMED.keys() - _LIKE.keys())
)
def test_every_arm_trains_and_is_charged_what_it_does(mesh, tmp_path, arm):
  curve, rows, _ = _train(
    mesh, tmp_path, arm, **{"train.max_steps": 2, "evals.curve_points": 1}
  )
  rows = [row for row in rows if "sft/loss" not in row]
  assert len(rows) == 2
  _check(arm, curve, rows)
  if arm == "rl_easy":
    asked = set(pd.read_parquet(tmp_path / "groups").problem_id)
    assert asked & {p.id for p in tiny_run.data().easy}
    assert asked & {p.id for p in tiny_run.data().train}


def _check(arm, curve, rows):
  """Nothing compiles, all is finite, documented, and charged."""
  assert {x for row in rows for x in undocumented(row)} == {"step"}
  assert {row["compilations"] for row in rows} == {0}
  for row in rows:
    assert all(x is not None and np.isfinite(x) for x in row.values())
  ledger = curve[-1]["ledger"]
  spent = {p for p, fields in ledger.items() if fields["flops_paper"]}
  expected = {"evaluation", "update", "sampling"} | _SPENDS.get(arm, set())
  if arm.startswith("off_policy"):
    expected.remove("sampling")
  assert spent == expected


@pytest.mark.parametrize("arm", _RESUMED)
def test_resumed_equals_uninterrupted(mesh, tmp_path, monkeypatch, arm):
  fields, killed_after = _RESUMED[arm]
  curve, rows, weights = _train(mesh, tmp_path / "whole", arm, **fields)
  _check(arm, curve, rows)
  tiny_run.killed(
    monkeypatch,
    killed_after,
    lambda: _train(mesh, tmp_path / "killed", arm, **fields),
  )
  again, resumed, same = _train(mesh, tmp_path / "killed", arm, **fields)
  assert same == weights
  learned = lambda rows: [
    {k: v for k, v in row.items() if k.startswith(("train/", "flops"))}
    for row in rows
  ]
  assert learned(resumed) == learned(rows)
  assert [p["accuracy"] for p in again] == [p["accuracy"] for p in curve]
  if "learner.kl_target" in fields:
    coefficients = {row["train/kl_coefficient"] for row in rows}
    assert len(coefficients) == 4


def test_a_step_of_mini_batches_is_charged_like_one_of_one(mesh, tmp_path):
  """k mini-batches cost k updates of a k-th, and epochs as often again."""
  spent = {}
  for name, fields in (
    ("one", {}),
    ("four", {"learner.num_minibatches": 4}),
    ("twice", {"learner.num_minibatches": 4, "learner.num_epochs": 2}),
  ):
    curve, *_ = _train(
      mesh, tmp_path / name, "rl", **{"train.max_steps": 1, **fields}
    )
    spent[name] = curve[-1]["ledger"]["update"]
  assert spent["four"]["tokens"] == spent["one"]["tokens"]
  assert spent["four"]["flops_paper"] == spent["one"]["flops_paper"]
  assert spent["twice"]["flops_paper"] == 2 * spent["one"]["flops_paper"]
