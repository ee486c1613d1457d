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
from collections.abc import Iterable, Mapping, Sequence
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
    ("prompt", pa.list_(pa.int32())),  # with a hint, if it has one
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
    self._open_bytes = 0.0  # of the newest file
    self._closed_bytes = 0.0  # of all others
    remove_temporaries(folder)
    factors = [_factor(path) for path in table_files(folder)]
    self._factor = min(factors, default=1.0)
    if any(factor > self._factor for factor in factors):
      self._thin_files()  # a killed process had begun to
    for path in table_files(folder):
      if (rows := _read(path, schema)) is not None:
        self._reopen(path, rows, resume_step)

  def _reopen(self, path: epath.Path, rows: pa.Table, resume_step: int) -> None:
    """Takes a file up, the newest so far, without rows after that step."""
    self._close_file()
    kept = rows.filter(pc.less_equal(rows["step"], resume_step))
    self._path, self._rows, self._open_bytes = path, [kept], _size(kept)
    self._is_written = kept.num_rows == rows.num_rows
    if not kept.num_rows or self._open_bytes >= _FILE_BYTES:
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
    self._open_bytes += _size(self._rows[-1])
    self._is_written = False
    while self._closed_bytes + self._open_bytes > self._max_bytes:
      self._factor /= 2
      self._closed_bytes = self._thin_files()
      self._rows = [self._thinned(pa.concat_tables(self._rows))]
      self._open_bytes = _size(self._rows[0])
    if self._open_bytes >= _FILE_BYTES:
      self._close_file()

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
    self._open_bytes = 0.0

  def _thin_files(self) -> float:
    """Leaves in all files but the newest what is below the threshold.

    Returns:
      The size of what is left.
    """
    size = 0.0
    for path in table_files(self._folder):
      if path == self._path or (rows := _read(path, self._schema)) is None:
        continue
      if kept := self._thinned(rows):
        write_bytes(path, _encoded(kept, self._factor))
        size += _size(kept)
      else:
        remove(path)
    return size

  def _thinned(self, rows: pa.Table) -> pa.Table:
    return _below(rows, self.threshold)


def read_groups(directory: epath.Path) -> pa.Table:
  """Returns what came of every group of a run.

  Args:
    directory: the run's.
  """
  paths = table_files(directory / "groups")
  return _joined((_read(path, GROUP) for path in paths), GROUP)


def count_rollouts(directory: epath.Path) -> int:
  """Returns how many rollouts of a run are kept.

  Args:
    directory: the run's.
  """
  paths = table_files(directory / "rollouts")
  tables = (_read(path, _columns("step")) for path in paths)
  return sum(table.num_rows for table in tables if table is not None)


def last_step(directory: epath.Path) -> int:
  """Returns the last step of which a run has groups; 0: it has none.

  Args:
    directory: the run's.
  """
  return pc.max(read_groups(directory)["step"]).as_py() or 0


def sample_rollouts(
  directory: epath.Path, *, most: int, most_tokens: int, since: int = 0
) -> pa.Table:
  """Returns an even sample of a run's rollouts, whole groups.

  A smaller sample is part of a larger one.

  Args:
    directory: the run's.
    most: rollouts, at most.
    most_tokens: of all their completions, at most.
    since: the first step that they may be of.
  """
  paths = table_files(directory / "rollouts")
  sizes: dict[tuple[float, int, str], list[int]] = {}
  for path in paths:
    table = _read(path, _columns("seed", "step", "problem_id", "length"))
    for row in _since(table, since).to_pylist() if table is not None else ():
      place = (row["seed"], row["step"], row["problem_id"])
      size = sizes.setdefault((draw(*place), *place[1:]), [0, 0])
      size[0] += 1
      size[1] += row["length"]
  below, num_rollouts, num_tokens = 0.0, 0, 0
  for (value, *_), (rollouts, tokens) in sorted(sizes.items()):
    num_rollouts, num_tokens = num_rollouts + rollouts, num_tokens + tokens
    if num_rollouts > most or num_tokens > most_tokens:
      break
    below = math.nextafter(value, 1.0)
  some = lambda t: t if t is None else _below(_since(t, since), below)
  return _joined((some(_read(path, ROLLOUT)) for path in paths), ROLLOUT)


def _joined(tables: Iterable[pa.Table | None], schema: pa.Schema) -> pa.Table:
  there = (table for table in tables if table is not None)
  return pa.concat_tables([schema.empty_table(), *there])


def _columns(*names: str) -> pa.Schema:
  return pa.schema([ROLLOUT.field(name) for name in names])


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


def _below(rows: pa.Table, threshold: float) -> pa.Table:
  """Returns the rows that are drawn below a threshold."""
  names = ("seed", "step", "problem_id")
  places = zip(*(rows[name].to_pylist() for name in names))
  return rows.filter(
    pa.array([draw(*place) < threshold for place in places], pa.bool_())
  )


def _since(rows: pa.Table, step: int) -> pa.Table:
  return rows.filter(pc.greater_equal(rows["step"], step))


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
    for name in ("prompt", "prefix"):
      size += 4 * (pc.sum(pc.list_value_length(rows[name])).as_py() or 0)
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


def _read(path: epath.Path, schema: pa.Schema) -> pa.Table | None:
  """Returns a file's columns; sets it aside, and warns, if it is damaged."""
  if not path.exists():
    return None  # it has just been set aside
  try:
    with path.open("rb") as f:
      table = pq.read_table(
        f, columns=schema.names, page_checksum_verification=True
      )
    return table.cast(schema)
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
