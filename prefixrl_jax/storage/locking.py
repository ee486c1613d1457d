"""One process at a time works in a workdir.

Whether a lock's owner on this host is gone can be told at once. Elsewhere it is
gone if its lock is not renewed for a while: so a run that lost its machine goes
on on another.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from prefixrl_jax.distributed import cluster
from prefixrl_jax.storage import remote
from prefixrl_jax.types import UserError

LOCK = "lock.json"
# Seconds between two renewals of a lock, and without one until its owner counts
# as gone.
_RENEW, _GONE = 20.0, 90.0


@dataclasses.dataclass(frozen=True)
class Owner:
  """A process, told apart from all others there have been.

  Attributes:
    host: its name.
    boot: id of the host's boot; empty if unknown.
    pids: the namespace that the pid is of (a container has its own).
    pid: of the process.
    started: when it started, since pids are reused.
    since: when it took the lock.
    renewals: of the lock so far; of no concern to who it is.
  """

  host: str
  boot: str
  pids: str
  pid: int
  started: str
  since: str
  renewals: int = dataclasses.field(default=0, compare=False)

  @classmethod
  def this(cls, pid: int = 0) -> "Owner":
    """Returns the calling process, or another one of this host."""
    pid = pid or os.getpid()
    return cls(
      host=socket.gethostname(),
      boot=_read("/proc/sys/kernel/random/boot_id").strip(),
      pids=_namespace(),
      pid=pid,
      started=_started(pid),
      since=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )

  def is_gone(self, this: "Owner") -> bool:
    """Whether it has certainly ended; False if that cannot be known here."""
    if self.host != this.host:
      return False
    if self.boot != this.boot:
      return True
    if self.pids != this.pids:
      return False  # another container of that name
    return _started(self.pid) != self.started


@contextlib.contextmanager
def locked(workdir: epath.Path, show: Callable[[str], Any]) -> Iterator[None]:
  """Holds the workdir's lock, so that no other process works there.

  A lock whose owner is gone is taken over: the same host, and no such process;
  another host, and no sign of life.

  Args:
    workdir: created if it does not exist.
    show: prints a line.

  Raises:
    UserError: another process holds it, or the folder is not writable.
  """
  path, this = workdir / LOCK, Owner.this()

  def take() -> None:
    with remote.said_in_a_line(f"--workdir={workdir}"):
      workdir.mkdir(parents=True, exist_ok=True)
      with _in_turn(workdir):
        _take(path, this, show)

  # Of a cluster's processes, one takes it for all; the others see it.
  cluster.once("take the lock", take, [path])
  renewal = _Renewal(path, this)
  if _owner(path) == this:
    renewal.start()
  try:
    yield
  finally:
    if os.getpid() == this.pid:
      renewal.stop()
      if _owner(path) == this:
        path.unlink()


def check_parent_holds(workdir: epath.Path) -> None:
  """Checks that the process that started this one holds the workdir's lock.

  Raises:
    UserError: it does not.
  """
  owner, parent = _owner(workdir / LOCK), Owner.this(os.getppid())
  if owner is None or dataclasses.replace(parent, since=owner.since) != owner:
    raise UserError(
      f"the process that started this one is not working in {workdir}; use"
      " prefixrl_jax.main."
    )


def _take(path: epath.Path, this: Owner, show: Callable[[str], Any]) -> None:
  if _create(path, this):
    return
  owner = _owner(path)
  if owner is None:
    raise UserError(
      f"{path} is there, but does not say whose it is. If no other process"
      " works in that workdir, remove the file."
    )
  is_here = owner.host == this.host and owner.pids == this.pids
  if not owner.is_gone(this) and (is_here or _is_renewed(path, owner, show)):
    raise UserError(
      f"process {owner.pid} on {owner.host} has been working in {path.parent}"
      f" since {owner.since}. Wait for it, or use another --workdir."
    )
  show(
    f"{path.parent}: process {owner.pid} on {owner.host}, at work since"
    f" {owner.since}, is gone; its lock is taken over"
  )
  path.unlink(missing_ok=True)
  if not _create(path, this):
    raise UserError(f"another process has just begun to work in {path.parent}.")


def _is_renewed(
  path: epath.Path, owner: Owner, show: Callable[[str], Any]
) -> bool:
  """Waits whether an owner elsewhere renews its lock, or gives it back."""
  show(
    f"{path.parent}: process {owner.pid} on {owner.host} works there since"
    f" {owner.since}, or is gone: waiting {_GONE:g} s for a sign of life"
  )
  until = time.monotonic() + _GONE
  while time.monotonic() < until:
    time.sleep(min(1.0, _GONE / 8))
    now = _owner(path)
    if now is None and not path.exists():
      return False
    if now is not None and (now, now.renewals) != (owner, owner.renewals):
      return True
  return False


class _Renewal(threading.Thread):
  """Renews a lock, which shows other hosts that its owner lives."""

  def __init__(self, path: epath.Path, owner: Owner):
    super().__init__(daemon=True)
    self._path, self._owner = path, owner
    self._is_over = threading.Event()

  def run(self) -> None:
    renewals = 0
    while not self._is_over.wait(_RENEW):
      with contextlib.suppress(Exception):  # it may be away for a moment
        there = _owner(self._path)
        if there is not None and there != self._owner:
          # Nothing was heard of us for so long that another has taken over.
          os.kill(os.getpid(), signal.SIGTERM)
          return
        if there is not None:
          renewals += 1
          self._renew(dataclasses.replace(self._owner, renewals=renewals))

  def stop(self) -> None:
    """Ends it; the lock is as it is."""
    self._is_over.set()
    if self.is_alive():
      self.join()

  def _renew(self, owner: Owner) -> None:
    if remote.is_remote(self._path):
      self._path.write_text(_text(owner))
    else:
      _temporary(self._path, owner).replace(self._path)


def _text(owner: Owner) -> str:
  return json.dumps(dataclasses.asdict(owner)) + "\n"


def _temporary(path: epath.Path, owner: Owner) -> epath.Path:
  """Returns a file beside the lock, with its contents."""
  temporary = path.parent / f".{LOCK}.{owner.pid}.tmp"
  temporary.write_text(_text(owner))
  return temporary


def _create(path: epath.Path, owner: Owner) -> bool:
  """Creates the lock with its contents; False if there already is one."""
  if remote.is_remote(path):
    return remote.create(path, _text(owner))
  temporary = _temporary(path, owner)
  try:
    os.link(temporary, path)
  except FileExistsError:
    return False
  except OSError:  # a file system without links
    try:
      with open(path, "x") as f:
        f.write(_text(owner))
    except FileExistsError:
      return False
  finally:
    temporary.unlink()
  return True


def _owner(path: epath.Path) -> Owner | None:
  try:
    return Owner(**json.loads(path.read_text()))
  except (OSError, ValueError, TypeError):
    return None


@contextlib.contextmanager
def _in_turn(folder: epath.Path) -> Iterator[None]:
  """One process of this host at a time; the kernel releases it at exit."""
  if remote.is_remote(folder):
    yield
    return
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # some file systems cannot
      fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
  finally:
    os.close(descriptor)


def _started(pid: int) -> str:
  """Returns when a process started, in any unit; empty if there is none."""
  if os.path.exists("/proc/self/stat"):
    # The command, in brackets, may contain anything.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    # A zombie has ended; its parent has not waited for it yet.
    return "" if not fields or fields[0] in "ZX" else fields[19]
  listed = subprocess.run(
    ("ps", "-o", "lstart=", "-p", str(pid)),
    capture_output=True,
    text=True,
    check=False,
  )
  return listed.stdout.strip()


def _namespace() -> str:
  with contextlib.suppress(OSError):
    return os.readlink("/proc/self/ns/pid")
  return ""


def _read(path: str) -> str:
  with contextlib.suppress(OSError), open(path) as f:
    return f.read()
  return ""
