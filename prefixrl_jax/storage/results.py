"""EvalResults on disk, as Parquet."""

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
from etils import epath

from prefixrl_jax.storage.files import File, write_parquet
from prefixrl_jax.types import EvalResult

_SCHEMA = pa.schema(
  [
    ("problem_id", pa.string()),
    ("split", pa.string()),
    ("fraction", pa.float64()),
    ("num_samples", pa.int64()),
    ("num_correct", pa.int64()),
  ]
)


def write_results(path: epath.Path, results: Sequence[EvalResult]) -> None:
  """Writes results atomically, one row each."""
  rows = [dataclasses.asdict(r) for r in results]
  write_parquet(path, pa.Table.from_pylist(rows, schema=_SCHEMA))


def read_results(file: File) -> list[EvalResult]:
  """Reads what `write_results` wrote."""
  return [EvalResult(**row) for row in file.read_table(_SCHEMA)]
