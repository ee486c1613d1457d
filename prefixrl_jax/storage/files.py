"""Files that are whole or absent, and that are what was written.

They are written under another name, then renamed (in a bucket an object is
whole anyway); reads check the recorded SHA-256. Every failure is one line with
the file and what to do.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from prefixrl_jax.distributed import cluster
from prefixrl_jax.storage import remote
from prefixrl_jax.storage.remote import is_remote, said_in_a_line
from prefixrl_jax.types import UserError, one_line

_SEAL = "sha256"  # of all other fields


class Damaged(UserError):
  """A file does not hold what was written."""


@dataclasses.dataclass(frozen=True)
class File:
  """A file, and what is known about it.

  Attributes:
    path: where it is.
    sha256: recorded digest of its bytes; None accepts any.
    remedy: what to do if it is damaged, for the message.
  """

  path: epath.Path
  sha256: str | None = None
  remedy: str = ""

  def read_bytes(self) -> bytes:
    """Returns the bytes.

    Raises:
      Damaged: they are not those recorded.
    """
    data = _read(self)
    if self.sha256 not in (None, hashlib.sha256(data).hexdigest()):
      raise self.damaged("other bytes are there than were written")
    return data

  def read_json(self) -> Any:
    """Returns the JSON value.

    Raises:
      Damaged: it is not what was written, or not JSON.
    """
    data = self.read_bytes()
    try:
      return json.loads(data)
    except (ValueError, RecursionError) as e:
      raise self.damaged(f"it is not JSON: {e}") from None

  def read_table(
    self, schema: pa.Schema, younger: Collection[str] = ()
  ) -> list[dict[str, Any]]:
    """Returns the rows of a Parquet file that must have a schema's columns.

    Args:
      schema: names and types of the columns.
      younger: those that files from before they existed lack, and rows may
        lack: None.

    Raises:
      Damaged: it is not what was written, or has no such columns.
    """
    data = self.read_bytes()
    try:
      table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError) as e:
      raise self.damaged(f"it is not a Parquet file: {one_line(e)}") from None
    for name in {*younger} - {*table.column_names}:
      table = table.append_column(name, pa.nulls(table.num_rows))
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
      raise self.damaged(
        f"it lacks the columns {', '.join(missing)}; it has"
        f" {', '.join(table.column_names)}"
      )
    empty = [
      name
      for name in schema.names
      if name not in younger and table[name].null_count
    ]
    if empty:
      raise self.damaged(f"rows lack their {', '.join(empty)}")
    try:
      return table.select(schema.names).cast(schema).to_pylist()
    except (pa.ArrowException, ValueError) as e:
      raise self.damaged(f"its columns are others: {one_line(e)}") from None

  def damaged(self, why: str) -> Damaged:
    """Returns the error that says so."""
    return Damaged(f"{self.path} is damaged: {why}. {self.remedy}".strip())


def digest(path: epath.Path) -> str:
  """Returns the SHA-256 of a file."""
  with said_in_a_line(path, "read"), path.open("rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file atomically."""
  write_bytes(path, text.encode())


def write_json(path: epath.Path, value: Any) -> None:
  """Writes JSON atomically; NaN is an error."""
  write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_sealed(path: epath.Path, value: dict[str, Any]) -> None:
  """Writes a JSON object atomically, with a digest of itself.

  Raises:
    ValueError: it has a field named like the digest.
  """
  if _SEAL in value:
    raise ValueError(f"{_SEAL!r} is the name of the digest itself")
  write_json(path, value | {_SEAL: digest_of(value)})


def read_sealed(path: epath.Path, remedy: str) -> dict[str, Any]:
  """Returns what `write_sealed` wrote.

  Args:
    path: of the file.
    remedy: what to do if it is damaged, for the message.

  Raises:
    UserError: it is damaged, or was made before there were digests.
  """
  value = File(path, remedy=remedy).read_json()
  if not isinstance(value, dict) or _SEAL not in value:
    raise Damaged(
      f"{path} has no digest of its contents: it was changed, or an older"
      f" version of the program made it. {remedy}"
    )
  seal = value.pop(_SEAL)
  if seal != digest_of(value):
    raise Damaged(f"{path} is damaged: it is not what was written. {remedy}")
  return value


def digest_of(value: Any) -> str:
  """Returns the SHA-256 of a JSON value, however it is formatted."""
  return hashlib.sha256(
    json.dumps(value, sort_keys=True, allow_nan=False).encode()
  ).hexdigest()


def read_json(path: epath.Path) -> Any:
  """Reads JSON; an error names the file that does not parse."""
  return File(path).read_json()


def write_parquet(path: epath.Path, table: pa.Table) -> None:
  """Writes a table atomically."""
  sink = io.BytesIO()
  pq.write_table(table, sink)
  write_bytes(path, sink.getvalue())


def write_bytes(path: epath.Path, data: bytes) -> None:
  """Writes a file: at every moment it is the old one or the whole new one."""
  write_chunks(path, (data,))


def write_chunks(path: epath.Path, chunks: Iterable[Any]) -> None:
  """Writes a file atomically, chunk by chunk.

  Args:
    path: of the file.
    chunks: bytes, or contiguous arrays of them.

  Raises:
    UserError: no space, or no permission; the old file is still there.
  """
  cluster.once(f"write {path.name}", lambda: _write(path, chunks), [path])


def _write(path: epath.Path, chunks: Iterable[Any]) -> None:
  if is_remote(path):
    data = b"".join(chunks)
    with said_in_a_line(path):
      path.write_bytes(data)
    return
  temporary = _temporary(path)
  try:
    with said_in_a_line(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      with temporary.open("wb") as f:
        for chunk in chunks:
          f.write(chunk)
        f.flush()
        os.fsync(f.fileno())
      temporary.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def whole_folder(path: epath.Path) -> Iterator[epath.Path]:
  """Yields a folder to fill; it replaces `path` if nothing was raised."""
  if is_remote(path):
    with remote.whole_folder(path) as local:
      yield local
    return
  temporary, old = (
    path.parent / f".{path.name}.{end}" for end in ("tmp", "old.tmp")
  )

  def put_back():
    """What was there before, in case it is not replaced after all."""
    if old.exists() and not path.exists():
      old.replace(path)

  put_back()  # left by one that was killed
  remove(temporary, old)
  try:
    with said_in_a_line(path):
      temporary.mkdir(parents=True)
      yield temporary
      if path.exists():
        path.replace(old)
      temporary.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      put_back()
      temporary.rmtree()
    raise
  remove(old)


def remove(*paths: epath.Path) -> None:
  """Removes files, and folders with their contents; absent ones are fine."""

  def do() -> None:
    for path in paths:
      with said_in_a_line(path, "removed"):
        if path.is_dir() and not os.path.islink(path):
          path.rmtree()
        else:
          path.unlink(missing_ok=True)

  cluster.once(f"remove {', '.join(p.name for p in paths)}", do, paths)


def check_kind(path: epath.Path, *, is_folder: bool) -> None:
  """Raises UserError if something of another kind is at a path."""
  if path.exists() and path.is_dir() != is_folder:
    here, there = ("folder", "file") if is_folder else ("file", "folder")
    raise UserError(
      f"{path} is a {there}; a {here} belongs there. Move it out of the way."
    )


def remove_temporaries(*folders: epath.Path) -> None:
  """Removes what killed processes had begun to write.

  Args:
    folders: ones to which nobody else is writing.
  """
  if not cluster.is_first():
    return
  with cluster.alone():  # nobody reads them
    for folder in folders:
      if not is_remote(folder) and folder.exists():
        remove(*folder.glob(".*.tmp"))


def _temporary(path: epath.Path) -> epath.Path:
  return path.parent / f".{path.name}.{os.getpid()}.tmp"


def _read(file: File) -> bytes:
  with said_in_a_line(file.path, "read"):
    if not file.path.exists():
      raise Damaged(f"{file.path} is not there. {file.remedy}".strip())
    return file.path.read_bytes()
