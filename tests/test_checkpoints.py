"""Checkpoints: what is restored is what was saved, or the one before it."""

import errno
import hashlib
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
from prefixrl_jax.storage import signals
from prefixrl_jax.types import Preempted, UserError


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
    step, state, host = checkpointer.restore_latest(lambda _: target)
  assert (step, host) == (3, {"step": 3, "c": [3]})
  np.testing.assert_array_equal(state["x"], _state(one_device, 3)["x"])
  assert state["x"].sharding == target["x"].sharding
  kept = {p.name for p in folder.iterdir() if p.name.isdigit()}
  assert kept == {"2", "3"}


@pytest.mark.parametrize(
  ("number", "handler", "raised"),
  [
    (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
    (signal.SIGTERM, signals.raise_preempted, Preempted),
  ],
)
def test_signals_wait_for_a_save(
  tmp_path, one_device, monkeypatch, number, handler, raised
):
  folder = epath.Path(tmp_path) / "c"
  state = _state(one_device, 1)
  manager_save = ocp.CheckpointManager.save

  def interrupted_save(*args, **kwargs):
    signal.raise_signal(number)
    return manager_save(*args, **kwargs)

  monkeypatch.setattr(ocp.CheckpointManager, "save", interrupted_save)
  before = signal.signal(number, handler)
  try:
    with (
      pytest.raises(raised),
      Checkpointer(folder, keep=2) as checkpointer,
    ):
      checkpointer.save(1, state, {})
    assert signal.getsignal(number) == handler
  finally:
    signal.signal(number, before)
  with Checkpointer(folder, keep=2) as checkpointer:
    assert checkpointer.restore_latest(lambda _: _abstract(state))[0] == 1


@pytest.mark.parametrize("is_relative", [False, True])
def test_restores_parameters_alone(
  tmp_path, one_device, eight_devices, monkeypatch, is_relative
):
  monkeypatch.chdir(tmp_path)
  folder = epath.Path("c" if is_relative else tmp_path / "c")
  with pytest.raises(UserError, match="Run --stage=train first"):
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
    assert checkpointer.restore_latest(lambda _: _state(one_device, 0)) is None


def _files(folder):
  """Returns what is in a folder, by name."""
  folder = pathlib.Path(folder)
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob("*")
    if p.is_file()
  }


def test_falls_back_from_a_damaged_checkpoint_and_keeps_it(
  tmp_path, one_device, caplog
):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, one_device, [1, 2])
  _damage(folder / "2")
  damaged = _files(folder / "2")
  target = _abstract(_state(one_device, 0))
  with (
    Checkpointer(folder, keep=2) as checkpointer,
    caplog.at_level(logging.WARNING),
  ):
    step, state, host = checkpointer.restore_latest(lambda _: target)
  assert (step, host["step"]) == (1, 1)
  np.testing.assert_array_equal(state["x"], _state(one_device, 1)["x"])
  assert "checkpoint 2" in caplog.text
  assert "SHA256SUMS is damaged" in caplog.text
  assert "falling back to 1" in caplog.text
  assert _files(folder / "2") == damaged


def test_what_cannot_be_read_survives_the_saves_that_follow(
  tmp_path, one_device
):
  folder = epath.Path(tmp_path) / "c"
  aside = tmp_path / "c.unreadable"
  target = _abstract(_state(one_device, 0))
  _save(folder, one_device, [1, 2])
  for name in ("2", "2_again"):
    _damage(folder / "2")
    damaged = _files(folder / "2")
    with Checkpointer(folder, keep=2) as checkpointer:
      assert checkpointer.restore_latest(lambda _: target)[0] == 1
      assert not (aside / name).exists()
      checkpointer.save(2, _state(one_device, 2), {})
    assert _files(aside / name) == damaged
    with Checkpointer(folder, keep=2) as checkpointer:
      step, state, _ = checkpointer.restore_latest(lambda _: target)
    assert step == 2
    np.testing.assert_array_equal(state["x"], _state(one_device, 2)["x"])
  _save(folder, one_device, [3, 4, 5])  # which leave the two newest
  assert {p.name for p in folder.iterdir()} == {"4", "5"}
  assert {p.name for p in aside.iterdir()} == {"2", "2_again"}


_FAULTS = [
  OSError(errno.EIO, "Input/output error"),
  MemoryError("out of memory"),
  ValueError("FAILED_PRECONDITION: Error opening zarr driver"),
  jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating"),
]


def _faulty(monkeypatch, error, times=None):
  """Lets Orbax's restore raise, for ever or so many times."""
  restore = ocp.CheckpointManager.restore
  raised = []

  def faulty(*args, **kwargs):
    if times is None or len(raised) < times:
      raised.append(error)
      raise error
    return restore(*args, **kwargs)

  monkeypatch.setattr(ocp.CheckpointManager, "restore", faulty)


@pytest.mark.parametrize("error", _FAULTS, ids=lambda e: type(e).__name__)
def test_nothing_is_lost_where_nothing_can_be_read(
  tmp_path, one_device, monkeypatch, error
):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, one_device, [1, 2])
  before = _files(folder)
  target = _abstract(_state(one_device, 0))
  with monkeypatch.context() as patch:
    _faulty(patch, error)
    with (
      Checkpointer(folder, keep=2) as checkpointer,
      pytest.raises(UserError) as e,
    ):
      checkpointer.restore_latest(lambda _: target)
  for said in ("step 2", "step 1", type(error).__name__, str(error)):
    assert said in str(e.value)
  assert "remove that" not in str(e.value)
  assert len(str(e.value).splitlines()) == 1
  assert _files(folder) == before
  with Checkpointer(folder, keep=2) as checkpointer:
    assert checkpointer.restore_latest(lambda _: target)[0] == 2


def test_a_fault_that_passes_at_once_costs_nothing(
  tmp_path, one_device, monkeypatch
):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, one_device, [1, 2])
  _faulty(monkeypatch, _FAULTS[0], times=1)
  with Checkpointer(folder, keep=2) as checkpointer:
    found = checkpointer.restore_latest(
      lambda _: _abstract(_state(one_device, 0))
    )
  assert found[0] == 2


def test_a_program_with_another_state_removes_nothing(tmp_path, one_device):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, one_device, [1, 2])
  before = _files(folder)
  target = _abstract(_state(one_device, 0))
  with (
    Checkpointer(folder, keep=2) as checkpointer,
    pytest.raises(UserError, match=r"no checkpoint .* the version that wrote"),
  ):
    checkpointer.restore_latest(lambda _: target | {"more": target["x"]})
  assert _files(folder) == before


def test_parameters_come_from_the_step_asked_for_or_none(
  tmp_path, one_device, monkeypatch
):
  folder = epath.Path(tmp_path) / "c"
  state = lambda step: {"params": _state(one_device, step)}
  with Checkpointer(folder, keep=2) as checkpointer:
    for step in (1, 2):
      checkpointer.save(step, state(step), {})
  before = _files(folder)
  target = _abstract(_state(one_device, 0))
  for asked in (2, None):
    with monkeypatch.context() as patch:
      _faulty(patch, _FAULTS[0])
      with pytest.raises(UserError, match=r"checkpoint 2 .*Input/output error"):
        checkpoints.restore_params(folder, target, asked)
    assert _files(folder) == before
  _damage(folder / "2")
  with pytest.raises(
    UserError, match=r"SHA256SUMS is damaged\); there are 1, "
  ):
    checkpoints.restore_params(folder, target, 2)
  assert checkpoints.restore_params(folder, target, 1)[0] == 1


def test_sums_are_those_of_the_files(tmp_path, one_device):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, one_device, [1])
  files = _files(folder / "1")
  lines = files.pop("SHA256SUMS").decode().splitlines()
  written = {name: sum_ for sum_, name in (x.split("  ") for x in lines)}
  assert written == {
    name: hashlib.sha256(data).hexdigest()
    for name, data in files.items()
    if "/" in name  # not Orbax's notes on the folder, which hold no data
  }
  assert {"host/metadata", "state/_METADATA"} < set(written)


def _flip(path, rng):
  """Flips a bit somewhere in a file; returns what undoes it."""
  whole = path.read_bytes()
  flipped = bytearray(whole)
  flipped[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
  path.write_bytes(flipped)
  return lambda: path.write_bytes(whole)


def test_every_flipped_bit_is_noticed(tmp_path, one_device, rng):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, one_device, [1])
  names = [n for n in _files(folder / "1") if "/" in n] + ["SHA256SUMS"] * 9
  for _ in range(150):
    undo = _flip(pathlib.Path(folder / "1" / rng.choice(names)), rng)
    with pytest.raises(checkpoints.DamagedError):
      checkpoints.check_sums(folder / "1")
    undo()
  checkpoints.check_sums(folder / "1")


def test_both_ways_to_read_notice_a_flipped_bit(tmp_path, one_device, rng):
  folder = epath.Path(tmp_path) / "c"
  with Checkpointer(folder, keep=2) as checkpointer:
    for step in (1, 2):
      checkpointer.save(step, {"params": _state(one_device, step)}, {})
  (data,) = pathlib.Path(folder / "2/state/d").iterdir()
  _flip(data, rng)
  target = _abstract(_state(one_device, 0))
  said = f"2/state/d/{data.name} is not what was written"
  with pytest.raises(UserError, match=said):
    checkpoints.restore_params(folder, target, 2)
  with Checkpointer(folder, keep=2) as checkpointer:
    assert checkpointer.restore_latest(lambda _: {"params": target})[0] == 1


def test_a_missing_file_is_named(tmp_path, one_device):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, one_device, [1])
  (folder / "1/host/metadata").unlink()
  with (
    Checkpointer(folder, keep=2) as checkpointer,
    pytest.raises(UserError, match="1/host/metadata is missing"),
  ):
    checkpointer.restore_latest(lambda _: _abstract(_state(one_device, 0)))


def test_a_checkpoint_of_before_there_were_sums_is_read(
  tmp_path, one_device, caplog
):
  folder = epath.Path(tmp_path) / "c"
  _save(folder, one_device, [1])
  (folder / "1/SHA256SUMS").unlink()
  with Checkpointer(folder, keep=2) as checkpointer:
    found = checkpointer.restore_latest(
      lambda _: _abstract(_state(one_device, 0))
    )
  assert found[0] == 1
  assert "SHA256SUMS is missing" in caplog.text


def test_a_save_that_orbax_would_pass_over_is_an_error(tmp_path, one_device):
  folder = epath.Path(tmp_path) / "c"
  with pytest.raises(RuntimeError, match="refuses step 1"):
    _save(folder, one_device, [2, 1])
