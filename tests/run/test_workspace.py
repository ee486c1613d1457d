"""What a workspace refuses once the weights are there."""

import types

import pytest
from etils import epath

from prefixrl_jax.configs import demo
from prefixrl_jax.run import provenance, workspace
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.types import UserError


@pytest.fixture
def work(tmp_path, monkeypatch):
  """Screened with the weights abc; where `policy` is set, that is loaded."""
  work = Workspace(demo.get_config("tiny=true"), epath.Path(tmp_path))
  artifact = work.data_artifact("screen", 0)
  artifact.begin()
  artifact.finish({"weights": "abc"}, [])
  loaded = types.SimpleNamespace(policy="demo@abc")
  monkeypatch.setattr(workspace, "open_session", lambda *_, **__: loaded)
  monkeypatch.setattr(
    workspace.Workspace, "verifier", types.SimpleNamespace(), raising=False
  )
  return work, loaded


def test_the_weights_that_screened_go_on(work):
  work, loaded = work
  assert work.session is loaded


def test_other_weights_are_refused_once_they_are_loaded(work):
  work, loaded = work
  loaded.policy = "demo@def"
  with pytest.raises(UserError, match="'abc' in the workdir, 'def' now"):
    work.session  # noqa: B018 - loads them


def test_runs_from_before_an_arm_had_schedule_and_loss_go_on():
  config = demo.get_config("tiny=true")
  del config.arms.rl.learner.entropy_coefficient
  of = lambda arm: provenance.settings(config, "train", arm)
  older = {
    name: value
    for name, value in of("rl").items()
    if not name.startswith(("arm.schedule.", "arm.loss.", "learner."))
  } | {
    # What config.learner had when there was one method.
    f"learner.{name}": value
    for name, value in {
      "optimizer.b1": 0.9,
      "optimizer.b2": 0.95,
      "optimizer.eps": 1e-8,
      "optimizer.weight_decay": 0.0,
      "optimizer.clip_norm": 1.0,
      "warmup_steps": 30,
      "decay_steps": 0,
      "advantage": "group_mean",
      "discount": 1.0,
      "kl_coefficient": 0.0,
      "kl_estimator": "k3",
    }.items()
  }
  assert provenance.as_today(older, of("rl")) == of("rl")
  for arm, field, was in (
    ("prefixrl_adaptive", "arm.schedule.name", "mixture"),
    ("luffy", "arm.loss.name", "policy_gradient"),
    ("rl_clipped", "arm.loss.importance", "none"),
    ("rl_clipped", "learner.num_minibatches", 1),
    ("ppo", "learner.critic.kind", "none"),
  ):
    assert provenance.as_today(older, of(arm))[field] == was != of(arm)[field]
