"""Stage artifacts: folders that are complete, in progress, or not there.

A stage writes `inputs.json` when it begins and `manifest.json` when it has
finished; both name what the artifact depends on. Files appear under their
final name whole or not at all.
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from prefixrl_jax.types import UserError

_MISSING = "(absent)"


class Artifact:
  """What a stage leaves in the workdir."""

  def __init__(self, directory: epath.Path, depends: dict[str, Any]):
    """Names the artifact; touches nothing.

    Args:
      directory: its folder.
      depends: config fields and facts it is made from, as JSON values.
    """
    self.directory, self.depends = directory, depends

  @property
  def complete(self) -> bool:
    """Whether the stage has finished."""
    return self._manifest.exists()

  @property
  def summary(self) -> dict[str, Any]:
    """What the stage said when it finished."""
    return read_json(self._manifest)["summary"]

  def check(self) -> None:
    """Raises UserError if the folder was made from something else."""
    for path in (self._manifest, self._inputs):
      if not path.exists():
        continue
      there = dict(_flatten(read_json(path)["depends"]))
      here = dict(_flatten(self.depends))
      differences = [
        f"  {key}: {there.get(key, _MISSING)!r} in the workdir,"
        f" {here.get(key, _MISSING)!r} in the config"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, _MISSING) != here.get(key, _MISSING)
      ]
      if differences:
        raise UserError(
          f"{self.directory} was made with other settings:\n"
          + "\n".join(differences)
          + "\nUse the same settings, another --workdir, or --fresh to remove"
          " what is there."
        )
      return

  def begin(self) -> None:
    """Marks the stage as in progress; what an earlier try left is kept."""
    self.check()
    self.directory.mkdir(parents=True, exist_ok=True)
    write_json(self._inputs, {"depends": self.depends})

  def finish(self, summary: dict[str, Any]) -> None:
    """Marks the stage as complete."""
    versions = {
      name: importlib.metadata.version(name) for name in ("jax", "prefixrl_jax")
    }
    write_json(
      self._manifest,
      {
        "depends": self.depends,
        "summary": summary,
        "versions": versions,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(),
      },
    )

  @property
  def _manifest(self) -> epath.Path:
    return self.directory / "manifest.json"

  @property
  def _inputs(self) -> epath.Path:
    return self.directory / "inputs.json"


def digest(path: epath.Path) -> str:
  """Returns the SHA-256 of a file."""
  with path.open("rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file atomically."""
  write_bytes(path, text.encode())


def write_json(path: epath.Path, value: Any) -> None:
  """Writes JSON atomically; NaN is an error."""
  write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: epath.Path) -> Any:
  """Reads JSON; a file that does not parse is named."""
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as e:
    raise UserError(f"{path} is not JSON ({e}); --fresh starts anew.") from None


def write_parquet(path: epath.Path, table: pa.Table) -> None:
  """Writes a table atomically."""
  sink = pa.BufferOutputStream()
  pq.write_table(table, sink)
  write_bytes(path, sink.getvalue().to_pybytes())


def write_bytes(path: epath.Path, data: bytes) -> None:
  """Writes a file that is either the old one or whole, never half."""
  write_chunks(path, (data,))


def write_chunks(path: epath.Path, chunks: Iterable[Any]) -> None:
  """Writes a file atomically, chunk by chunk.

  Args:
    path: of the file.
    chunks: bytes, or contiguous arrays of them.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _temporary(path)
  with temporary.open("wb") as f:
    for chunk in chunks:
      f.write(chunk)
    f.flush()
    if hasattr(f, "fileno") and "://" not in os.fspath(path):
      os.fsync(f.fileno())
  temporary.replace(path)


@contextlib.contextmanager
def whole_folder(path: epath.Path) -> Iterator[epath.Path]:
  """Gives a folder to fill; it replaces `path` once all has gone well."""
  temporary = _temporary(path)
  if temporary.exists():
    temporary.rmtree()
  temporary.mkdir(parents=True)
  try:
    yield temporary
  except BaseException:
    temporary.rmtree()
    raise
  if path.exists():
    path.rmtree()
  temporary.replace(path)


def _temporary(path: epath.Path) -> epath.Path:
  return path.parent / f".{path.name}.{os.getpid()}.tmp"


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
  """Yields (dotted name, leaf)."""
  if isinstance(value, dict) and value:
    for key, child in value.items():
      yield from _flatten(child, f"{name}.{key}" if name else key)
  else:
    yield name, value
