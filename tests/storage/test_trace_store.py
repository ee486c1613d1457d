"""Traces and prefixes on disk."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from etils import epath

from prefixrl_jax.storage import trace_store
from prefixrl_jax.storage.files import File
from prefixrl_jax.types import PrefixedProblem, Trace, UserError

_TRACE = Trace("p", np.array([3, 1, 5], np.int32), "x", 1.0, "b@0", 12, 7, 2)


def test_traces_come_back(tmp_path):
  path = epath.Path(tmp_path / "t.parquet")
  trace_store.write_traces(path, [_TRACE])
  [back] = trace_store.read_traces(File(path))
  np.testing.assert_array_equal(back.tokens, _TRACE.tokens)
  assert back.tokens.dtype == np.int32
  assert {**vars(back), "tokens": 0} == {**vars(_TRACE), "tokens": 0}
  frame = pd.read_parquet(path)
  assert frame.length.tolist() == [3]
  assert frame.tokens[0].tolist() == [3, 1, 5]


def test_log_probabilities_come_back_bit_for_bit(tmp_path):
  path = epath.Path(tmp_path / "t.parquet")
  logprobs = np.array([-0.1, -1e-30, -71.25], np.float32)
  known = dataclasses.replace(_TRACE, logprobs=logprobs)
  trace_store.write_traces(path, [_TRACE, known])
  unknown, back = trace_store.read_traces(File(path))
  assert unknown.logprobs is None
  assert back.logprobs.dtype == np.float32
  np.testing.assert_array_equal(back.logprobs, logprobs)


def test_a_store_from_before_log_probabilities_is_read(tmp_path):
  path = epath.Path(tmp_path / "t.parquet")
  trace_store.write_traces(path, [_TRACE])
  pd.read_parquet(path).drop(columns="logprobs").to_parquet(path)
  [back] = trace_store.read_traces(File(path))
  assert back.logprobs is None
  assert back.tokens.tolist() == [3, 1, 5]


@pytest.mark.parametrize(
  ("column", "value", "said"),
  [
    ("logprobs", [-1.0, -1.0], "3 tokens, and logprobs that are not 3 numbers"),
    ("logprobs", [-1.0, None, -1.0], "logprobs that are not 3 numbers"),
    ("logprobs", "-1 -1 -1", "its columns are others"),
    ("tokens", None, "rows lack their tokens"),
  ],
)
def test_a_row_that_is_not_as_it_was_written_is_one_line(
  tmp_path, column, value, said
):
  path = epath.Path(tmp_path / "t.parquet")
  trace_store.write_traces(path, [_TRACE])
  frame = pd.read_parquet(path)
  frame[column] = pd.Series([value], dtype=object)
  frame.to_parquet(path)
  with pytest.raises(UserError, match=rf"t\.parquet is damaged.*{said}") as e:
    trace_store.read_traces(File(path, remedy="--redo=collect re-makes it."))
  assert "\n" not in str(e.value)
  assert str(e.value).endswith("--redo=collect re-makes it.")


def test_prefixes_come_back(tmp_path):
  path = epath.Path(tmp_path / "p.parquet")
  written = PrefixedProblem("p", np.array([3, 1], np.int32), 2 / 3, "b@0", 12)
  trace_store.write_prefixed_problems(path, [written])
  [back] = trace_store.read_prefixed_problems(File(path))
  np.testing.assert_array_equal(back.prefix, written.prefix)
  assert back.fraction == written.fraction


def test_a_foreign_file_is_named(tmp_path):
  path = epath.Path(tmp_path / "t.parquet")
  with pytest.raises(UserError, match=r"t\.parquet is not there"):
    trace_store.read_traces(File(path))
  path.write_text("no parquet")
  with pytest.raises(UserError, match=r"t\.parquet .*not a Parquet"):
    trace_store.read_traces(File(path))
  pd.DataFrame({"tokens": [[1]]}).to_parquet(path)
  with pytest.raises(UserError, match="problem_id, text"):
    trace_store.read_traces(File(path))


def test_columns_of_other_types_are_one_line(tmp_path):
  """Arrow has an exception for each way in which a file may be wrong."""
  path = epath.Path(tmp_path / "t.parquet")
  trace_store.write_traces(path, [_TRACE])
  frame = pd.read_parquet(path)
  frame.attempt = "twelve"
  frame.to_parquet(path)
  with pytest.raises(UserError, match=r"t\.parquet .*columns are others"):
    trace_store.read_traces(File(path, remedy="--redo=collect re-makes it."))


@pytest.mark.parametrize("size", [0, 3, 400, -9])
def test_a_file_that_was_cut_short_is_one_line(tmp_path, size):
  path = epath.Path(tmp_path / "t.parquet")
  trace_store.write_traces(path, [_TRACE] * 20)
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(UserError, match=r"t\.parquet is damaged.*--redo") as e:
    trace_store.read_traces(File(path, remedy="--redo=collect re-makes it."))
  assert "\n" not in str(e.value)


def test_no_traces_keep_their_columns(tmp_path):
  path = epath.Path(tmp_path / "t.parquet")
  trace_store.write_traces(path, [])
  assert trace_store.read_traces(File(path)) == []
