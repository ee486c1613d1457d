"""Rows of JSONL, JSON and Parquet files, as a stream, with their places."""

import collections
import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from prefixrl_jax.text.conversations import kind
from prefixrl_jax.types import UserError

# First bytes of each format, whatever the file's name.
_CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_PARQUET = (b"PAR1", b"PARE")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SUFFIXES = {".gz": "gzip", ".zst": "zstd"}
_FORMATS = (
  "rows are read from JSONL (one JSON object a line, in UTF-8; also .gz or"
  " .zst), from .json and from Parquet"
)
_LONE_SURROGATE = "half a character (a lone surrogate) in it"
_SURROGATES = re.compile("[\ud800-\udfff]")


class Row(NamedTuple):
  """One record of a source."""

  place: str  # for error messages: file and line, row or entry
  number: int  # its place in the source, from 0; empty lines count
  fields: dict[str, Any]
  share: float = 1.0  # bytes of the file read so far
  flaw: str = ""  # why it cannot be used, if so


def find_files(pattern: str, field: str) -> list[epath.Path]:
  """Returns the files that a path stands for; any part of it may have a *.

  Args:
    pattern: path of the files.
    field: the config field it comes from, for the message.

  Raises:
    UserError: there are none, or one is not a file.
  """
  try:
    files = expand(epath.Path(pattern))
    if not files or not files[0].exists():
      raise UserError(f"{field}: there is no file {pattern}.")
    for file in files:
      if file.is_dir():
        raise UserError(
          f"{field}: {file} is a folder; name a file in it, or all of them as"
          f" '{file}/*.jsonl'."
        )
      # epath considers a pipe a file, and opening one may block forever.
      if os.path.exists(file) and not os.path.isfile(file):
        raise UserError(
          f"{field}: {file} is not an ordinary file (a pipe or a device); save"
          " its rows to a file."
        )
  except (OSError, ValueError) as e:
    raise UserError(f"{field}: {pattern} cannot be read: {_said(e)}.") from None
  return files


def expand(path: epath.Path) -> list[epath.Path]:
  """Returns what a path with a * in any part stands for; else itself."""
  first = next((i for i, part in enumerate(path.parts) if "*" in part), None)
  if first is None:
    return [path]
  rest = path.parts[first:]
  return sorted(path.parents[len(rest) - 1].glob("/".join(rest)))


def read_rows(
  file: epath.Path,
  choose: Callable[[str, Sequence[str]], Collection[str]] | None = None,
) -> Iterator[Row]:
  """Yields a file's rows, and reads no further than it has to.

  Args:
    file: Parquet or JSONL, plain or compressed with gzip or zstandard,
      recognized by its first bytes; .json is a list or an object of objects.
    choose: (place, columns of the first row) -> wanted columns; the rows need
      not have others. None: all.

  Raises:
    UserError: a file cannot be read or parsed; names file and line.
  """
  place = ""
  try:
    with file.open("rb") as f:
      head = f.read(4)
      f.seek(0)
      if head in _PARQUET or file.suffix == ".parquet":
        yield from _read_parquet(file, f, choose)
        return
      size = max(1, file.stat().length)
      codec = next((c for m, c in _CODECS.items() if head.startswith(m)), "")
      if not codec and (suffix := _SUFFIXES.get(file.suffix)):
        raise UserError(f"{file} is not a {suffix} file; {_FORMATS}.")
      content: Any = f
      if codec:
        stream: Any = pa.CompressedInputStream(f, codec)
        content = io.BufferedReader(stream)
      read = _read_json if file.suffix == ".json" else _read_jsonl
      is_first = True
      for place, number, fields, has_escapes in read(file, content):
        if not isinstance(fields, dict):
          raise UserError(
            f"{place}: not a JSON object but {kind(fields)}; {_FORMATS}."
          )
        if is_first and choose:
          choose(place, list(fields))
        is_first = False
        is_flawed = has_escapes and _has_surrogate(fields)
        flaw = _LONE_SURROGATE if is_flawed else ""
        yield Row(place, number, fields, min(1.0, f.tell() / size), flaw)
  except (OSError, MemoryError) as e:  # also of a compressed stream
    where = (
      f"{file}, after its start" if not place else f"what is after {place}"
    )
    raise UserError(f"{where} cannot be read: {_said(e)}.") from None


def _read_jsonl(
  file: epath.Path, lines
) -> Iterator[tuple[str, int, Any, bool]]:
  """Yields place, number, value, and whether it may have escapes."""
  name = str(file)
  for number, line in enumerate(lines):
    if not number:
      line = _checked_head(file, line)
    if line and not line.isspace():
      place = f"{name}, line {number + 1}"
      yield place, number, _parse(place, line), b"\\u" in line


def _read_json(
  file: epath.Path, content
) -> Iterator[tuple[str, int, Any, bool]]:
  name = str(file)
  text = _checked_head(file, content.read())
  rows, has_escapes = _parse(name, text), b"\\u" in text
  if not isinstance(rows, dict | list):
    raise UserError(f"{file}: neither a list nor an object of JSON objects.")
  named = rows if isinstance(rows, dict) else dict(enumerate(rows))
  for number, (key, fields) in enumerate(named.items()):
    yield f"{name}, entry {key}", number, fields, has_escapes


def _checked_head(file: epath.Path, text: bytes) -> bytes:
  """Returns a file's first bytes without a byte-order mark."""
  if text.startswith(_UTF16) or b"\0" in text[:64]:
    what = "UTF-16" if text.startswith(_UTF16) else "binary"
    raise UserError(f"{file}, line 1: not JSON but {what}; {_FORMATS}.")
  return text.removeprefix(b"\xef\xbb\xbf")


def _parse(place: str, text: bytes) -> Any:
  try:
    return _DECODER.decode(text.decode())
  except UnicodeDecodeError as e:
    reason = f"byte {e.start + 1} is not UTF-8"
  except RecursionError:
    reason = "it is nested too deeply"
  except ValueError as e:
    reason = str(e)
  raise UserError(f"{place}: not JSON: {reason}; {_FORMATS}.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  fields = dict(pairs)
  if len(fields) < len(pairs):
    [(name, _)] = collections.Counter(name for name, _ in pairs).most_common(1)
    raise ValueError(f"an object has the key {name!r} twice")
  return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _has_surrogate(value: Any) -> bool:
  """Whether a text in a value has lone surrogates, which nothing accepts.

  In JSON in UTF-8 only an escape can produce one.
  """
  if isinstance(value, str):
    return not value.isascii() and _SURROGATES.search(value) is not None
  if isinstance(value, dict):
    return any(_has_surrogate(x) for pair in value.items() for x in pair)
  return isinstance(value, list) and any(map(_has_surrogate, value))


def _read_parquet(file: epath.Path, f, choose) -> Iterator[Row]:
  name, number = str(file), 0
  try:
    table = pq.ParquetFile(f)
    columns = table.schema_arrow.names
    wanted = choose(name, columns) if choose else columns
    total = table.metadata.num_rows
    for batch in table.iter_batches(
      batch_size=64, columns=[c for c in columns if c in wanted]
    ):
      for fields in batch.to_pylist():
        number += 1
        yield Row(f"{name}, row {number}", number - 1, fields, number / total)
  except (pa.ArrowException, OSError, ValueError) as e:
    what = f"{file}, after row {number}" if number else f"{file}"
    raise UserError(
      f"{what} is not a Parquet file, or is damaged ({_said(e)})."
    ) from None


def _said(error: BaseException) -> str:
  """Returns an error's message in one line."""
  text = getattr(error, "strerror", None) or str(error)
  return " ".join(text.split()).rstrip(".") or type(error).__name__
