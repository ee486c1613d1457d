"""Checkpoints: what is restored is what was saved, or the one before it."""

import logging
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from prefixrl_jax import checkpoints
from prefixrl_jax.checkpoints import Checkpointer
from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import transformer
from prefixrl_jax.types import UserError


def _state(mesh, value):
  x = jnp.arange(16.0).reshape(8, 2) * value
  return {"x": jax.device_put(x, sharding.sharding(mesh, (8, 2), "rows", None))}


def _abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def _save(folder, mesh, steps):
  with Checkpointer(folder, keep=2) as checkpointer:
    for step in steps:
      checkpointer.save(step, _state(mesh, step), {"step": step, "c": [step]})


def _damage(folder):
  files = [p for p in pathlib.Path(folder).rglob("*") if p.is_file()]
  assert files
  for path in files:
    path.write_bytes(b"\0")


def test_restores_the_newest_onto_another_mesh(
  tmp_path, one_device, eight_devices
):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, eight_devices, [1, 2, 3])
  target = _abstract(_state(one_device, 0))
  with Checkpointer(folder, keep=2) as checkpointer:
    step, state, host = checkpointer.restore_latest(target)
  assert (step, host) == (3, {"step": 3, "c": [3]})
  np.testing.assert_array_equal(state["x"], _state(one_device, 3)["x"])
  assert state["x"].sharding == target["x"].sharding
  kept = {p.name for p in folder.iterdir() if p.name.isdigit()}
  assert kept == {"2", "3"}


def test_ctrl_c_waits_for_a_save(tmp_path, one_device, monkeypatch):
  folder = epath.Path(tmp_path) / "c"
  state = _state(one_device, 1)
  manager_save = ocp.CheckpointManager.save

  def interrupted_save(*args, **kwargs):
    signal.raise_signal(signal.SIGINT)
    return manager_save(*args, **kwargs)

  monkeypatch.setattr(ocp.CheckpointManager, "save", interrupted_save)
  before = signal.getsignal(signal.SIGINT)
  with (
    pytest.raises(KeyboardInterrupt),
    Checkpointer(folder, keep=2) as checkpointer,
  ):
    checkpointer.save(1, state, {})
  assert signal.getsignal(signal.SIGINT) == before
  with Checkpointer(folder, keep=2) as checkpointer:
    assert checkpointer.restore_latest(_abstract(state))[0] == 1


def test_restores_parameters_alone(tmp_path, one_device, eight_devices):
  folder = epath.Path(tmp_path) / "c"
  with pytest.raises(UserError, match="run --stage=train first"):
    checkpoints.restore_params(folder, {}, None)
  with Checkpointer(folder, keep=2) as checkpointer:
    for step in (1, 2):
      state = {
        "params": _state(eight_devices, step),
        "rest": _state(eight_devices, 0),
      }
      checkpointer.save(step, state, {})
  target = _abstract(_state(one_device, 0))
  for asked, given in ((None, 2), (1, 1)):
    step, params = checkpoints.restore_params(folder, target, asked)
    assert step == given
    np.testing.assert_array_equal(params["x"], _state(one_device, given)["x"])
    assert params["x"].sharding == target["x"].sharding
  with pytest.raises(UserError, match=r"of step 3 in .*; there are 1, 2 "):
    checkpoints.restore_params(folder, target, 3)


def test_nothing_saved_is_none(tmp_path, one_device):
  with Checkpointer(epath.Path(tmp_path), keep=2) as checkpointer:
    assert checkpointer.restore_latest(_state(one_device, 0)) is None


def test_falls_back_from_a_damaged_checkpoint(tmp_path, one_device, caplog):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, one_device, [1, 2])
  _damage(folder / "2")
  with (
    Checkpointer(folder, keep=2) as checkpointer,
    caplog.at_level(logging.WARNING),
  ):
    step, state, host = checkpointer.restore_latest(
      _abstract(_state(one_device, 0))
    )
  assert (step, host["step"]) == (1, 1)
  np.testing.assert_array_equal(state["x"], _state(one_device, 1)["x"])
  assert "checkpoint 2" in caplog.text
  assert "falling back" in caplog.text


def test_says_so_when_every_checkpoint_is_damaged(tmp_path, one_device):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, one_device, [1])
  _damage(folder / "1")
  with (
    Checkpointer(folder, keep=2) as checkpointer,
    pytest.raises(UserError, match="remove that folder"),
  ):
    checkpointer.restore_latest(_abstract(_state(one_device, 0)))


def test_parameters_survive_safetensors(tmp_path, params):
  path = epath.Path(tmp_path) / "base.safetensors"
  checkpoints.save_params(path, params)
  loaded = checkpoints.load_params(path)
  assert jax.tree.structure(loaded) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  assert checkpoints.weight_hash(loaded) == checkpoints.weight_hash(params)


def test_weight_hash_sees_one_changed_value(model, params, eight_devices):
  placed = jax.tree.map(
    lambda x, like: jax.device_put(x, like.sharding),
    params,
    transformer.abstract_params(model, eight_devices),
  )
  assert checkpoints.weight_hash(placed) == checkpoints.weight_hash(params)
  name = next(iter(params))
  other = params | {name: jax.tree.map(lambda x: x.at[0].add(1), params[name])}
  assert checkpoints.weight_hash(other) != checkpoints.weight_hash(params)


def test_missing_base_model_is_named(tmp_path):
  with pytest.raises(UserError, match=r"no base model .*none\.safetensors"):
    checkpoints.load_params(epath.Path(tmp_path) / "none.safetensors")
