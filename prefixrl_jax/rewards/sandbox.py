"""One isolated Python process, for one job of model-written code.

How it is isolated is in isolation.py, what runs in it in inside/.
"""

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import tempfile
import time
from typing import Any

from prefixrl_jax.rewards import isolation
from prefixrl_jax.rewards.inside import folders, plain

OUTPUT_BYTES = 4 * 2**20
_MAX_MESSAGE = 8 * OUTPUT_BYTES  # JSON writes some characters as six


class Died(Exception):
  """The sandbox is gone, or sent nonsense."""


class TooLong(Died):
  """A message is longer than the limit."""


class OutOfTime(Exception):
  """A sandbox has run out of time."""

  def __str__(self) -> str:
    """Sets the message."""
    return "it did not answer in time"


class Sandbox:
  """One isolated process; send a job, then messages, then close."""

  _process: Any  # a Popen whose pipes exist

  def __init__(self, how: isolation.Bubblewrap | isolation.Subprocess):
    """Starts the process, which then waits."""
    self._how, self._pid, self._tmp = how, 0, ""
    if isinstance(how, isolation.Bubblewrap):
      self._start_bubblewrap(how)
    else:
      prefix = f"unsafe_subprocess_{os.getpid()}_"
      self._tmp = tempfile.mkdtemp(prefix=prefix)
      try:
        self._start(how.command, cwd=self._tmp, env=how.environment(self._tmp))
      except BaseException:
        os.rmdir(self._tmp)
        raise

  def _start_bubblewrap(self, how):
    info, info_end = os.pipe()
    program, program_end = os.pipe()
    try:
      os.write(program_end, how.never)  # far less than a pipe holds
      os.close(program_end)
      command = how.command(info=info_end, filter_from=program)
      self._start(command, pass_fds=(info_end, program), env={})
    except BaseException:
      os.close(info)
      raise
    finally:
      os.close(info_end)
      os.close(program)
    self._info = info

  def _start(self, command, **options):
    pipe = subprocess.PIPE
    self._process = subprocess.Popen(
      command,
      stdin=pipe,
      stdout=pipe,
      stderr=pipe,
      bufsize=0,
      start_new_session=True,  # Ctrl-C is the host's to handle
      **options,
    )
    os.set_blocking(self._process.stdin.fileno(), False)
    os.set_blocking(self._process.stdout.fileno(), False)

  def is_alive(self) -> bool:
    """Whether the process is still there."""
    return self._process.poll() is None

  def wait_until_ready(self, deadline: float) -> None:
    """Waits until the process is ready for a job.

    Raises:
      Died, OutOfTime: see there.
    """
    unpack(self.receive(deadline, max_bytes=100))

  def send(self, message: Any, deadline: float) -> None:
    """Sends a message, waiting until the process reads it.

    Args:
      message: JSON values, or bytes: a message as it was received.
      deadline: the latest time.monotonic().

    Raises:
      Died, OutOfTime: see there.
    """
    data = memoryview(
      message if isinstance(message, bytes) else plain.frame(message)
    )
    pipe = self._process.stdin.fileno()
    while data:
      self._wait(pipe, select.POLLOUT, deadline)
      try:
        data = data[os.write(pipe, data) :]
      except BrokenPipeError:
        raise Died(self.stderr()) from None

  def receive(self, deadline: float, *, max_bytes: int) -> bytes:
    """Returns the next message, its length included.

    Raises:
      Died, TooLong, OutOfTime: see there.
    """
    data = self._read(4, deadline)
    (length,) = struct.unpack(">I", data)
    if length > max_bytes:
      raise TooLong(f"a message of {length} bytes")
    return data + self._read(length, deadline)

  def ask(self, message: Any, deadline: float) -> dict[str, Any]:
    """Sends a message and returns the reply, as the JSON object it is."""
    self.send(message, deadline)
    return unpack(self.receive(deadline, max_bytes=_MAX_MESSAGE))

  def _read(self, count, deadline):
    parts = []
    pipe = self._process.stdout.fileno()
    while count:
      self._wait(pipe, select.POLLIN, deadline)
      part = os.read(pipe, min(count, 1 << 20))
      if not part:
        raise Died(self.stderr())
      parts.append(part)
      count -= len(part)
    return b"".join(parts)

  def _wait(self, fd, event, deadline):
    poll = select.poll()
    poll.register(fd, event)
    if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
      raise OutOfTime

  def stderr(self) -> str:
    """Kills the process; returns its own or bwrap's last output."""
    self._kill()
    return self._process.stderr.read(2000).decode(errors="replace")

  def _kill(self):
    """Kills everything in the sandbox, and waits until it is gone."""
    if self._process.poll() is not None:
      return
    if isinstance(self._how, isolation.Bubblewrap):
      # The first process of the pid namespace: when it dies all others have,
      # and bwrap, which waits for it, ends.
      self._pid = self._pid or _child_pid(self._info)
      with contextlib.suppress(ProcessLookupError):
        os.kill(self._pid or self._process.pid, signal.SIGKILL)
    else:
      # Solutions can leave neither the group nor the session.
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()

  def close(self) -> None:
    """Kills what is left and frees everything."""
    self._kill()
    for stream in (
      self._process.stdin,
      self._process.stdout,
      self._process.stderr,
    ):
      stream.close()
    if isinstance(self._how, isolation.Bubblewrap):
      os.close(self._info)
    else:
      self._remove_folder()

  def _remove_folder(self):
    # Ours, unless the solution has replaced it.
    with contextlib.suppress(OSError):
      folder = os.open(self._tmp, os.O_RDONLY | os.O_NOFOLLOW)
      try:
        folders.empty(folder)
      finally:
        os.close(folder)
      os.rmdir(self._tmp)

  def __enter__(self) -> "Sandbox":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def unpack(message: bytes) -> dict[str, Any]:
  """Returns a message's JSON object.

  Raises:
    Died: it is not one.
  """
  try:
    value = json.loads(message[4:])
  except (ValueError, RecursionError) as e:
    raise Died(f"a message that is not JSON: {e}") from None
  if not isinstance(value, dict):
    raise Died("a message that is not an object")
  return value


def _child_pid(info) -> int:
  """Returns the sandbox's first process as reported by bwrap; else 0."""
  text = b""
  while part := os.read(info, 4096):
    text += part
  return json.loads(text)["child-pid"] if text else 0
