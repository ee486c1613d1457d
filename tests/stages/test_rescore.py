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
  assert work.finished == [({"rollouts": 16}, ["logprobs.parquet"])]
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
  assert len(_rescored(work)) == 8  # a problem's four of a step, or none
