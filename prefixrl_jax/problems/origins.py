"""Where a source's rows come from: a local file, tfds, the hub, or a rule.

A file that the config names comes first; then what tfds has prepared in
TFDS_DATA_DIR; then the Hugging Face hub, or its cache if there is no network.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from prefixrl_jax.problems.sources import Source
from prefixrl_jax.storage.rows import Row, expand, find_files, read_rows
from prefixrl_jax.types import UserError, one_line

# The builder of problems/tfds_builder.py, by the name tfds makes of its class.
TFDS_NAME = "prefixrl_problems"
# What marks a value in its examples that is not text.
JSON = "json:"


class Origin(NamedTuple):
  """Rows, and where they come from: file, data set with revision, or rule."""

  name: str
  rows: Iterator[Row]


def from_files(pattern: str, columns: Mapping[str, str], field: str) -> Origin:
  """Returns the rows of one or more local files.

  Args:
    pattern: a glob pattern for the files.
    columns: see `Source`; a Parquet file's other columns are not read.
    field: of the config that names the files.
  """
  return Origin(pattern, _chain(find_files(pattern, field), columns))


def from_tfds(name: str, split: str, data_dir: str | None = None) -> Origin:
  """Returns the rows of a prepared data set, without TensorFlow.

  Args:
    name: as for tfds.builder, e.g. "gsm8k".
    split: e.g. "train" or "test[:500]".
    data_dir: where it is, if not where tfds looks by default.

  Raises:
    UserError: the data set is not available here.
  """
  import tensorflow_datasets as tfds  # slow to import and rarely needed

  try:
    data = tfds.data_source(name, split=split, data_dir=data_dir)
  except Exception as e:  # offline, unknown or unprepared: all look different
    raise UserError(
      f"tfds cannot load {name!r}, split {split!r}: {one_line(e)}\nPrepare it"
      " where"
      f" there is a network (tfds build {name} --file_format=array_record) and"
      " point TFDS_DATA_DIR at the result, or use config.problems.task ="
      " 'jsonl'."
    ) from None

  def rows() -> Iterator[Row]:
    for i in range(len(data)):
      example = {key: _value(value) for key, value in data[i].items()}
      yield Row(f"tfds {name}, row {i}", i, example)

  return Origin(f"tfds {name}", rows())


def _value(value: Any) -> Any:
  text = value.decode() if isinstance(value, bytes) else value
  if isinstance(text, str) and text.startswith(JSON):
    return json.loads(text.removeprefix(JSON))
  return text


def from_source(task: str, source: Source, split: str, field: str) -> Origin:
  """Returns a known source's rows from tfds or the hub.

  Args:
    task: its name.
    source: its row of SOURCES, with a hub id.
    split: one of its splits.
    field: the config field that would name a file instead.

  Raises:
    UserError: it has no such split, or is not available here.
  """
  if not source.hub:
    raise UserError(
      f"config.problems: {task} is not on the hub; bring its file and set"
      f" --{field}=FILE."
    )
  if split not in source.splits:
    raise UserError(
      f"config.problems: {task} has no split {split!r}; there are"
      f" {', '.join(source.splits)}."
    )
  prepared = os.environ.get("TFDS_DATA_DIR", "")
  if prepared and (epath.Path(prepared) / TFDS_NAME / task).exists():
    return from_tfds(f"{TFDS_NAME}/{task}", split, prepared)
  files, revision = download(task, source, split, field)
  return Origin(f"{source.hub}@{revision[:12]}", _chain(files, source.columns))


def download(
  task: str, source: Source, split: str, field: str
) -> tuple[list[epath.Path], str]:
  """Returns a split's files from the hub, and the revision they are of.

  Raises:
    UserError: the hub cannot be reached, or has no such files.
  """
  import huggingface_hub  # slow to import and rarely needed

  patterns = source.splits[split].split(",")
  try:
    folder = huggingface_hub.snapshot_download(
      source.hub, repo_type="dataset", allow_patterns=patterns
    )
  except Exception as e:  # whatever the network and the hub may cause
    reason = one_line(e)
    raise UserError(
      _how_to_bring(task, source, split, field, f"({reason})")
    ) from None
  root = epath.Path(folder)
  files = sorted(
    file for pattern in patterns for file in expand(root / pattern)
  )
  if not files:
    raise UserError(
      _how_to_bring(task, source, split, field, "(it has no such file)")
    )
  return files, root.name


def _how_to_bring(
  task: str, source: Source, split: str, field: str, reason: str
) -> str:
  patterns = source.splits[split].split(",")
  include = " ".join(f"--include '{p}'" for p in patterns)
  return (
    f"config.problems: the Hugging Face hub did not give {source.hub}, split"
    f" {split} of {task} {reason}. Where the hub can be reached run"
    f" `hf download {source.hub} --repo-type dataset {include} --local-dir"
    " FOLDER` (after `hf auth login` if it is gated), bring"
    f" FOLDER/{patterns[0]} here and set --{field} to it."
  )


def _chain(
  files: Sequence[epath.Path], columns: Mapping[str, str]
) -> Iterator[Row]:
  """Yields the rows of several files, numbered consecutively."""
  wanted = {
    column.partition(".")[0]
    for names in columns.values()
    for column in names.split(",")
  }

  def choose(place: str, there: Sequence[str]) -> Collection[str]:
    # Something is read even of a file that has none of them: the error then
    # says what it has.
    return wanted if wanted.intersection(there) else there

  start = 0
  for file in files:
    last = -1
    for row in read_rows(file, choose):
      last = row.number
      yield row._replace(number=start + row.number)
    start += last + 1
