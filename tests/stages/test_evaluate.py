"""Evaluate and export take the step that training ended with, or none."""

import errno
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from rich.console import Console

from prefixrl_jax.checkpoints import Checkpointer
from prefixrl_jax.models import parameters
from prefixrl_jax.stages import evaluate
from prefixrl_jax.types import UserError


@pytest.fixture
def trained(tmp_path, model, params, one_device):
  """A complete training of 2 steps; its parameters count the steps."""
  places = parameters.abstract_params(model, one_device)
  put = lambda x, like: jax.device_put(np.asarray(x), like.sharding)
  params = jax.tree.map(put, params, places)
  folder = epath.Path(tmp_path) / "train"
  with Checkpointer(folder / "checkpoints", keep=2) as checkpointer:
    for step in (1, 2):
      state = {"params": jax.tree.map(lambda x, n=step: x * n, params)}
      state["moments"] = jax.tree.map(np.zeros_like, state["params"])
      checkpointer.save(step, state, {})
  return folder, params


def _evaluate(monkeypatch, trained, model, mesh):
  """Returns the parameters that would be evaluated."""
  folder, base = trained
  found = []

  class Taken(Exception):
    pass

  def take(work, artifact, params, *_):
    found.append(params)
    raise Taken

  monkeypatch.setattr(evaluate, "_make", take)
  monkeypatch.setattr(evaluate.costs, "describe", lambda *_: "")
  artifact = types.SimpleNamespace(directory=folder)
  work = types.SimpleNamespace(
    config=types.SimpleNamespace(run_arms=("rl",)),
    evaluations_to_make=lambda: [(artifact, "rl", 0, "")],
    run_artifact=lambda stage, arm, seed: types.SimpleNamespace(
      directory=folder, summary={"steps": 2}
    ),
    need=lambda artifact: artifact,
    console=Console(quiet=True),
    session=types.SimpleNamespace(model=model, mesh=mesh, base_params=base),
  )
  with pytest.raises(Taken):
    evaluate.run(work)
  return found[0]


def _twice(trained):
  return jax.tree.map(lambda x: np.asarray(x) * 2, trained[1])


def test_only_the_last_steps_parameters_are_read(
  trained, model, one_device, monkeypatch
):
  restore, asked = ocp.CheckpointManager.restore, []

  def recorded(self, step, args):
    asked.append((step, set(args.keys()), set(args["state"].item)))
    return restore(self, step, args=args)

  monkeypatch.setattr(ocp.CheckpointManager, "restore", recorded)
  params = _evaluate(monkeypatch, trained, model, one_device)
  jax.tree.map(np.testing.assert_array_equal, params, _twice(trained))
  assert asked == [(2, {"state"}, {"params"})]


def _names(folder):
  return sorted(p.name for p in (folder / "checkpoints").iterdir())


def test_a_damaged_last_step_is_not_replaced_by_another(
  trained, model, one_device, monkeypatch
):
  folder, _ = trained
  [data, *_] = (folder / "checkpoints/2/state/d").iterdir()
  whole = data.read_bytes()
  data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
  with pytest.raises(UserError, match=r"checkpoint 2 .* not what was written"):
    _evaluate(monkeypatch, trained, model, one_device)
  assert _names(folder) == ["1", "2"]
  data.write_bytes(whole)  # brought back
  params = _evaluate(monkeypatch, trained, model, one_device)
  jax.tree.map(np.testing.assert_array_equal, params, _twice(trained))


def test_a_faulty_start_loses_nothing(trained, model, one_device, monkeypatch):
  folder, _ = trained

  def broken(*_, **__):
    raise OSError(errno.EIO, "Input/output error")

  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, "restore", broken)
    with pytest.raises(UserError, match=r"OSError: \[Errno 5\] Input/output"):
      _evaluate(monkeypatch, trained, model, one_device)
  assert _names(folder) == ["1", "2"]
  params = _evaluate(monkeypatch, trained, model, one_device)
  jax.tree.map(np.testing.assert_array_equal, params, _twice(trained))


def test_a_last_step_that_is_not_there_is_missed(
  trained, model, one_device, monkeypatch
):
  (trained[0] / "checkpoints/2").rmtree()
  with pytest.raises(UserError, match=r"no checkpoint of step 2 .*there are 1"):
    _evaluate(monkeypatch, trained, model, one_device)
