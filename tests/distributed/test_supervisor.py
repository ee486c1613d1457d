"""Supervisors: who ended first is named by all, and all end."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from prefixrl_jax.distributed import wire
from prefixrl_jax.distributed.hub import MAGIC

_ROOT = pathlib.Path(__file__).parents[2]
_SCRIPT = pathlib.Path(__file__).parent / "supervised.py"


def _start(*arguments, script=_SCRIPT):
  return subprocess.Popen(
    [sys.executable, script, *map(str, arguments)],
    env=os.environ | {"PYTHONPATH": str(_ROOT)},
    stderr=subprocess.PIPE,
    text=True,
  )


def _changed(folder, old, new):
  """Returns the script with other text."""
  text = _SCRIPT.read_text()
  assert old in text
  script = folder / "changed.py"
  script.write_text(text.replace(old, new))
  return script


def _ended(processes):
  """Returns exit codes and lines; none may take long."""
  try:
    said = [p.communicate(timeout=100)[1].splitlines() for p in processes]
  finally:
    for process in processes:
      if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
  return [p.returncode for p in processes], said


def _run(address, scenario, who, size=2):
  return _ended([_start(address, size, i, scenario, who) for i in range(size)])


def test_all_gather_and_end(free_address):
  assert _run(free_address, "ends", 0, size=3) == ([0] * 3, [[]] * 3)


@pytest.mark.parametrize(
  ("scenario", "who", "codes", "why"),
  [
    ("is killed", 1, [1, 137], "it was killed (by SIGKILL"),
    ("is killed", 0, [137, 1], "it was killed (by SIGKILL"),
    ("is stopped", 1, [1, 137], "no sign of life for 3 s (--heartbeat)"),
    ("is stopped", 0, [137, 1], "no sign of life for 3 s (--heartbeat)"),
    ("is lost", 1, [1, -9], "it was killed, or its machine is gone"),
    ("is lost", 0, [-9, 1], "it was killed, or its machine is gone"),
    ("fails", 1, [1, 1], "error: its disk is full"),
  ],
)
def test_who_ended_first_is_named(free_address, scenario, who, codes, why):
  ended, said = _run(free_address, scenario, who)
  assert ended == codes
  for lines in (said[i] for i in range(2) if codes[i] > 0):
    (line,) = lines
    assert line.startswith(f"process {who} of 2 ({socket.gethostname()}, pid ")
    assert f") ended: {why}" in line


def test_a_process_without_a_sign_of_life_is_given_up(free_address):
  processes = [_start(free_address, 2, i, "is silent", 1) for i in range(2)]
  started = time.monotonic()
  _, line = processes[0].communicate(timeout=100)
  assert time.monotonic() - started > 2
  assert processes[0].returncode == 1
  assert "process 1 of 2" in line
  assert "no sign of life for 3 s (--heartbeat)" in line
  processes[1].send_signal(signal.SIGCONT)
  (code,), (said,) = _ended(processes[1:])
  assert code == 1
  assert "process 0 of 2" in said[0]


@pytest.mark.parametrize("who", [0, 1])
def test_a_signal_to_one_is_all_s(free_address, who):
  codes, said = _run(free_address, "is told to end", who)
  assert codes == [143, 143]
  assert said == [["terminated, what is complete is kept"], []]


class _Fake:
  """A process that is only what the hub sees of it."""

  def __init__(self, address, index, size):
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + 30
    while True:
      try:
        self._connection = socket.create_connection((host, int(port)), 30)
        break
      except OSError:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    self._reader, self._messages = wire.Reader(), []
    hello = {"hello": MAGIC, "index": index, "size": size, "host": "fake"}
    self.send(hello)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._connection.close()

  def send(self, message):
    wire.send(self._connection, message)

  def waits_for(self, name):
    while not any(name in message for message in self._messages):
      more = self._reader.receive(self._connection)
      assert more is not None, self._messages
      self._messages += more
    return next(m[name] for m in self._messages if name in m)


@pytest.fixture
def come(free_address):
  """Has a process come to the hub of so many: (index, size)."""
  with contextlib.ExitStack() as stack:
    yield lambda *place: stack.enter_context(_Fake(free_address, *place))


@pytest.fixture
def patient(tmp_path):
  """The script, with a heartbeat that no test waits for."""
  return _changed(tmp_path, "heartbeat=3", "heartbeat=600")


def test_a_signal_while_others_are_waited_for_is_all_s(
  free_address, patient, come
):
  process = _start(free_address, 3, 0, "ends", 0, script=patient)
  fake = come(1, 3)
  process.terminate()
  assert fake.waits_for("signal") == signal.SIGTERM
  assert fake.waits_for("gone")["code"] == 143
  late = come(2, 3)
  assert "process 0 (" in (said := late.waits_for("refused"))
  assert "ended before all 3 had come: terminated, what is com" in said
  fake.send({"end": 143, "message": "terminated", "is_known": True})
  assert [end["index"] for end in fake.waits_for("bye")] == [0, 1]
  codes, said = _ended([process])
  assert (codes, said) == ([143], [["terminated, what is complete is kept"]])


def test_an_error_while_others_are_waited_for_is_all_s(
  free_address, patient, come
):
  process = _start(free_address, 3, 0, "ends", 0, script=patient)
  fake = come(1, 3)
  fake.send({"end": 1, "message": "error: no disk", "is_known": True})
  assert fake.waits_for("gone")["index"] == 1
  codes, said = _ended([process])
  assert (codes, said) == (
    [1],
    [["process 1 of 3 (fake) ended: error: no disk"]],
  )
  assert [end["index"] for end in fake.waits_for("bye")] == [0, 1]


def test_an_error_of_all_is_said_once(free_address):
  codes, said = _run(free_address, "all fail", 0)
  assert codes == [1, 1]
  assert said == [["error: no problem is hard"], []]


def test_processes_that_diverge_end(free_address):
  codes, said = _run(free_address, "is elsewhere", 1)
  assert codes == [1, 1]
  (line,) = said[0]
  assert "diverged: process 0 is at 'what comes next', process 1" in line
  assert "at 'elsewhere'" in line


def test_a_place_that_is_taken_is_refused(free_address):
  processes = [_start(free_address, 3, i, "ends", 0) for i in (0, 1, 1)]
  codes, said = _ended(processes)
  assert codes == [1, 1, 1]
  assert "say that they are process 1" in said[0][0]


def test_processes_that_were_told_other_sizes_are_refused(free_address):
  codes, said = _ended(
    [_start(free_address, size, i, "ends", 0) for i, size in ((0, 2), (1, 3))]
  )
  assert codes == [1, 1]
  assert "was told that there are 3 processes, process 0 that" in said[0][0]


@pytest.mark.parametrize(
  ("index", "why"),
  [
    (0, "of 2 processes 1 did not come within 2 s (--join_timeout)"),
    (1, "no answer from "),
  ],
)
def test_who_does_not_come_is_named(tmp_path, free_address, index, why):
  script = _changed(tmp_path, "join_seconds=90", "join_seconds=2")
  codes, said = _ended(
    [_start(free_address, 2, index, "ends", 0, script=script)]
  )
  assert codes == [1]
  assert said[0][0].startswith(f"error: {why}")
