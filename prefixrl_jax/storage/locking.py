"""One process at a time works in a workdir."""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from prefixrl_jax.distributed import cluster
from prefixrl_jax.types import UserError

LOCK = "lock.json"


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
  """

  host: str
  boot: str
  pids: str
  pid: int
  started: str
  since: str

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

  A lock whose owner is gone is taken over: the same host, and no such process.

  Args:
    workdir: created if it does not exist.
    show: prints a line.

  Raises:
    UserError: another process holds it, or the folder is not writable.
  """
  path, this = workdir / LOCK, Owner.this()

  def take() -> None:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      with _in_turn(workdir):
        _take(path, this, show)
    except OSError as e:
      raise UserError(
        f"--workdir={workdir} cannot be written ({e.strerror or e})."
      ) from None

  # Of a cluster's processes, one takes it for all; the others see it.
  cluster.once("take the lock", take, [path])
  try:
    yield
  finally:
    if os.getpid() == this.pid and _owner(path) == this:
      path.unlink()


def check_parent_holds(workdir: epath.Path) -> None:
  """Checks that the process that started this one holds the workdir's lock.

  Raises:
    UserError: it does not.
  """
  owner, parent = _owner(workdir / LOCK), Owner.this(os.getppid())
  if owner is None or dataclasses.replace(parent, since=owner.since) != owner:
    raise UserError(
      f"{workdir} is not worked in by the process that started this one; use"
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
  if not owner.is_gone(this):
    same = owner.host == this.host and owner.pids == this.pids
    raise UserError(
      f"process {owner.pid} on {owner.host} works in {path.parent} since"
      f" {owner.since}. Wait for it, or use another --workdir."
      + ("" if same else f" If it is gone, remove {path}.")
    )
  show(
    f"{path.parent}: process {owner.pid} on {owner.host}, at work since"
    f" {owner.since}, is gone; its lock is taken over"
  )
  path.unlink()
  if not _create(path, this):
    raise UserError(f"another process has just begun to work in {path.parent}.")


def _create(path: epath.Path, owner: Owner) -> bool:
  """Creates the lock with its contents; False if there already is one."""
  text = json.dumps(dataclasses.asdict(owner)) + "\n"
  if "://" in os.fspath(path):  # no such thing there as to make it or fail
    if path.exists():
      return False
    path.write_text(text)
    return True
  temporary = path.parent / f".{LOCK}.{owner.pid}.tmp"
  temporary.write_text(text)
  try:
    os.link(temporary, path)
  except FileExistsError:
    return False
  except OSError:  # a file system without links
    try:
      with open(path, "x") as f:
        f.write(text)
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
  if "://" in os.fspath(folder):
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
