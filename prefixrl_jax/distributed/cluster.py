"""What the processes of a cluster decide together; alone, one decides.

All processes run the same program on the same values. What could differ between
them, such as verdicts that depend on the time, files, or whether a signal came,
goes through here: after `gather` all have every process's value, in the same
order, and `once` has process 0 do something that all then see.
"""

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from etils import epath

from prefixrl_jax.distributed import wire
from prefixrl_jax.types import UserError, one_line

T = TypeVar("T")

# Files up to this size are compared byte by byte, others by their size.
_SMALL = 1 << 20


class Group(Protocol):
  """The processes of a run."""

  index: int  # of this process
  size: int
  hosts: Sequence[str]  # of all of them
  patience: float  # seconds until another's file must be there

  def gather(self, what: str, value: Any) -> list[Any]:
    """Returns every process's value, in their order."""


class Alone:
  """A process that is no part of a cluster."""

  index, size, patience = 0, 1, 0.0
  hosts: Sequence[str] = ("",)

  def gather(self, what: str, value: Any) -> list[Any]:
    """Returns its value."""
    del what
    return [value]


class Member:
  """A process of a cluster, which its supervisor connects with the others."""

  def __init__(self, connection: socket.socket, index: int, patience: float):
    """Takes over the connection; nothing is known of the others yet.

    Args:
      connection: to the supervisor.
      index: of this process.
      patience: see `Group`.
    """
    self._connection, self._reader = connection, wire.Reader()
    self._sending = threading.Lock()
    self._waiting: list[dict] = []
    self._turn = 0
    self.index, self.size, self.patience = index, 0, patience
    self.hosts: Sequence[str] = ()
    self.jax_address = ""  # of JAX's own service
    threading.Thread(target=self._beat, daemon=True).start()

  def wait_for_all(self) -> None:
    """Returns once all processes are there."""
    welcome = self._next()["welcome"]
    self.hosts, self.jax_address = welcome["hosts"], welcome["jax_address"]
    self.size = len(self.hosts)

  def gather(self, what: str, value: Any) -> list[Any]:
    """Returns every process's value; waits for all of them.

    Args:
      what: the same on all processes, else they have diverged.
      value: a JSON value.
    """
    self._turn += 1
    self._send({"gather": self._turn, "what": what, "value": value})
    return self._next()["values"]

  def end(self, code: int, message: str, is_known: bool) -> None:
    """Tells the others that this process ends.

    Args:
      code: its exit code.
      message: for the user.
      is_known: whether the message says all that there is to it; otherwise it
        may follow from another process's end.
    """
    with contextlib.suppress(OSError):
      self._send({"end": code, "message": message, "is_known": is_known})

  def _beat(self) -> None:
    """Shows the supervisor that this process is neither stopped nor stuck."""
    with contextlib.suppress(OSError):
      while True:
        self._send({"beat": 1})
        time.sleep(self.patience / 4)

  def _send(self, message: dict[str, Any]) -> None:
    with self._sending:
      wire.send(self._connection, message)

  def _next(self) -> dict:
    while not self._waiting:
      data = self._connection.recv(1 << 16)
      if not data:
        raise ConnectionError("the process's supervisor is gone")
      self._waiting += self._reader.feed(data)
    return self._waiting.pop(0)


_group: Group = Alone()
_local = threading.local()  # is_alone: what this thread does concerns no other


def join(group: Group) -> None:
  """Makes a group the process's, from now on."""
  global _group
  _group = group


def current() -> Group:
  """Returns the process's group."""
  return _group


def is_first() -> bool:
  """Whether this is process 0, which writes what is written."""
  return _group.index == 0


def _is_alone() -> bool:
  return _group.size == 1 or getattr(_local, "is_alone", False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
  """What this thread does in here is no business of other processes."""
  before = getattr(_local, "is_alone", False)
  _local.is_alone = True
  try:
    yield
  finally:
    _local.is_alone = before


def gather(what: str, value: T) -> list[T]:
  """Returns every process's value, in their order; see `Member.gather`."""
  return [value] if _is_alone() else _group.gather(what, value)


def any_of(what: str, flag: bool) -> bool:
  """Whether any process says so."""
  return any(gather(what, flag))


def name_of(index: int) -> str:
  """Names a process, for messages."""
  return f"process {index} ({_group.hosts[index]})"


def once(
  what: str,
  do: Callable[[], Any],
  shows: Collection[epath.Path] = (),
) -> None:
  """Has process 0 do something; all go on when it is done, or raise.

  Args:
    what: names it.
    do: what is done; raises what `once` raises, in process 0.
    shows: files and folders that it makes, changes or removes: every process
      waits until it sees them as process 0 does.

  Raises:
    UserError: process 0 could not do it, or another does not see its files.
  """
  if _is_alone():
    do()
    return
  raised: Exception | None = None
  told: dict[str, Any] = {}
  _group.gather(f"{what}: all", None)  # have read what this may change
  if is_first():
    try:
      with alone():
        do()
        told = {"views": [_view(path) for path in shows]}
    except Exception as e:
      text = str(e) if isinstance(e, UserError) else one_line(e)
      raised, told = e, {"error": text}
  told = _group.gather(what, told)[0]
  if raised:
    raise raised
  if "error" in told:
    raise UserError(told["error"])
  for path, view in zip(shows, told["views"], strict=True):
    _wait_to_see(path, view)


def of_first(what: str, make: Callable[[], T]) -> T:
  """Returns what process 0 makes, on all processes.

  Args:
    what: names it.
    make: returns a JSON value.
  """
  if _is_alone():
    return make()
  with alone():
    value = make() if is_first() else None
  return _group.gather(what, value)[0]


def agreed(what: str, do: Callable[[], T], kind: type[Exception]) -> T:
  """Returns what something returns; raises if it fails on any process.

  Args:
    what: names it.
    do: done by every process, by itself.
    kind: of exceptions that outweigh others.

  Raises:
    Exception: of that kind if there was one anywhere; see `do`.
  """
  raised: Exception | None = None
  try:
    with alone():  # a process that fails goes on without what is left of it
      result = do()
  except Exception as e:
    if _is_alone():
      raise
    raised = e
  told = None
  if raised:
    is_worst = isinstance(raised, kind)
    told = [is_worst, str(raised) if is_worst else one_line(raised)]
  failed: list[Any] = [x for x in gather(what, told) if x]
  if not failed:
    return result
  worst, text = max(failed)
  if raised and isinstance(raised, kind) == worst:
    raise raised
  raise kind(text) if worst else RuntimeError(text)


def check_same(what: str, values: dict[str, Any]) -> None:
  """Refuses values that are not the same on all processes, by name.

  Args:
    what: they are.
    values: JSON values by name, of this process.

  Raises:
    UserError: they differ; the first few are named.
  """
  everyone = gather(what, values)
  first = everyone[0]
  differences = [
    f"{name} is {first.get(name)!r} on {name_of(0)} and"
    f" {other.get(name)!r} on {name_of(i)}"
    for i, other in enumerate(everyone)
    for name in {**first, **other}
    if first.get(name) != other.get(name)
  ]
  if differences:
    more = len(differences) - 3
    raise UserError(
      f"the processes have different {what}: {'; '.join(differences[:3])}"
      + (f"; and {more} more." if more > 0 else ".")
    )


class OnFirst:
  """What only process 0 has; elsewhere its methods do nothing."""

  def __init__(self, make: Callable[[], Any]):
    """Makes it.

    Args:
      make: returns the object, of which methods without result are called.
    """
    self._it: Any = None
    if is_first():
      with alone():
        self._it = make()

  def __getattr__(self, name: str) -> Callable[..., None]:
    def call(*args, **kwargs) -> None:
      if self._it is not None:
        with alone():
          getattr(self._it, name)(*args, **kwargs)

    return call

  def __enter__(self) -> "OnFirst":
    if self._it is not None:
      with alone():
        self._it.__enter__()
    return self

  def __exit__(self, *raised) -> None:
    if self._it is not None:
      with alone():
        self._it.__exit__(*raised)


def _view(path: epath.Path) -> list:
  """Returns what all processes must see alike at a path."""
  if path.is_dir():
    return ["a folder"]
  if not path.exists():
    return ["nothing"]
  size = path.stat().length
  if size > _SMALL:
    return ["a file", size]
  return ["a file", size, hashlib.sha256(path.read_bytes()).hexdigest()]


def _wait_to_see(path: epath.Path, view: list) -> None:
  """Waits for a shared file system, which may tell its hosts late."""
  until = time.monotonic() + _group.patience
  seen = None
  while seen != view:
    if seen is not None:
      if time.monotonic() > until:
        raise UserError(
          f"{name_of(0)} has {_described(view)} at {path}, and"
          f" {name_of(_group.index)} sees {_described(seen)} there: --workdir"
          " must be one folder that all processes share."
        )
      time.sleep(0.1)
      with contextlib.suppress(OSError):
        list(path.parent.iterdir())  # NFS: asks the server again
    try:
      seen = _view(path)
    except OSError:
      seen = ["nothing"]


def _described(view: list) -> str:
  kind, *facts = view
  return f"{kind} of other contents" if facts else kind
