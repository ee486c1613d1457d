"""One process at a time works in a workdir."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest
from etils import epath

from prefixrl_jax.storage import locking
from prefixrl_jax.storage.locking import (
  LOCK,
  Owner,
  check_parent_holds,
  locked,
)
from prefixrl_jax.types import UserError

_HOLDS_IT = """
import sys, time
from etils import epath
from prefixrl_jax.storage.locking import locked
with locked(epath.Path(sys.argv[1]), print):
  print("mine", flush=True)
  time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
  """Another process that has the lock."""
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLDS_IT, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
    env=dict(os.environ, PYTHONPATH=str(pathlib.Path(__file__).parents[2])),
  )
  assert process.stdout.readline() == "mine\n"
  yield process
  process.kill()
  process.wait()
  process.stdout.close()


def _lock(tmp_path, said=None):
  """Takes the lock and gives it back; whether it could."""
  said = [] if said is None else said
  with locked(epath.Path(tmp_path), said.append):
    return (tmp_path / LOCK).exists()


def _leave(tmp_path, **fields):
  """Leaves the lock of a process as this one, but for the fields."""
  owner = dataclasses.replace(Owner.this(), **fields)
  (tmp_path / LOCK).write_text(json.dumps(dataclasses.asdict(owner)))


def test_it_is_given_back(tmp_path):
  assert _lock(tmp_path / "run")
  assert not list((tmp_path / "run").iterdir())

  def fail():
    with locked(epath.Path(tmp_path), print):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    fail()
  assert _lock(tmp_path)


def test_two_processes_do_not_work_in_one_workdir(tmp_path, other):
  with pytest.raises(UserError) as e:
    _lock(tmp_path)
  assert f"process {other.pid} on {Owner.this().host}" in str(e.value)
  assert "another --workdir" in str(e.value)
  assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_no_lock_behind(tmp_path, other, number):
  """Not even while its parent has not asked how it ended."""
  other.send_signal(number)
  os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
  said = []
  assert _lock(tmp_path, said)
  assert f"process {other.pid}" in said[0]
  assert "is gone; its lock is taken over" in said[0]
  assert not list(tmp_path.iterdir())


def test_a_pid_that_another_process_has_by_now_is_no_owner(tmp_path):
  _leave(tmp_path, started="1")
  assert _lock(tmp_path)


def test_a_lock_of_before_the_host_started_is_taken_over(tmp_path):
  _leave(tmp_path, boot="another")
  assert _lock(tmp_path)


@pytest.mark.parametrize("field", ["host", "pids"])
def test_elsewhere_who_gives_no_sign_of_life_is_gone(
  tmp_path, monkeypatch, field
):
  """On another host, and in another container, pids mean nothing here."""
  monkeypatch.setattr(locking, "_GONE", 0.2)
  _leave(tmp_path, **{field: "another"}, pid=2**22 + 1)
  said = []
  assert _lock(tmp_path, said)
  assert "waiting 0.2 s for a sign of life" in said[0]
  assert "is gone; its lock is taken over" in said[1]


def test_elsewhere_who_renews_its_lock_lives(tmp_path, monkeypatch):
  monkeypatch.setattr(locking, "_RENEW", 0.02)
  other = {"host": "another", "pid": 2**22 + 1}
  _leave(tmp_path, **other)
  owner = dataclasses.replace(Owner.this(), **other)
  renewal = locking._Renewal(epath.Path(tmp_path / LOCK), owner)
  renewal.start()
  with pytest.raises(
    UserError, match=r"process 4194305 on another has been working in"
  ):
    _lock(tmp_path)
  renewal.stop()
  assert json.loads((tmp_path / LOCK).read_text())["renewals"] > 0


def test_elsewhere_who_gives_it_back_is_waited_for(tmp_path):
  _leave(tmp_path, host="another")
  said = []

  def gives_it_back(line):
    said.append(line)
    (tmp_path / LOCK).unlink(missing_ok=True)

  with locked(epath.Path(tmp_path), gives_it_back):
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_who_has_lost_its_lock_is_told_to_end(tmp_path, monkeypatch):
  """As one that was suspended, and over which another has gone on."""
  monkeypatch.setattr(locking, "_RENEW", 0.02)
  told = threading.Event()
  signal.signal(signal.SIGTERM, lambda *_: told.set())
  with locked(epath.Path(tmp_path), print):
    _leave(tmp_path, host="another")
    assert told.wait(20)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}'])
def test_a_lock_that_says_nothing_is_named(tmp_path, text):
  (tmp_path / LOCK).write_text(text)
  with pytest.raises(UserError, match=rf"{LOCK} is there, .*remove the file"):
    _lock(tmp_path)


def test_another_s_lock_is_not_given_back(tmp_path):
  # Somebody has removed ours, and a process elsewhere has begun.
  with locked(epath.Path(tmp_path), print):
    _leave(tmp_path, host="elsewhere")
  assert json.loads((tmp_path / LOCK).read_text())["host"] == "elsewhere"


_HAS_A_CHILD = """
import os, pathlib, sys
from etils import epath
from prefixrl_jax.storage.locking import LOCK, locked
folder = pathlib.Path(sys.argv[1])
lock = locked(epath.Path(folder), print)
with lock:
  child = os.fork()
  if child == 0:
    lock.__exit__(None, None, None)
    os._exit(0)
  assert os.waitpid(child, 0)[1] == 0
  assert (folder / LOCK).exists()
assert not (folder / LOCK).exists()
"""


def test_children_do_not_give_it_back(tmp_path):
  # In a process of its own: this one may have threads of jax's.
  subprocess.run(
    [sys.executable, "-c", _HAS_A_CHILD, str(tmp_path)],
    check=True,
    env=dict(os.environ, PYTHONPATH=str(pathlib.Path(__file__).parents[2])),
  )


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  for workdir in ("file", "file/under"):
    with pytest.raises(UserError, match=f"{workdir} cannot be written") as e:
      _lock(tmp_path / workdir)
    assert "\n" not in str(e.value)


def test_only_the_holder_s_own_processes_may_work_under_its_lock(
  tmp_path, other
):
  there = epath.Path(tmp_path)
  with pytest.raises(
    UserError, match="the process that started this one is not"
  ):
    check_parent_holds(there)
  with pytest.raises(
    UserError, match="the process that started this one is not"
  ):
    check_parent_holds(there / "elsewhere")
  _leave(tmp_path, **_as_of(os.getppid()))
  check_parent_holds(there)
  _leave(tmp_path, **(_as_of(os.getppid()) | {"started": "another time"}))
  with pytest.raises(
    UserError, match="the process that started this one is not"
  ):
    check_parent_holds(there)


def _as_of(pid):
  """What tells a process from others."""
  owner = Owner.this(pid)
  return {"pid": owner.pid, "started": owner.started}
