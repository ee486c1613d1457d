"""Rows of JSONL, JSON and Parquet files, as a stream, with their places."""

import io
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from prefixrl_jax.types import UserError


class Row(NamedTuple):
  """One record of a source."""

  place: str  # as an error names it: file and line, row or entry
  number: int  # its place in the source, from 0; empty lines count
  fields: dict[str, Any]
  share: float = 1.0  # of the file that has been read


def find_files(pattern: str, field: str) -> list[epath.Path]:
  """Returns the files a path stands for; its last part may have a *.

  Args:
    pattern: of the files.
    field: of the config that it is from, for the message.

  Raises:
    UserError: there are none.
  """
  path = epath.Path(pattern)
  files = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
  if not files or not files[0].exists():
    raise UserError(f"{field}: there is no file {pattern}.")
  return files


def read_rows(
  file: epath.Path,
  choose: Callable[[str, Sequence[str]], Collection[str]] | None = None,
) -> Iterator[Row]:
  """Yields a file's rows, and reads no further ahead than is asked for.

  Args:
    file: .parquet; .json, a list or an object of objects; all others are
      JSONL, as they are or .gz or .zst.
    choose: (place, columns of the first row) -> columns that are wanted;
      others need not be in the rows. None: all.

  Raises:
    UserError: names file and line of what does not parse.
  """
  if file.suffix == ".parquet":
    yield from _read_parquet(file, choose)
  else:
    read = _read_json if file.suffix == ".json" else _read_jsonl
    is_first = True
    for place, number, fields, share in read(file):
      if not isinstance(fields, dict):
        raise UserError(f"{place}: not a JSON object.")
      if is_first and choose:
        choose(place, list(fields))
      is_first = False
      yield Row(place, number, fields, share)


def _read_jsonl(file: epath.Path):
  size = max(1, file.stat().length)
  codec = {".gz": "gzip", ".zst": "zstd"}.get(file.suffix)
  number = 0
  try:
    with file.open("rb") as raw:
      lines: Any = raw
      if codec:
        stream: Any = pa.CompressedInputStream(raw, codec)
        lines = io.BufferedReader(stream)
      for number, line in enumerate(lines, 1):
        if not line.strip():
          continue
        place = f"{file}, line {number}"
        try:
          fields = json.loads(line)
        except ValueError as e:
          raise UserError(f"{place}: not JSON: {e}.") from None
        yield place, number - 1, fields, min(1.0, raw.tell() / size)
  except OSError as e:  # of a compressed stream
    raise UserError(f"{file}, after line {number}: {e}.") from None


def _read_json(file: epath.Path):
  try:
    content = json.loads(file.read_text())
  except ValueError as e:
    raise UserError(f"{file}: not JSON: {e}.") from None
  if not isinstance(content, dict | list):
    raise UserError(f"{file}: neither a list nor an object of JSON objects.")
  named = content if isinstance(content, dict) else dict(enumerate(content))
  for number, (name, fields) in enumerate(named.items()):
    yield f"{file}, entry {name}", number, fields, (number + 1) / len(named)


def _read_parquet(file: epath.Path, choose) -> Iterator[Row]:
  try:
    with file.open("rb") as f:
      table = pq.ParquetFile(f)
      columns = table.schema_arrow.names
      wanted = choose(str(file), columns) if choose else columns
      number, total = 0, table.metadata.num_rows
      for batch in table.iter_batches(
        batch_size=64, columns=[c for c in columns if c in wanted]
      ):
        for fields in batch.to_pylist():
          number += 1
          place = f"{file}, row {number}"
          yield Row(place, number - 1, fields, number / total)
  except (pa.ArrowInvalid, OSError) as e:
    raise UserError(f"{file} is not a Parquet file ({e}).") from None
