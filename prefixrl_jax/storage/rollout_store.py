"""Rollouts of a training run, kept as Parquet that pandas can read.

Two tables grow with a run, each a folder of files that are named after their
first step. `rollouts` has a share of the completions, token by token. `groups`
has a row for every group, kept or not: when a problem was first solved is read
there.
"""

import hashlib
import io
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from prefixrl_jax.storage.files import remove, remove_temporaries, write_bytes
from prefixrl_jax.types import one_line

_OF_BOTH = [
  ("arm", pa.string()),
  ("seed", pa.int64()),
  ("step", pa.int64()),  # that of metrics.jsonl: the update it went into
  ("problem_id", pa.string()),
  ("group", pa.int32()),  # of the step, from 0
  ("prefix_length", pa.int32()),
  ("fraction", pa.float64()),  # prefix length / trace length
]
ROLLOUT = pa.schema(
  [
    *_OF_BOTH,
    ("lane", pa.int32()),  # of the group, from 0
    ("prefix", pa.list_(pa.int32())),
    ("tokens", pa.list_(pa.int32())),
    ("length", pa.int32()),
    ("text", pa.string()),
    ("logprobs", pa.list_(pa.float32())),
    ("advantages", pa.list_(pa.float32())),  # null: not learned from
    ("reward", pa.float32()),
    ("truncated", pa.bool_()),
  ]
)
GROUP = pa.schema(
  [
    *_OF_BOTH,
    ("num_completions", pa.int32()),
    ("num_correct", pa.int32()),
    ("num_truncated", pa.int32()),
    ("mean_reward", pa.float64()),
  ]
)

# A file's rows, but for those of its last step; until then it is the newest,
# and is written again. Sizes are uncompressed, see `_size`.
_FILE_BYTES = 16e6
_FACTOR = b"prefixrl_jax.factor"  # of the share, in a file's metadata
# What Arrow raises where a file is not what was written.
_UNREADABLE = (pa.ArrowException, OSError, ValueError)


class RolloutStore:
  """The rollouts that a run keeps, and what came of every group.

  Which groups are kept is decided by seed, step and problem alone, so that a
  resumed run keeps what it would have kept anyway. Where that would be more
  than `max_bytes`, the share is halved, and what was kept before is thinned
  alike: it always is an even sample of the whole run.
  """

  def __init__(
    self,
    directory: epath.Path,
    *,
    share: float,
    max_bytes: float,
    resume_step: int,
  ):
    """Opens both tables.

    Args:
      directory: the run's; it gets the folders `rollouts` and `groups`.
      share: of the groups, whose rollouts are kept.
      max_bytes: of all rollouts, uncompressed; their files take less.
      resume_step: rows after this step are dropped: they will be written again.
    """
    self._rollouts = _Table(
      directory / "rollouts", ROLLOUT, resume_step, share, max_bytes
    )
    self._groups = _Table(directory / "groups", GROUP, resume_step)

  def is_kept(self, seed: int, step: int, problem_id: str) -> bool:
    """Whether a problem's rollouts of a step are kept."""
    return draw(seed, step, problem_id) < self._rollouts.threshold

  def add(
    self,
    rollouts: Sequence[Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
  ) -> None:
    """Adds a step's rows; they are on the disk after `flush`.

    Args:
      rollouts: rows of ROLLOUT, of the groups that are kept.
      groups: rows of GROUP, of all groups.
    """
    self._rollouts.add(rollouts)
    self._groups.add(groups)

  def flush(self) -> None:
    """Writes what has been added."""
    self._rollouts.flush()
    self._groups.flush()

  def __enter__(self):
    return self

  def __exit__(self, *_) -> None:
    self.flush()


class _Table:
  """A table that grows by steps: files, and the rows of the newest one."""

  def __init__(
    self,
    folder: epath.Path,
    schema: pa.Schema,
    resume_step: int,
    share: float = 1.0,
    max_bytes: float = math.inf,
  ):
    self._folder, self._schema = folder, schema
    self._share, self._max_bytes = share, max_bytes
    self._rows: list[pa.Table] = []  # of the newest file
    self._path: epath.Path | None = None  # of the newest file
    self._is_written = True
    self._closed_bytes = 0.0  # of all files but the newest
    remove_temporaries(folder)
    there = [(_first_step(path), path) for path in table_files(folder)]
    remove(*(path for step, path in there if step > resume_step))
    paths = [path for step, path in there if step <= resume_step]
    factors = [_factor(path) for path in paths]
    self._factor = min(factors, default=1.0)
    if any(factor > self._factor for factor in factors):
      self._thin_files()  # a killed process had begun to
    for path in table_files(folder):
      if (rows := _read(path)) is not None:
        self._reopen(path, rows, resume_step)

  def _reopen(self, path: epath.Path, rows: pa.Table, resume_step: int) -> None:
    """Takes a file up, the newest so far, without rows after that step."""
    self._close_file()
    kept = rows.filter(pc.less_equal(rows["step"], resume_step))
    self._path, self._rows = path, [kept]
    self._is_written = kept.num_rows == rows.num_rows
    if not kept.num_rows or _size(kept) >= _FILE_BYTES:
      self._close_file()

  @property
  def threshold(self) -> float:
    """What is kept is drawn below it."""
    return self._share * self._factor

  def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds rows of a step after those that are there."""
    if not rows:
      return
    self._rows.append(pa.Table.from_pylist([*rows], schema=self._schema))
    self._is_written = False
    while self._closed_bytes + self._open_bytes > self._max_bytes:
      self._factor /= 2
      self._closed_bytes = self._thin_files()
      self._rows = [self._thinned(pa.concat_tables(self._rows))]
    if self._open_bytes >= _FILE_BYTES:
      self._close_file()

  @property
  def _open_bytes(self) -> float:
    return sum(map(_size, self._rows))

  def flush(self) -> None:
    """Writes the newest file."""
    if self._is_written:
      return
    rows = pa.concat_tables(self._rows).combine_chunks()
    if rows.num_rows:
      if not self._path:
        step = rows["step"][0].as_py()
        self._path = self._folder / f"step_{step:08d}.parquet"
      write_bytes(self._path, _encoded(rows, self._factor))
    elif self._path:
      remove(self._path)
    self._rows, self._is_written = [rows], True

  def _close_file(self) -> None:
    self.flush()
    self._closed_bytes += self._open_bytes
    self._path, self._rows, self._is_written = None, [], True

  def _thin_files(self) -> float:
    """Leaves in all files but the newest what is below the threshold.

    Returns:
      The size of what is left.
    """
    size = 0.0
    for path in table_files(self._folder):
      if path == self._path or (rows := _read(path)) is None:
        continue
      if kept := self._thinned(rows):
        write_bytes(path, _encoded(kept, self._factor))
        size += _size(kept)
      else:
        remove(path)
    return size

  def _thinned(self, rows: pa.Table) -> pa.Table:
    """Returns the rows that are drawn below the threshold."""
    names = ("seed", "step", "problem_id")
    places = zip(*(rows[name].to_pylist() for name in names))
    return rows.filter(
      pa.array([draw(*place) < self.threshold for place in places], pa.bool_())
    )


def draw(seed: int, step: int, problem_id: str) -> float:
  """Returns a number in [0, 1), the same wherever it is asked for.

  Args:
    seed: of the run.
    step: that of metrics.jsonl.
    problem_id: of the group.
  """
  digest = hashlib.sha256(f"{seed}/{step}/{problem_id}".encode()).digest()
  return int.from_bytes(digest[:7], "big") / 2**56


def table_files(folder: epath.Path) -> list[epath.Path]:
  """Returns a table's files, by their first steps; none if there is none."""
  return sorted(folder.glob("step_*.parquet")) if folder.exists() else []


def _first_step(path: epath.Path) -> int:
  return int(path.stem.removeprefix("step_"))


def _factor(path: epath.Path) -> float:
  try:
    with path.open("rb") as f:
      return float(pq.read_schema(f).metadata[_FACTOR])
  except (*_UNREADABLE, KeyError):
    return 1.0  # found out when it is read


def _size(rows: pa.Table) -> float:
  """Returns the bytes of rows, the text's estimated."""
  size = 64.0 * rows.num_rows
  if "length" in rows.column_names:
    size += 16 * (pc.sum(rows["length"]).as_py() or 0)
    size += 4 * (pc.sum(rows["prefix_length"]).as_py() or 0)
  return size


def _encoded(table: pa.Table, factor: float) -> bytes:
  sink = io.BytesIO()
  pq.write_table(
    table.replace_schema_metadata({_FACTOR: str(factor).encode()}),
    sink,
    compression="zstd",
    write_page_checksum=True,
  )
  return sink.getvalue()


def _read(path: epath.Path) -> pa.Table | None:
  """Returns a file's rows; sets it aside, and warns, if it is damaged."""
  try:
    return pq.read_table(
      pa.BufferReader(path.read_bytes()), page_checksum_verification=True
    )
  except _UNREADABLE as e:
    aside = path.parent / f"_damaged_{path.name}"
    path.replace(aside)
    logging.getLogger(__name__).warning(
      "%s is damaged (%s); it is left out, and kept as %s",
      path,
      one_line(e),
      aside.name,
    )
    return None
