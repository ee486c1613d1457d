"""Kept rollouts are scored by the policy that training ended with."""

import types

import jax
import kept_rollouts
import numpy as np
import pytest
import scoring
import tiny_run
from etils import epath

from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.stages import rescore
from prefixrl_jax.storage.files import File
from prefixrl_jax.storage.rescored import read_rescored


def _without_prefix(work):
  file = File(work.artifact.directory / "without_prefix.parquet")
  return read_rescored(file)


@pytest.fixture
def work(tmp_path, monkeypatch):
  """A workspace with one finished run, of made-up rollouts."""
  config = tiny_run.config(**{"rollouts.temperature": 0.8})
  mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
  session = tiny_run.session(config, mesh)
  finished = []
  artifact = types.SimpleNamespace(
    directory=epath.Path(tmp_path / "rescore"),
    finish=lambda *args: finished.append(args),
  )
  train = types.SimpleNamespace(directory=epath.Path(tmp_path / "train"))
  monkeypatch.setattr(rescore, "policy_of", lambda *_: session.base_params)
  return types.SimpleNamespace(
    config=config,
    session=session,
    train=train,
    finished=finished,
    artifact=artifact,
    runs_to_make=lambda stage: [(artifact, "prefixrl", 0)],
    run_artifact=lambda *_: train,
    need=lambda artifact: artifact,
    begin=lambda artifact: None,
  )


def _rescored(work):
  rescore.run(work)
  return read_rescored(File(work.artifact.directory / "logprobs.parquet"))


def test_scores_are_those_of_one_pass_over_the_whole(work, monkeypatch):
  monkeypatch.setattr(rescore, "_GROUPS_AT_A_TIME", 3)
  kept_rollouts.run(work.train.directory, steps=2, num_problems=2)
  found = _rescored(work)
  assert work.finished == [
    (
      {"rollouts": 16, "without_prefix": 4},
      ["logprobs.parquet", "without_prefix.parquet"],
    )
  ]
  assert set(found) == {
    (step, group, lane)
    for step in (1, 2)
    for group in range(4)
    for lane in range(2)
  }
  completion = np.array([1, 2, 2, 2, 4])
  for problem, has_prefix in ((0, 0), (1, 1)):
    trunk = [1, *[2] * problem, *kept_rollouts.PREFIX * has_prefix]
    expected = scoring.teacher_forced(
      work.session.model,
      work.session.base_params,
      np.array(trunk),
      completion,
      0.8,
    )
    for step in (1, 2):
      np.testing.assert_allclose(
        found[step, 2 * problem + has_prefix, 1], expected, atol=2e-5
      )


def test_a_part_is_scored_and_nothing_is_fine(work, monkeypatch):
  assert _rescored(work) == {}
  kept_rollouts.run(work.train.directory, steps=2, num_problems=2)
  monkeypatch.setattr(rescore, "_MOST_ROLLOUTS", 9)
  monkeypatch.setattr(rescore, "_MOST_LATE", 0)
  assert len(_rescored(work)) == 8  # a problem's four of a step, or none
  assert _without_prefix(work) == {}


def test_the_last_prefixed_rollouts_are_scored_without_prefix_too(
  work, monkeypatch
):
  monkeypatch.setattr(rescore, "_MOST_ROLLOUTS", 0)
  kept_rollouts.run(work.train.directory, steps=20, num_problems=2)
  given, without = _rescored(work), _without_prefix(work)
  # The last tenth of the steps; a problem's second group has a prefix.
  assert set(without) == set(given)
  assert set(without) == {
    (step, group, lane)
    for step in (18, 19, 20)
    for group in (1, 3)
    for lane in range(2)
  }
  completion = np.array([1, 2, 2, 2, 4])
  for prefix, found in ((kept_rollouts.PREFIX, given), ([], without)):
    expected = scoring.teacher_forced(
      work.session.model,
      work.session.base_params,
      np.array([1, 2, *prefix]),
      completion,
      0.8,
    )
    np.testing.assert_allclose(found[19, 3, 0], expected, atol=2e-5)


def test_groups_may_be_as_large_as_the_arm_has_them(work, monkeypatch):
  """Larger than those of other arms, so that they need more rows."""
  monkeypatch.setattr(rescore, "_MOST_LATE", 0)
  work.config.arms.prefixrl.group_size = 32
  kept_rollouts.run(work.train.directory, lanes=32, tokens=24, num_problems=8)
  work.config.learner.row_length = 64
  assert len(_rescored(work)) == 512
