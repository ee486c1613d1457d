"""Where the supervisors of a cluster's processes meet; a thread of process 0's.

It admits each process once, hands round what they gather, tells all of a signal
that one got, and says who ended first, and why, when one does.
"""

import contextlib
import dataclasses
import selectors
import socket
import threading
import time
from typing import Any

from prefixrl_jax.distributed import wire

MAGIC = "prefixrl_jax"
# Seconds in which the cause of an end may come after what it causes.
_CAUSES = 1.0
# Seconds for which a hub that has refused tells why.
_LATE = 2.0
KILLED = 137  # what shells say of SIGKILL


@dataclasses.dataclass
class _Peer:
  """A connection; a process's once it has said hello."""

  connection: socket.socket
  reader: wire.Reader = dataclasses.field(default_factory=wire.Reader)
  index: int = -1
  host: str = ""
  heard: float = 0.0  # when


@dataclasses.dataclass(frozen=True)
class End:
  """How a process ended.

  Attributes:
    index: of the process.
    code: its exit code.
    message: why, for the user.
    is_known: whether the message says all; otherwise the end may follow from
      another process's.
    is_silent: nothing was heard of it; it did not say so itself.
  """

  index: int
  code: int
  message: str
  is_known: bool
  is_silent: bool = False


class Hub(threading.Thread):
  """Serves all processes until the last one has ended."""

  def __init__(
    self,
    listener: socket.socket,
    *,
    size: int,
    join_seconds: float,
    heartbeat: float,
    jax_address: str,
  ):
    """Sets up; `start` begins.

    Args:
      listener: what processes connect to.
      size: processes that there are to be.
      join_seconds: until all of them must be there.
      heartbeat: seconds without a sign of life after which one is given up.
      jax_address: where process 0 will have JAX's own service.
    """
    super().__init__(daemon=True)
    self._listener, self._size = listener, size
    self._join_seconds, self._heartbeat = join_seconds, heartbeat
    self._jax_address = jax_address
    self._selector = selectors.DefaultSelector()
    self._peers: dict[int, _Peer] = {}  # by index
    self._hosts: dict[int, str] = {}  # by index
    self._ends: dict[int, End] = {}
    self._gathered: dict[int, dict[int, dict]] = {}  # turn -> index -> message
    self._is_over = self._has_begun = self._has_told = False
    self._first_end = 0.0  # when
    self.refusal = ""  # of all processes
    self._refuse_until = float("inf")

  def run(self) -> None:
    """Serves; returns when all have ended, or were refused."""
    until = time.monotonic() + self._join_seconds
    self._listener.setblocking(False)
    self._selector.register(self._listener, selectors.EVENT_READ)
    beat = self._heartbeat / 4
    next_beat = time.monotonic() + beat
    while not self._is_over and time.monotonic() < self._refuse_until:
      for key, _ in self._selector.select(min(beat, 0.2)):
        if key.data is None:
          self._accept()
        else:
          self._read(key.data)
      now = time.monotonic()
      if not self._has_begun and now > until:
        self._refuse(self._who_is_missing())
      if now > next_beat:
        next_beat = now + beat
        self._tell({"beat": 1})
      self._check_ends(now)
    for peer in self._peers.values():
      peer.connection.close()
    self._listener.close()

  def _accept(self) -> None:
    connection, _ = self._listener.accept()
    # Whoever does not take what is sent within that time is gone.
    connection.settimeout(self._heartbeat)
    peer = _Peer(connection)
    self._selector.register(connection, selectors.EVENT_READ, peer)

  def _read(self, peer: _Peer) -> None:
    messages = peer.reader.receive(peer.connection)
    peer.heard = time.monotonic()
    for message in messages or ():
      self._take(peer, message)
    if messages is None:
      self._drop(peer, "it was killed, or its machine is gone")

  def _drop(self, peer: _Peer, why: str) -> None:
    with contextlib.suppress(KeyError, ValueError):
      self._selector.unregister(peer.connection)
    peer.connection.close()
    if self._peers.get(peer.index) is not peer:
      return  # a stranger
    if not self._has_begun:
      del self._peers[peer.index]  # may come again
    elif peer.index not in self._ends:
      self._end(End(peer.index, KILLED, why, True, is_silent=True))

  def _take(self, peer: _Peer, message: dict[str, Any]) -> None:
    if message.get("hello") == MAGIC:
      self._admit(peer, message)
    elif peer.index < 0:
      self._drop(peer, "")
    elif "gather" in message:
      self._gather(peer.index, message)
    elif "signal" in message:
      self._tell(message)
    elif "end" in message:
      self._end(
        End(peer.index, message["end"], message["message"], message["is_known"])
      )

  def _admit(self, peer: _Peer, message: dict[str, Any]) -> None:
    if refusal := self.refusal or self._who_has_left():
      with contextlib.suppress(OSError):
        wire.send(peer.connection, {"refused": refusal})
      return
    index, peer.host = message["index"], message["host"]
    peer.heard = time.monotonic()
    there = self._peers.get(index)
    if message["size"] != self._size:
      why = (
        f"{peer.host} was told that there are {message['size']} processes,"
        f" process 0 that there are {self._size}"
      )
    elif there is not None:
      why = (
        f"both {there.host} and {peer.host} say that they are process {index}"
      )
    else:
      why = ""
    peer.index = index
    if why:
      with contextlib.suppress(OSError):
        wire.send(peer.connection, {"refused": why})
      self._refuse(why)
      return
    self._peers[index] = peer
    self._hosts[index] = peer.host
    if len(self._peers) == self._size:
      self._has_begun = True
      hosts = [self._hosts[i] for i in range(self._size)]
      welcome = {"hosts": hosts, "jax_address": self._jax_address}
      self._tell({"welcome": welcome})

  def _who_has_left(self) -> str:
    if self._has_begun or not self._has_told:
      return ""
    index, end = next(iter(self._ends.items()))
    return (
      f"process {index} ({self._hosts[index]}) ended before all {self._size}"
      f" had come: {end.message}"
    )

  def _who_is_missing(self) -> str:
    here = ", ".join(
      f"{i} ({peer.host})" for i, peer in sorted(self._peers.items())
    )
    absent = [str(i) for i in range(self._size) if i not in self._peers]
    return (
      f"of {self._size} processes {', '.join(absent)} did not come within"
      f" {self._join_seconds:g} s (--join_timeout); there are {here}"
    )

  def _refuse(self, why: str) -> None:
    if self.refusal:
      return
    self.refusal = why
    self._tell({"refused": why})
    self._refuse_until = time.monotonic() + _LATE  # whoever comes now is told

  def _gather(self, index: int, message: dict[str, Any]) -> None:
    turn = message["gather"]
    there = self._gathered.setdefault(turn, {})
    there[index] = message
    if len(there) < self._size:
      return
    del self._gathered[turn]
    everyone = [there[i] for i in range(self._size)]
    names = [m["what"] for m in everyone]
    for i, name in enumerate(names):
      if name != names[0]:
        self._refuse(
          f"the processes have diverged: process 0 is at {names[0]!r}, process"
          f" {i} ({self._peers[i].host}) at {name!r}"
        )
        return
    self._tell({"values": [m["value"] for m in everyone]})

  def _tell(self, message: dict[str, Any]) -> None:
    for peer in [*self._peers.values()]:
      if peer.index in self._ends and "beat" in message:
        continue
      try:
        wire.send(peer.connection, message)
      except OSError:
        self._drop(peer, "it takes no messages")

  # -- ends --------------------------------------------------------------------

  def _end(self, end: End) -> None:
    if end.code and not any(e.code for e in self._ends.values()):
      self._first_end = time.monotonic()
    self._ends[end.index] = end

  def _check_ends(self, now: float) -> None:
    if 0 not in self._peers or self._is_over or self.refusal:
      return  # process 0 will come, whose thread this is
    late = [
      peer
      for i, peer in self._peers.items()
      if self._has_begun
      and i not in self._ends
      and now - peer.heard > self._heartbeat * 0.9
    ]
    for peer in late:
      self._drop(
        peer, f"no sign of life for {self._heartbeat:g} s (--heartbeat)"
      )
    failed = [end for end in self._ends.values() if end.code]
    if failed and not self._has_told and self._is_clear(failed, now):
      self._has_told = True
      first = min(failed, key=lambda e: (not e.is_silent, not e.is_known))
      told = dataclasses.asdict(first)
      self._tell({"gone": told | {"host": self._hosts[first.index]}})
    # Before it began, for those who had come.
    everyone = range(self._size) if self._has_begun else self._peers
    if all(i in self._ends for i in everyone):
      ends = [dataclasses.asdict(end) for _, end in sorted(self._ends.items())]
      self._tell({"bye": ends})
      self._is_over = True

  def _is_clear(self, failed: list[End], now: float) -> bool:
    """Whether it is known who has ended first.

    What a collective says when its peer is gone comes sooner than the news of
    that peer, most of all if its machine was lost.
    """
    if any(end.is_known for end in failed):
      return True
    waiting = [p for i, p in self._peers.items() if i not in self._ends]
    heard = all(peer.heard > self._first_end + _CAUSES for peer in waiting)
    return heard and now > self._first_end + _CAUSES
