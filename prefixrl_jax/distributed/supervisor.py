"""A process of a cluster is two: one that works, and its parent, which watches.

The parent has no JAX. It meets the other processes' parents at the hub, answers
within milliseconds whatever its child computes, ends the child when another
process is gone, and says which one that was: JAX by itself would wait in a
collective, or abort with a page of text.
"""

import contextlib
import ctypes
import dataclasses
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any

from prefixrl_jax.distributed import wire
from prefixrl_jax.distributed.cluster import Member
from prefixrl_jax.distributed.hub import KILLED, MAGIC, Hub
from prefixrl_jax.distributed.places import Place

# Seconds that a child has to end by itself: after an error elsewhere, in which
# it may notice the same one; and after a signal, in which it saves.
_AFTER_ERROR, _AFTER_SIGNAL = 2.0, 45.0
_ASKED = (128 + signal.SIGTERM, 128 + signal.SIGINT)
_DIES_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def enter(place: Place, join_seconds: float, heartbeat: float) -> Member:
  """Divides the process; returns in the child, which does the work.

  The parent exits as the child does, or as the cluster must.

  Args:
    place: of this process.
    join_seconds: until all processes must be there.
    heartbeat: seconds without a sign of life after which one is given up.
  """
  ours, childs = socket.socketpair()
  sys.stdout.flush()
  sys.stderr.flush()
  child = os.fork()
  if child:
    childs.close()
    code = 1
    try:
      code = _Supervisor(place, join_seconds, heartbeat, child, ours).run()
    except BaseException as e:
      print(f"error: supervisor: {type(e).__name__}: {e}", file=sys.stderr)
      with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    finally:
      with contextlib.suppress(OSError):
        sys.stderr.flush()
      os._exit(code)
  ours.close()
  os.setpgid(0, 0)  # Ctrl-C is the parent's, which passes it on
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
  return Member(childs, place.index, patience=heartbeat)


@dataclasses.dataclass
class _Source:
  """A connection that messages come from."""

  connection: socket.socket
  reader: wire.Reader = dataclasses.field(default_factory=wire.Reader)


class _Supervisor:
  """The parent's loop."""

  def __init__(
    self,
    place: Place,
    join_seconds: float,
    heartbeat: float,
    child: int,
    connection: socket.socket,
  ):
    self._place, self._heartbeat = place, heartbeat
    self._join_until = time.monotonic() + join_seconds
    self._join_seconds = join_seconds
    self._child, self._worker = child, _Source(connection)
    self._hub: Hub | None = None
    self._others: _Source | None = None
    self._has_met = False
    self._selector = selectors.DefaultSelector()
    self._heard = 0.0  # of the hub, when
    self._heard_child = time.monotonic()
    self._hosts: list[str] = []
    self._words: dict[str, Any] | None = None  # the child's last
    self._end: dict[str, Any] | None = None  # of the child
    self._gone: dict[str, Any] | None = None  # who ended first
    self._bye: list[dict[str, Any]] | None = None
    self._refused = ""
    self._kill_at, self._has_killed = float("inf"), False
    self._is_stuck = False  # the child
    self._signals: set[int] = set()  # passed on

  def run(self) -> int:
    """Returns the exit code, when everything is over."""
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
      signal.signal(number, lambda *_: None)
    self._selector.register(wake, selectors.EVENT_READ, wake)
    self._selector.register(
      self._worker.connection, selectors.EVENT_READ, self._worker
    )
    beat = self._heartbeat / 4
    next_beat, ended_at = 0.0, float("inf")
    while True:
      if not (self._has_met or self._refused or self._end):
        self._connect()
      for key, _ in self._selector.select(min(beat, 0.2)):
        if key.data is wake:
          for number in wake.recv(4096):
            if number != signal.SIGCHLD:
              self._signals.discard(number)  # whoever insists is heard again
              self._pass_on(number)
              self._send({"signal": int(number)})
        else:
          self._read(key.data)
      now = time.monotonic()
      if self._hub is not None and self._hub.refusal and not self._refused:
        self._refuse(self._hub.refusal)  # before this one came to it
      self._wait_for_child()
      if now > next_beat:
        next_beat = now + beat
        self._send({"beat": 1})
      self._check_hub(now)
      self._check_child(now)
      if now > self._kill_at and self._end is None:
        self._kill()
      if self._end is not None:
        ended_at = min(ended_at, now)
        failed = bool(self._end["code"]) or self._gone or self._refused
        patience = self._heartbeat if self._place.index == 0 else 10.0
        if (
          self._bye is not None
          or self._others is None
          or (failed and now > ended_at + patience)
        ):
          break
    if self._hub is not None:
      self._hub.join(5.0)
    return self._report()

  # -- the others --------------------------------------------------------------

  def _connect(self) -> None:
    """Tries to reach the hub, which process 0 has first to open."""
    host, _, port = self._place.coordinator.rpartition(":")
    host = host.strip("[]")
    try:
      if self._place.index == 0 and self._hub is None:
        listener = _listen(int(port))
        self._hub = Hub(
          listener,
          size=self._place.size,
          join_seconds=self._join_seconds,
          heartbeat=self._heartbeat,
          jax_address=f"{host}:{_free_port()}",
        )
        self._hub.start()
      target = "localhost" if self._place.index == 0 else host
      connection = socket.create_connection((target, int(port)), timeout=2.0)
    except OSError as e:
      if self._hub is None and self._place.index == 0:
        self._refuse(
          f"--coordinator={self._place.coordinator}: process 0 cannot listen"
          f" there ({e.strerror or e})"
        )
      elif time.monotonic() > self._join_until:
        self._refuse(
          f"no answer from {self._place.coordinator} for"
          f" {self._join_seconds:g} s ({e.strerror or e}): is process 0"
          " running, and does the port let the others in?"
        )
      else:
        time.sleep(0.1)
      return
    connection.settimeout(self._heartbeat)
    self._others, self._has_met = _Source(connection), True
    self._heard = time.monotonic()
    self._selector.register(connection, selectors.EVENT_READ, self._others)
    self._send(
      {
        "hello": MAGIC,
        "index": self._place.index,
        "size": self._place.size,
        "host": f"{socket.gethostname()}, pid {os.getpid()}",
      }
    )

  def _send(self, message: dict[str, Any]) -> None:
    if self._others is not None:
      # If it is gone, reading will say so.
      with contextlib.suppress(OSError):
        wire.send(self._others.connection, message)

  def _read(self, source: _Source) -> None:
    messages = source.reader.receive(source.connection)
    if source is self._others:
      self._heard = time.monotonic()
    else:
      self._heard_child = time.monotonic()
    for message in messages or ():
      if source is self._others:
        self._take(message)
      elif "end" in message:
        self._words = message
      elif "beat" not in message:
        self._send(message)
    if messages is None:
      self._selector.unregister(source.connection)
      source.connection.close()
      if source is self._others:
        self._others = None
        self._lose_hub("it was killed, or its machine is gone")

  def _take(self, message: dict[str, Any]) -> None:
    if "welcome" in message:
      self._hosts = message["welcome"]["hosts"]
    if "welcome" in message or "values" in message:
      with contextlib.suppress(OSError):  # it has just ended
        wire.send(self._worker.connection, message)
    elif "signal" in message:
      self._pass_on(message["signal"])
    elif "refused" in message:
      self._refuse(message["refused"])
    elif "gone" in message:
      self._learn(message["gone"])
    elif "bye" in message:
      self._bye = message["bye"]

  @property
  def _silence(self) -> str:
    return f"no sign of life for {self._heartbeat:g} s (--heartbeat)"

  def _check_hub(self, now: float) -> None:
    if self._others is None or self._bye is not None:
      return
    if now - self._heard > self._heartbeat * 0.9:
      self._lose_hub(self._silence)

  def _lose_hub(self, why: str) -> None:
    if self._bye is None and not self._refused and self._gone is None:
      host = self._hosts[0] if self._hosts else self._place.coordinator
      end = {"index": 0, "code": KILLED, "message": why, "host": host}
      self._learn(end | {"is_silent": True})
    self._bye = self._bye or []

  def _refuse(self, why: str) -> None:
    self._refused = why
    self._kill_at = 0.0

  def _learn(self, gone: dict[str, Any]) -> None:
    """Another process has ended, or this one was the first to."""
    self._gone = gone
    if gone["index"] == self._place.index:
      return
    patience = _AFTER_ERROR
    if gone["code"] in _ASKED:
      self._pass_on(gone["code"] - 128)
      patience = _AFTER_SIGNAL
    self._kill_at = time.monotonic() + patience

  # -- the child ---------------------------------------------------------------

  def _pass_on(self, number: int) -> None:
    if number in self._signals or self._end is not None:
      return
    self._signals.add(number)
    with contextlib.suppress(ProcessLookupError):
      os.kill(self._child, number)

  def _check_child(self, now: float) -> None:
    if self._end is not None or self._words is not None:
      return  # it has ended, or is about to
    if now - self._heard_child > self._heartbeat * 0.9:
      self._is_stuck = True
      self._kill()

  def _kill(self) -> None:
    self._kill_at, self._has_killed = float("inf"), True
    with contextlib.suppress(ProcessLookupError):
      os.kill(self._child, signal.SIGKILL)

  def _wait_for_child(self) -> None:
    if self._end is not None:
      return
    pid, status = os.waitpid(self._child, os.WNOHANG)
    if not pid:
      return
    with contextlib.suppress(KeyError, ValueError):
      self._read_rest()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
      code = 128 - code
    words = self._words or {}
    message = words.get("message", "")
    if self._is_stuck:
      message = self._silence
    elif code != words.get("end", 0) or (code and not message):
      number = code - 128
      message = f"it ended with code {code} and said nothing"
      if number > 0:
        message = f"it ended by {_signal_name(number)}"
      if number == signal.SIGKILL:
        message = "it was killed (by SIGKILL, as for want of memory)"
    self._end = {
      "end": code,
      "code": code,
      "message": message,
      "is_known": bool(words.get("is_known")) or code == KILLED,
    }
    self._send(self._end)

  def _read_rest(self) -> None:
    """Takes what the child had still to say."""
    connection = self._worker.connection
    with contextlib.suppress(OSError):
      connection.settimeout(0.2)
      while data := connection.recv(1 << 20):
        for message in self._worker.reader.feed(data):
          if "end" in message:
            self._words = message
    self._selector.unregister(connection)

  # -- what the user is told ---------------------------------------------------

  def _report(self) -> int:
    """Prints a line if something went wrong; returns the exit code."""
    own, gone = self._end or {"code": 1, "message": ""}, self._gone
    first = self._place.index == 0
    if self._refused:
      if first or not self._hosts:
        _say(f"error: {self._refused}")
      return 1
    if gone is None and not own["code"]:
      return 0
    if gone is None:
      gone = own | {"index": self._place.index}
    host = gone.get("host", socket.gethostname())
    named = f"process {gone['index']} of {self._place.size} ({host}) ended"
    # What all say alike, as they do of what all have alike, is said once.
    is_same = not self._has_killed and own["message"] == gone["message"]
    if first and is_same and self._words:
      _say(own["message"])
    elif first or not (is_same and self._is_said_by_first()):
      _say(f"{named}: {gone['message']}")
    if gone["index"] == self._place.index:
      return own["code"]
    return gone["code"] if gone["code"] in _ASKED else 1

  def _is_said_by_first(self) -> bool:
    """Whether process 0 has ended with the same words, and prints them."""
    own, ends = self._end or {}, self._bye or []
    return any(end["message"] == own.get("message") for end in ends[:1])


def _say(text: str) -> None:
  with contextlib.suppress(OSError):
    print(text, file=sys.stderr, flush=True)


def _signal_name(number: int) -> str:
  try:
    return signal.Signals(number).name
  except ValueError:
    return f"signal {number}"


def _listen(port: int) -> socket.socket:
  if socket.has_dualstack_ipv6():
    return socket.create_server(
      ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
    )
  return socket.create_server(("", port), backlog=1024)


def _free_port() -> int:
  with socket.create_server(("", 0)) as probe:
    return probe.getsockname()[1]
