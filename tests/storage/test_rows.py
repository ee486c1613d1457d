"""Rows of files: every format, their places, and what does not parse."""

import gzip
import json
import re

import pandas as pd
import pytest
from etils import epath

from prefixrl_jax.storage.rows import find_files, read_rows
from prefixrl_jax.types import UserError

_ROWS = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize(
  ("name", "places"),
  [
    ("r.jsonl", ["line 1", "line 3"]),
    ("r.jsonl.gz", ["line 1", "line 3"]),
    ("r.json", ["entry 0", "entry 1"]),
    ("named.json", ["entry p", "entry q"]),
    ("r.parquet", ["row 1", "row 2"]),
  ],
)
def test_every_format_gives_the_same_rows(tmp_path, name, places):
  path = epath.Path(tmp_path / name)
  lines = "\n\n".join(map(json.dumps, _ROWS))
  if name == "r.parquet":
    pd.DataFrame(_ROWS).to_parquet(path)
  elif name == "r.json":
    path.write_text(json.dumps(_ROWS))
  elif name == "named.json":
    path.write_text(json.dumps(dict(zip("pq", _ROWS))))
  elif name == "r.jsonl.gz":
    path.write_bytes(gzip.compress(lines.encode()))
  else:
    path.write_text(lines)
  rows = list(read_rows(path))
  assert [r.fields for r in rows] == _ROWS
  assert [r.place for r in rows] == [f"{path}, {place}" for place in places]
  assert rows[-1].share > 0.9


def test_unwanted_columns_of_parquet_are_not_read(tmp_path):
  path = epath.Path(tmp_path / "r.parquet")
  pd.DataFrame(_ROWS).to_parquet(path)
  asked = []

  def choose(place, columns):
    asked.append((place, list(columns)))
    return {"b"}

  assert [r.fields for r in read_rows(path, choose)] == [{"b": "x"}, {"b": "y"}]
  assert asked == [(str(path), ["a", "b"])]


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("r.jsonl", b'{"a": 1}\n{"a": ', r"r\.jsonl, line 2: not JSON"),
    ("r.jsonl", b"[1]", r"line 1: not a JSON object"),
    ("r.json", b"{", r"r\.json: not JSON"),
    ("r.json", b"3", r"neither a list nor an object"),
    ("r.json", b"[3]", r"entry 0: not a JSON object"),
    ("r.parquet", b"x", r"not a Parquet file"),
    ("r.jsonl.gz", b"x", r"r\.jsonl\.gz is not a gzip file"),
  ],
)
def test_what_does_not_parse_is_named(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    list(read_rows(epath.Path(tmp_path / name)))


def test_any_part_of_a_path_may_have_a_star(tmp_path, monkeypatch):
  for seed in (1, 0):
    folder = tmp_path / f"seed_{seed}" / "collect"
    folder.mkdir(parents=True)
    (folder / "traces.parquet").touch()
    (folder / "others.parquet").touch()
  names = [f"seed_{seed}/collect/traces.parquet" for seed in (0, 1)]
  monkeypatch.chdir(tmp_path)
  found = lambda pattern: [*map(str, find_files(pattern, "f"))]
  assert found("seed_*/collect/traces.parquet") == names
  assert found("s*/c*/t*") == names
  there = [f"{tmp_path}/{name}" for name in names]
  assert found(f"{tmp_path}/seed_*/collect/traces.parquet") == there


@pytest.mark.parametrize("name", ["none.jsonl", "none*.jsonl", "n*/a.jsonl"])
def test_a_missing_file_is_named_with_its_field(tmp_path, name):
  said = re.escape(f"config.x: there is no file {tmp_path / name}.")
  with pytest.raises(UserError, match=said):
    find_files(str(tmp_path / name), "config.x")
