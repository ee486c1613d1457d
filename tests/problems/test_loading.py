"""Problems from files and from tfds: what is read, and what is refused."""

import json

import ml_collections
import pytest

from prefixrl_jax.problems.from_tfds import read_tfds
from prefixrl_jax.problems.jsonl import read_jsonl
from prefixrl_jax.problems.loading import load_problems
from prefixrl_jax.types import UserError

_FIELDS = {"problem_field": "problem", "answer_field": "answer"}


def _file(tmp_path, *lines):
  path = tmp_path / "p.jsonl"
  path.write_text(
    "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
  )
  return path


def _read(path, **settings):
  return read_jsonl(path, source="s", split="train", **(_FIELDS | settings))


def test_reads_fields_ids_and_answers(tmp_path):
  path = _file(
    tmp_path,
    {"problem": "1+1?", "answer": "so #### 2", "key": "x"},
    "",
    {"problem": "1+2?", "answer": "#### 3", "key": 7},
  )
  problems = _read(path, answer_pattern="#### (.*)", id_field="key")
  assert [(p.id, p.prompt, p.answer, p.index) for p in problems] == [
    ("x", "1+1?", "2", 0),
    ("7", "1+2?", "3", 2),
  ]
  (only,) = _read(path, start=1, limit=1)
  assert (only.id, only.answer) == ("s/2", "#### 3")


@pytest.mark.parametrize(
  ("line", "settings", "message"),
  [
    ('{"problem": ', {}, "line 2: not JSON"),
    ({"answer": "2"}, {}, "line 2: field 'problem' is missing or empty"),
    ({"problem": "p", "answer": " "}, {}, "line 2: field 'answer'"),
    ({"problem": "p", "answer": None}, {}, "line 2: field 'answer'"),
    ([1, 2], {}, "line 2: field 'answer'"),
    (
      {"problem": "p", "answer": "2"},
      {"answer_pattern": "#### (.*)"},
      "does not match",
    ),
    (
      {"problem": "p", "answer": "#### 2", "id": "a"},
      {"id_field": "id"},
      "line 2: id 'a' was already used by .*line 1",
    ),
  ],
)
def test_names_file_and_line(tmp_path, line, settings, message):
  first = {"problem": "q", "answer": "#### 1", "id": "a"}
  path = _file(tmp_path, first, line)
  with pytest.raises(UserError, match=f"p\\.jsonl, {message}|{message}"):
    _read(path, **settings)


def test_names_a_missing_or_empty_file(tmp_path):
  with pytest.raises(UserError, match="no problem file"):
    _read(tmp_path / "none.jsonl")
  with pytest.raises(UserError, match="holds no problems after line 0"):
    _read(_file(tmp_path))


def _config(path, **settings):
  return ml_collections.ConfigDict(
    {
      "task": "jsonl",
      "file": str(path),
      "answer_pattern": "",
      "id_field": "",
      "start": 0,
      "num_train": 2,
      "num_heldout": 1,
      "instruction": " Go.",
      **_FIELDS,
    }
    | settings
  )


def test_splits_in_order_and_adds_the_instruction(tmp_path):
  lines = [{"problem": f"p{i}", "answer": str(i)} for i in range(4)]
  problems = load_problems(_config(_file(tmp_path, *lines)), seed=0)
  assert [(p.prompt, p.split) for p in problems] == [
    ("p0 Go.", "train"),
    ("p1 Go.", "train"),
    ("p2 Go.", "heldout"),
  ]


def test_too_few_problems(tmp_path):
  path = _file(tmp_path, {"problem": "p", "answer": "1"})
  with pytest.raises(UserError, match=r"asks for 3 problems .* there are 1"):
    load_problems(_config(path), seed=0)


def test_unknown_task(tmp_path):
  config = _config(tmp_path, task="chess")
  with pytest.raises(UserError, match="'chess' is none of checksum, jsonl"):
    load_problems(config, seed=0)


def test_tfds_rows(monkeypatch):
  tfds = pytest.importorskip("tensorflow_datasets")
  rows = [
    {"problem": b"1+1?", "answer": b"2"},
    {"problem": b"?", "answer": b"4"},
  ]
  asked = []

  def data_source(name, split):
    asked.append((name, split))
    return rows

  monkeypatch.setattr(tfds, "data_source", data_source)
  problems = read_tfds(
    "sums", tfds_split="test", source="sums", split="train", limit=1, **_FIELDS
  )
  assert [(p.id, p.prompt, p.answer) for p in problems] == [
    ("sums/0", "1+1?", "2")
  ]
  assert asked == [("sums", "test")]


def test_tfds_says_how_to_go_on():
  pytest.importorskip("tensorflow_datasets")
  with pytest.raises(UserError, match=r"tfds build nothing_like_this"):
    read_tfds(
      "nothing_like_this", tfds_split="train", source="", split="", **_FIELDS
    )
