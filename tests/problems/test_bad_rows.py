"""Whatever a file of problems holds: a problem, a reason, or one line."""

import gzip
import json
import os
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from prefixrl_jax.problems.loading import load_parts
from prefixrl_jax.types import UserError

_GOOD = {"problem": "What is 3+4?", "answer": "7"}
_SKIPPED = {"problem": "q", "answer": None}
_ASKED = [{"role": "user", "content": "What is 3+4?"}]


def _jsonl(*rows):
  return "".join(
    (row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows
  ).encode()


def _one(section, path, **fields):
  config = section(
    "jsonl", file=str(path), num_train=1, num_heldout=0, **fields
  )
  train, _ = load_parts(config, seed=0)
  return train


# -- rows ----------------------------------------------------------------------


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    # a problem in other forms
    ({"problem": _ASKED}, ("What is 3+4?", "7")),
    ({"problem": json.dumps(_ASKED)}, ("What is 3+4?", "7")),
    ({"problem": [{"type": "text", "text": "3+4?"}]}, ("3+4?", "7")),
    (
      {
        "problem": [
          {"role": "system", "content": "s"},
          {
            "role": "user",
            "content": [
              {"type": "text", "text": "What is "},
              {"type": "text", "text": "3+4?"},
            ],
          },
        ]
      },
      ("What is 3+4?", "7"),
    ),
    (
      {"problem": "[1, 2]: which is larger?"},
      ("[1, 2]: which is larger?", "7"),
    ),
    ({"problem": "[1, 2]"}, ("[1, 2]", "7")),
    ({"problem": "{x} is"}, ("{x} is", "7")),
    # an answer in other forms
    ({"answer": ["7"]}, ("What is 3+4?", "7")),
    ({"answer": [7]}, ("What is 3+4?", "7")),
    ({"answer": 7}, ("What is 3+4?", "7")),
    ({"answer": 0}, ("What is 3+4?", "0")),
    ({"answer": 7.5}, ("What is 3+4?", "7.5")),
    ({"answer": True}, ("What is 3+4?", "True")),
    ({"answer": int("9" * 400)}, ("What is 3+4?", "9" * 400)),
    # no problem, and why
    ({"problem": ["a", "b"]}, "problem is a list, no text"),
    ({"problem": [1, [2]]}, "problem is a list, no text"),
    ({"problem": {"a": 1}}, "problem is an object, no text"),
    ({"problem": '{"a": 1}'}, "problem is an object, no text"),
    ({"problem": "[{'role': 'user', 'content': 'q'}]"}, "Python's form"),
    ({"problem": 5}, "problem is a number, no text"),
    ({"problem": True}, "problem is true or false, no text"),
    ({"problem": []}, "no problem"),
    ({"problem": " \n"}, "no problem"),
    ({"problem": None}, "no problem"),
    ({"problem": [{"role": "assistant", "content": "a"}]}, "no problem"),
    ({"problem": [{"role": "user"}]}, "no problem"),
    (
      {
        "problem": [
          {"role": "user", "content": [{"type": "image_url", "url": "u"}]}
        ]
      },
      "problem is a part of type 'image_url', no text",
    ),
    ({"problem": [{"role": "user", "content": 3}]}, "is a number, no text"),
    ({"answer": ["7", "8"]}, "answer is a list of several"),
    ({"answer": []}, "no answer"),
    ({"answer": [None]}, "no answer"),
    ({"answer": [["7"]]}, "answer is a list, no text"),
    ({"answer": None}, "no answer"),
    ({"answer": "  "}, "no answer"),
    ({"answer": float("nan")}, "no answer"),
    ({"answer": [float("nan")]}, "no answer"),
    ({"answer": float("inf")}, "answer is not finite"),
    ({"answer": {"ground_truth": "7"}}, "after a dot: ground_truth"),
    ({"problem": "a \ud800 b"}, "half a character"),
    ({"answer": "\udfff"}, "half a character"),
    ({"other": {"deep": ["\ud83d"]}}, "half a character"),
  ],
)
def test_a_row_is_a_problem_or_has_a_reason(
  section, tmp_path, changes, expected
):
  """It stops nothing: the good row behind it is there in any case."""
  path = tmp_path / "p.jsonl"
  path.write_bytes(_jsonl(_GOOD | changes, {"problem": "next", "answer": "1"}))
  train = _one(section, path)
  [problem] = train.problems
  found = (problem.prompt.removesuffix(" Go."), problem.answer)
  if isinstance(expected, tuple):
    assert found == expected
    return
  assert found == ("next", "1")
  [(reason, count)] = train.skipped.items()
  assert expected in reason
  assert count == 1
  assert train.first[reason] == f"{path}, line 1"


def test_whole_characters_that_json_writes_in_halves_are_text(
  section, tmp_path
):
  path = tmp_path / "p.jsonl"
  path.write_text('{"problem": "\\ud83d\\ude00?", "answer": "1"}')
  [problem] = _one(section, path).problems
  assert problem.prompt == "😀? Go."


def test_where_no_row_is_a_problem_the_first_one_is_named(section, tmp_path):
  path = tmp_path / "p.jsonl"
  path.write_bytes(_jsonl("", {"problem": {"a": 1}, "answer": "7"}))
  with pytest.raises(UserError) as e:
    _one(section, path)
  said = str(e.value)
  assert "1 problem is an object, no text (first: " in said
  assert "p.jsonl, line 2)" in said
  assert "config.problems.problem_field" in said
  assert "\n" not in said


@pytest.mark.parametrize(
  ("task", "row"),
  [
    ("folio", {"premises": 3, "conclusion": "c", "label": "True"}),
    ("folio", {"premises": [1], "conclusion": "c", "label": "True"}),
    ("folio", {"premises": "p", "conclusion": [1], "label": {}}),
    ("prontoqa", {"context": 3, "query": "q", "answer": True}),
    ("countdown", {"numbers": "abc", "target": 24}),
    ("countdown", {"numbers": [1, None], "target": 24}),
    ("countdown", {"numbers": [1, 2], "target": [3]}),
    ("countdown", {"numbers": 7, "target": 7}),
    ("apps", {"question": "q", "input_output": "[1, 2]"}),
    ("apps", {"question": "q", "input_output": '{"inputs": [1]}'}),
    ("apps", {"question": [1], "input_output": '{"inputs":[1],"outputs":[1]}'}),
    ("apps", {"question": "q", "input_output": "[" * 100_000}),
    ("code_contests", {"description": "d", "public_tests": {"a": 1}}),
    ("code_contests", {"description": "d", "public_tests": [1]}),
    ("mbpp", {"text": "t", "test_list": [3], "task_id": 700}),
    ("mbpp", {"text": "t", "test_list": 3, "task_id": 700}),
    ("gsm8k", {"question": "q", "answer": ["a", "b"]}),
    ("math", {"problem": "p", "level": {}, "solution": [1]}),
    ("dapo17k", {"prompt": [1], "reward_model": {"ground_truth": "1"}}),
    ("parities", {"blocks": [[1], "x"]}),
    ("parities", {"blocks": 3}),
  ],
)
def test_rows_of_another_shape_are_named_for_every_task(
  section, lines, task, row
):
  config = section(task, file=lines("p.jsonl", row), num_train=1, num_heldout=0)
  with pytest.raises(UserError, match=r"no row is .*\(first: .*, line 1\)"):
    load_parts(config, seed=0)


# -- files ---------------------------------------------------------------------

_DEEP = "[" * 100_000
_PARQUET = {"problem": ["q", "r"], "answer": ["1", "2"]}


def _parquet(tmp_path, columns=None, **settings):
  path = tmp_path / "made"
  pq.write_table(pa.table(columns or _PARQUET), path, **settings)
  return path.read_bytes()


_FILES = {
  "array in JSONL": ("p.jsonl", b"[1, 2]\n", "line 1: not a JSON object but"),
  "a text": ("p.jsonl", b'"q"\n', "line 1: not a JSON object but a text"),
  "null": ("p.jsonl", b"null\n", "line 1: not a JSON object but null"),
  "a number": ("p.jsonl", b"3\n", "not a JSON object but a number"),
  "broken": ("p.jsonl", _jsonl(_SKIPPED, '{"a"'), "line 2: not JSON: "),
  "two in a line": ("p.jsonl", b"{} {}\n", "line 1: not JSON: Extra data"),
  "pretty printed": ("p.jsonl", b'{\n"problem": 1}', "line 1: not JSON"),
  "CSV": ("p.csv", b"problem,answer\nq,7\n", "p.csv, line 1: not JSON"),
  "deep": ("p.jsonl", _DEEP.encode(), "line 1: not JSON: it is nested too"),
  "deep JSON": ("p.json", _DEEP.encode(), "p.json: not JSON: it is nested"),
  "deep within": (
    "p.jsonl",
    b'{"problem": ' + b'{"a":' * 100_000 + b"1",
    "nested too deeply",
  ),
  "huge number": (
    "p.jsonl",
    b'{"a": ' + b"9" * 5000 + b"}",
    "line 1: not JSON",
  ),
  "key twice": (
    "p.jsonl",
    b'{"problem": "q", "answer": "1", "answer": "2"}',
    "line 1: not JSON: an object has the key 'answer' twice",
  ),
  "latin-1": (
    "p.jsonl",
    _jsonl(_SKIPPED) + '{"problem": "é"}'.encode("latin-1"),
    "line 2: not JSON: byte 14 is not UTF-8",
  ),
  "UTF-16": ("p.jsonl", '{"a": 1}'.encode("utf-16"), "line 1: .* UTF-16"),
  "UTF-16, no mark": ("p.jsonl", '{"a": 1}'.encode("utf-16-le"), "binary"),
  "UTF-16 in .json": ("p.json", '[{"a": 1}]'.encode("utf-16"), "UTF-16"),
  "binary": ("p.jsonl", bytes(range(256)), "line 1: not JSON but binary"),
  "zeros": ("p.jsonl", bytes(1000), "line 1: not JSON but binary"),
  "empty": ("p.jsonl", b"", "asks for 1 .*there are 0. There are no rows"),
  "blank lines": ("p.jsonl", b"\n \n\t\n", "There are no rows"),
  "empty .json": ("p.json", b"", "p.json: not JSON"),
  "empty list": ("p.json", b"[]", "There are no rows"),
  "a .json of text": ("p.json", b'"q"', "neither a list nor an object"),
  "lines in .json": ("p.json", _jsonl(_GOOD, _GOOD), "not JSON: Extra data"),
  "no gzip": ("p.jsonl.gz", _jsonl(_GOOD), "p.jsonl.gz is not a gzip file"),
  "no zstd": ("p.jsonl.zst", _jsonl(_GOOD), "p.jsonl.zst is not a zstd file"),
  "gzip cut off": (
    "p.jsonl.gz",
    gzip.compress(_jsonl(*[_SKIPPED | {"n": i} for i in range(9999)]))[:-999],
    "what is after .*p.jsonl.gz, line [0-9]+ cannot be read|line [0-9]+: not",
  ),
  "gzip damaged": (
    "p.jsonl.gz",
    gzip.compress(_jsonl(_GOOD))[:12] + b"\0" * 30,
    "p.jsonl.gz, after its start cannot be read",
  ),
  "empty gzip": ("p.jsonl.gz", gzip.compress(b""), "There are no rows"),
  "no Parquet": ("p.parquet", _jsonl(_GOOD), "p.parquet is not a Parquet"),
  "empty Parquet": ("p.parquet", b"", "p.parquet is not a Parquet file"),
  "encrypted Parquet": ("p.parquet", b"PARE" * 50, "is not a Parquet file"),
  "Parquet's ends": ("p.parquet", b"PAR1PAR1", "is not a Parquet file"),
}


@pytest.mark.parametrize("case", _FILES)
def test_a_bad_file_is_one_line(section, tmp_path, case):
  name, content, message = _FILES[case]
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError) as e:
    _one(section, tmp_path / name)
  assert re.search(message, str(e.value)), e.value
  assert "\n" not in str(e.value)
  assert len(str(e.value)) < 1000


@pytest.mark.parametrize("kept", [4, 100, 0.5, -1, -8])
def test_a_parquet_file_that_is_cut_off_is_one_line(section, tmp_path, kept):
  whole = _parquet(tmp_path)
  end = int(kept * len(whole)) if isinstance(kept, float) else kept
  (tmp_path / "p.parquet").write_bytes(whole[:end])
  with pytest.raises(UserError, match=r"p\.parquet is not a Parquet file") as e:
    _one(section, tmp_path / "p.parquet")
  assert "\n" not in str(e.value)


def test_a_damaged_page_of_parquet_is_one_line(section, tmp_path):
  content = bytearray(_parquet(tmp_path, compression="zstd"))
  content[4:60] = bytes(56)
  (tmp_path / "p.parquet").write_bytes(content)
  with pytest.raises(UserError, match=r"p\.parquet") as e:
    _one(section, tmp_path / "p.parquet")
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("columns", "message"),
  [
    ({"problem": [b"\xff\xfe"], "answer": ["1"]}, "problem is binary, no text"),
    ({"problem": [[1, 2]], "answer": ["1"]}, "problem is a list, no text"),
    ({"problem": [{"a": 1}], "answer": ["1"]}, "problem is an object, no text"),
    ({"problem": ["q"], "answer": [float("nan")]}, "no answer"),
    ({"problem": ["q"], "answer": pa.nulls(1)}, "no answer"),
    ({"problem": ["q"], "answer": [pd.Timestamp(0)]}, "answer is a "),
    ({"problem": pa.array([], pa.string()), "answer": pa.nulls(0)}, "no rows"),
    ({"u": [1]}, "has the fields u; none is the problem"),
  ],
)
def test_columns_of_parquet_that_are_no_text(
  section, tmp_path, columns, message
):
  (tmp_path / "p.parquet").write_bytes(_parquet(tmp_path, columns))
  with pytest.raises(UserError, match=message):
    _one(section, tmp_path / "p.parquet")


def test_text_of_parquet_that_is_not_utf8_is_one_line(section, tmp_path):
  """Arrow does not look when it is written."""
  data = pa.array([b"\xff\xfe"], pa.binary())
  text = pa.Array.from_buffers(pa.string(), 1, data.buffers())
  (tmp_path / "p.parquet").write_bytes(
    _parquet(tmp_path, {"problem": text, "answer": ["1"]})
  )
  with pytest.raises(UserError, match=r"p\.parquet.*utf-?8"):
    _one(section, tmp_path / "p.parquet")


@pytest.mark.parametrize("name", ["p.jsonl", "p.data", "p.txt"])
@pytest.mark.parametrize("kind", ["gzip", "parquet", "mark of UTF-8"])
def test_what_a_file_is_its_first_bytes_say(section, tmp_path, name, kind):
  content = {
    "gzip": lambda: gzip.compress(_jsonl(_GOOD)),
    "parquet": lambda: _parquet(tmp_path, {k: [v] for k, v in _GOOD.items()}),
    "mark of UTF-8": lambda: b"\xef\xbb\xbf" + _jsonl(_GOOD),
  }[kind]()
  (tmp_path / name).write_bytes(content)
  [problem] = _one(section, tmp_path / name).problems
  assert problem.prompt == "What is 3+4? Go."


def test_what_is_no_file_is_named(section, tmp_path):
  (tmp_path / "folder.jsonl").mkdir()
  os.mkfifo(tmp_path / "pipe.jsonl")
  for name, message in {
    "none.jsonl": "problems.file: there is no file",
    "folder.jsonl": r"problems.file: .*folder.jsonl is a folder; .*/\*.jsonl",
    "pipe.jsonl": "problems.file: .*pipe.jsonl is not an ordinary file",
    "a" * 300: "problems.file: .*(cannot be read|there is no file)",
    "none/*.jsonl": "problems.file: there is no file",
  }.items():
    with pytest.raises(UserError, match=message):
      _one(section, tmp_path / name)


@pytest.mark.parametrize(
  "error",
  [
    PermissionError(13, "Permission denied"),
    FileNotFoundError(2, "No such file or directory"),
    OSError(5, "Input/output error"),
  ],
)
@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.parquet"])
def test_a_file_that_cannot_be_read_is_one_line(
  section, tmp_path, monkeypatch, name, error
):
  """Its permissions, its end between two looks at it, or its disk."""
  path = tmp_path / name
  path.write_bytes(_jsonl(_GOOD))

  def refuse(*_, **__):
    raise error

  monkeypatch.setattr(type(epath.Path(path)), "open", refuse)
  with pytest.raises(
    UserError, match=rf"{name}.* cannot be read: {error.strerror}"
  ):
    _one(section, path)


# -- answer_pattern ------------------------------------------------------------


@pytest.mark.parametrize(
  ("pattern", "message"),
  [
    ("(", r"answer_pattern = '\(' is not a regular expression: missing \)"),
    ("[", "is not a regular expression"),
    ("*", "is not a regular expression: nothing to repeat"),
    (r"(?P<a", "is not a regular expression"),
    (r"#### .*", "answer_pattern = '#### .*' has no group"),
    (r"#### (x)?", "no row is .*1 answer does not match"),
    (r"#### ( *)", "no row is .*1 no answer"),
    (r"(a{9999999999999999999})", "is not a regular expression"),
  ],
)
def test_a_wrong_answer_pattern_is_named(section, lines, pattern, message):
  file = lines("p.jsonl", {"problem": "q", "answer": "#### 7"})
  with pytest.raises(UserError, match=message):
    _one(section, file, answer_pattern=pattern)
