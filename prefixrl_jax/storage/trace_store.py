"""Traces and prefixed problems on disk, as Parquet that pandas can read."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from etils import epath

from prefixrl_jax.storage.files import File, write_parquet
from prefixrl_jax.types import PrefixedProblem, Trace

_TRACE = pa.schema(
  [
    ("problem_id", pa.string()),
    ("tokens", pa.list_(pa.int32())),
    ("text", pa.string()),
    ("reward", pa.float32()),
    ("policy", pa.string()),
    ("attempt", pa.int64()),
    ("seed", pa.int64()),
    ("prompt_length", pa.int32()),
    ("length", pa.int32()),
    ("logprobs", pa.list_(pa.float32())),
  ]
)
_PREFIXED = pa.schema(
  [
    ("problem_id", pa.string()),
    ("prefix", pa.list_(pa.int32())),
    ("prefix_length", pa.int32()),
    ("fraction", pa.float64()),
    ("trace_policy", pa.string()),
    ("trace_attempt", pa.int64()),
  ]
)


def write_traces(path: epath.Path, traces: Sequence[Trace]) -> None:
  """Writes traces atomically, one row each."""
  rows = [
    {
      **vars(t),
      "tokens": t.tokens.tolist(),
      "length": len(t.tokens),
      "logprobs": None if t.logprobs is None else t.logprobs.tolist(),
    }
    for t in traces
  ]
  write_parquet(path, pa.Table.from_pylist(rows, schema=_TRACE))


def read_traces(file: File) -> list[Trace]:
  """Returns what `write_traces` wrote.

  Raises:
    Damaged: it is not what was written.
  """
  traces = []
  for row in file.read_table(_TRACE, younger=("logprobs",)):
    del row["length"]
    row["tokens"] = np.array(row["tokens"], np.int32)
    if row["logprobs"] is not None:
      row["logprobs"] = np.array(row["logprobs"], np.float32)
      length = len(row["tokens"])
      if len(row["logprobs"]) != length or np.isnan(row["logprobs"]).any():
        raise file.damaged(
          f"a trace of {row['problem_id']} has {length} tokens, and logprobs"
          f" that are not {length} numbers"
        )
    traces.append(Trace(**row))
  return traces


def write_prefixed_problems(
  path: epath.Path, prefixed: Sequence[PrefixedProblem]
) -> None:
  """Writes prefixed problems atomically, one row each."""
  rows = [
    {**vars(p), "prefix": p.prefix.tolist(), "prefix_length": len(p.prefix)}
    for p in prefixed
  ]
  write_parquet(path, pa.Table.from_pylist(rows, schema=_PREFIXED))


def read_prefixed_problems(file: File) -> list[PrefixedProblem]:
  """Reads what `write_prefixed_problems` wrote."""
  prefixed = []
  for row in file.read_table(_PREFIXED):
    del row["prefix_length"]
    row["prefix"] = np.array(row["prefix"], np.int32)
    prefixed.append(PrefixedProblem(**row))
  return prefixed
