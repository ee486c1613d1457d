"""Other people's traces: files, columns, matching, and what is dropped."""

import gzip
import itertools
import json
import pathlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from etils import epath
from letters import Letters

from prefixrl_jax.rewards.math import MathVerifier, has_answer
from prefixrl_jax.storage.rows import find_files, read_rows
from prefixrl_jax.traces import imports
from prefixrl_jax.traces.foreign import (
  GUESSES,
  ForeignTrace,
  read_foreign,
)
from prefixrl_jax.traces.imports import ImportSettings, import_traces
from prefixrl_jax.types import Problem, UserError, Verdict

_SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
_ASKED = "\n\nThink, then answer."
_PROBLEMS = [
  Problem("a", "What is $1+1$?" + _ASKED, "2", "", "train", 0),
  Problem("b", "What is $2+2$?" + _ASKED, "4", "", "train", 1),
]


class _LastWord:
  """Right if the text ends with the answer; "never" takes too long."""

  def __init__(self):
    self.asked = []

  def judge(self, problems, texts):
    self.asked.append(len(texts))
    return [
      Verdict(float(t.split()[-1] == p.answer), "never" in t)
      for p, t in zip(problems, texts)
    ]

  def close(self):
    pass


def _read(*files, model="", **fields):
  return list(
    read_foreign(
      [epath.Path(f) for f in files],
      model=model,
      **dict.fromkeys(GUESSES, "") | fields,
    )
  )


def _import(
  rows, problems=_PROBLEMS, *, verifier=None, batch_size=256, **changes
):
  settings = dict(
    text_of=lambda p: p.prompt.removesuffix(_ASKED),
    verifier=verifier or _LastWord(),
    tokenizer=Letters(),
    has_answer=lambda text: text[-1].isdigit(),
    max_completion_length=24,
    traces_per_problem=2,
  )
  return import_traces(
    rows,
    problems,
    ImportSettings(**settings | changes),
    on_progress=lambda *_: None,
    batch_size=batch_size,
  )


def _foreign(text, problem="What is 1 + 1?", **changes):
  fields = dict(
    place="f, line 1",
    problem=problem,
    problem_id="",
    text=text,
    model="m",
    finished=True,
    verdict=None,
  )
  return ForeignTrace(**fields | changes)


def _lines(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


# -- files and columns ---------------------------------------------------------

_CONVERSATION = [
  {"role": "system", "content": "be kind"},
  {"role": "user", "content": "q"},
  {"role": "assistant", "content": "x"},
]


@pytest.mark.parametrize(
  ("row", "expected"),
  [
    # (problem, text, model, finished, verdict) of each trace
    ({"problem": "q", "text": "x"}, [("q", "x", "traces", True, None)]),
    (
      {
        "problem": "q",
        "solution": "a person's",
        "generations": ["x", None, "y"],
        "finish_reasons": ["stop", None, "length"],
        "correctness_math_verify": [True, False, False],
      },
      [
        ("q", "x", "traces", True, True),
        ("q", "", "traces", True, False),
        ("q", "y", "traces", False, False),
      ],
    ),
    (
      {
        "question": "q",
        "r1_solution_1": "<think>x",
        "r1_solution_2": "<think>y</think>z",
        "r1_solution_3": None,
      },
      [
        ("q", "<think>x", "traces", False, None),
        ("q", "<think>y</think>z", "traces", True, None),
        ("q", "", "traces", True, None),
      ],
    ),
    ({"messages": _CONVERSATION}, [("q", "x", "traces", True, None)]),
    (
      {
        "system": "s",
        "conversations": [
          {"from": "human", "value": "q"},
          {"from": "gpt", "value": " x\n"},
        ],
      },
      [("q", "x", "traces", True, None)],
    ),
    (
      {
        "problem": "q",
        "traces": [
          {"model": "m", "correct": True, "text": "x"},
          {"model": "n", "correct": False, "text": "y"},
        ],
      },
      [("q", "x", "m", True, True), ("q", "y", "n", True, False)],
    ),
    (
      {"prompt": _CONVERSATION, "response": "y", "model": "m"},
      [("q", "y", "m", True, None)],
    ),
  ],
)
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_columns_of_known_data_sets_are_guessed(tmp_path, row, expected, kind):
  path = tmp_path / f"traces.{kind}"
  line = (json.dumps(row) + "\n\n").encode()
  if kind == "parquet":
    pd.DataFrame([row]).to_parquet(path)
  elif kind == "jsonl.gz":
    path.write_bytes(gzip.compress(line))
  elif kind == "jsonl.zst":
    with pa.CompressedOutputStream(str(path), "zstd") as f:
      f.write(line)
  else:
    path.write_bytes(line)
  [(share, traces)] = _read(path)
  assert 0.9 < share <= 1
  assert [
    (t.problem, t.text, t.model, t.finished, t.verdict) for t in traces
  ] == expected
  place = f"{path}, {'row' if kind == 'parquet' else 'line'} 1"
  numbers = [f", trace {i + 1}" for i in range(len(expected))]
  assert [t.place for t in traces] == [
    place + (number if len(expected) > 1 else "") for number in numbers
  ]


def test_named_columns_come_before_guesses(tmp_path):
  row = {"text": "no", "A": "x", "B": ["y"], "who": "w", "key": 7, "end": "eos"}
  [(_, traces)] = _read(
    _lines(tmp_path / "f.jsonl", row),
    text_field="A,B",
    model_field="who",
    id_field="key",
    finish_field="end",
  )
  assert [(t.text, t.model, t.problem_id) for t in traces] == [
    ("x", "w", "7"),
    ("y", "w", "7"),
  ]


def test_the_writer_may_be_named_where_no_column_does(tmp_path):
  path = _lines(tmp_path / "f.jsonl", {"problem": "q", "text": "x"})
  [(_, [trace])] = _read(path, model="R1")
  assert trace.model == "R1"


def test_a_row_without_the_column_does_not_fall_back(tmp_path):
  path = _lines(
    tmp_path / "f.jsonl",
    {"problem": "q", "generation": "x", "solution": "s"},
    {"problem": "q", "solution": "s"},
  )
  assert [t.text for _, [t] in _read(path)] == ["x", ""]


def test_several_files_are_one(tmp_path):
  for name in ("b", "a"):
    _lines(tmp_path / f"{name}.jsonl", {"problem": "q", "text": name})
  rows = _read(*find_files(f"{tmp_path}/*.jsonl", "f"))
  assert [(share, t.text) for share, [t] in rows] == [(0.5, "a"), (1.0, "b")]


def test_a_file_is_read_as_a_stream(tmp_path):
  """What does not parse at its end is no trouble before it is reached."""
  path = _lines(tmp_path / "f.jsonl", *[{"problem": "q", "text": "x"}] * 5)
  path.write_text(path.read_text() + "{broken\n")
  rows = read_foreign(
    [epath.Path(path)], model="", **dict.fromkeys(GUESSES, "")
  )
  for _ in range(5):
    next(rows)
  with pytest.raises(UserError, match=r"f\.jsonl, line 6: not JSON"):
    next(rows)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("f.jsonl", b'{"a": 1, "b": 2}\n', r"columns a, b; none .*problem_field"),
    ("f.jsonl", b'{"problem": 1}\n', r"columns problem; none .*text_field"),
    ("f.jsonl", b"[1]\n", r"line 1: not a JSON object"),
    ("f.jsonl", b"\xff\n", r"line 1: not JSON"),
    ("f.jsonl.gz", b"no gzip", r"f\.jsonl\.gz is not a gzip file"),
    ("f.parquet", b"no parquet", r"f\.parquet is not a Parquet file"),
  ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    _read(tmp_path / name)


def test_unknown_columns_of_parquet_are_listed(tmp_path):
  pd.DataFrame({"u": [1], "v": [2]}).to_parquet(tmp_path / "f.parquet")
  with pytest.raises(UserError, match=r"columns u, v; .*\(looked for: key\)"):
    _read(tmp_path / "f.parquet", id_field="key")


@pytest.mark.parametrize("name", ["f.jsonl", "f.parquet"])
def test_a_mistyped_optional_column_is_named(tmp_path, name):
  row = {"problem": "q", "traces": [{"text": "x", "end": "stop"}]}
  if name == "f.jsonl":
    _lines(tmp_path / name, row)
  else:
    pd.DataFrame([row]).to_parquet(tmp_path / name)
  [(_, [trace])] = _read(tmp_path / name, finish_field="end")
  assert trace.finished
  with pytest.raises(UserError, match=r"no 'ent' .*finish_field.* end, .*text"):
    _read(tmp_path / name, finish_field="ent")


@pytest.mark.parametrize("name", ["none.jsonl", "none*.jsonl"])
def test_a_missing_file_is_named(tmp_path, name):
  with pytest.raises(UserError, match=r"there is no file .*none"):
    find_files(str(tmp_path / name), "f")


# -- what is kept, what is dropped ---------------------------------------------

_STREAM = [
  _foreign("so 2", verdict=True),
  _foreign("so 4", problem="What is 5+5?"),
  _foreign(""),
  _foreign("so 2", finished=False),
  _foreign("so 2"),
  _foreign("\x01 2"),
  _foreign("a very, very long way to 2"),
  _foreign("never 3"),
  _foreign("so what", verdict=False),
  _foreign("so 3", verdict=True),
  _foreign("i say 2", model="n", verdict=False),
  _foreign("too late 2"),
  _foreign("and \x01"),
  _foreign("it is 4", problem="what is $2 + 2$?"),
]
_COUNTS = {
  "kept": 3,
  "no such problem": 1,
  "empty": 1,
  "unfinished": 1,
  "duplicate": 1,
  "not in the vocabulary": 1,
  "too long": 1,
  "timed out": 1,
  "no final answer": 1,
  "wrong": 1,
  "problem has enough": 2,
}


def test_every_reason_to_drop_a_trace_is_counted():
  made = _import([(0.5, _STREAM)])
  assert made.counts == _COUNTS
  assert made.agreement == {
    "both right": 1,
    "both wrong": 1,
    "only ours right": 1,
    "only theirs right": 1,
  }
  assert [(d["ours"], d["theirs"]) for d in made.disagreements] == [
    (False, True),
    (True, False),
  ]


def test_flaws_of_rows_are_counted_by_name():
  flawed = [
    _foreign("", flaw="it is a number"),
    _foreign("", problem="", flaw="it is a list"),
    _foreign("", flaw="it is a number"),
  ]
  made = _import([(1.0, [*flawed, _foreign("so 2")])])
  assert {why: n for why, n in made.counts.items() if n} == {
    "kept": 1,
    "it is a number": 2,
    "it is a list": 1,
  }
  assert [t.attempt for t in made.traces] == [2]  # of this problem


def test_traces_look_like_our_own():
  first, second, third = _import([(0.5, _STREAM)]).traces
  assert first.tokens.dtype == np.int32
  assert first.tokens.tolist() == [*b"so 2", 0]
  assert (first.text, first.reward, first.seed) == ("so 2", 1.0, 0)
  assert first.prompt_length == len(_PROBLEMS[0].prompt)
  assert (first.policy, second.policy) == ("imported:m", "imported:n")
  # Places among all that the file has of the problem: cuts depend on them.
  assert (first.attempt, second.attempt, third.attempt) == (0, 9, 0)
  assert third.problem_id == "b"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_batches_make_no_difference(batch_size):
  expected = _import([(0.5, _STREAM)])
  made = _import([(0.5, [t]) for t in _STREAM], batch_size=batch_size)
  assert made.counts == expected.counts
  assert made.agreement == expected.agreement
  for a, b in zip(made.traces, expected.traces, strict=True):
    assert {**vars(a), "tokens": 0} == {**vars(b), "tokens": 0}
    np.testing.assert_array_equal(a.tokens, b.tokens)


def test_no_more_than_a_batch_waits():
  verifier = _LastWord()
  read = 0

  def rows():
    nonlocal read
    for read in range(100):
      assert read - sum(verifier.asked) <= 4
      yield read / 100, [_foreign(f"{read} so 3")]

  made = _import(rows(), verifier=verifier, batch_size=4)
  assert made.counts["wrong"] == 100
  assert max(verifier.asked) == 4


def test_a_batch_of_long_traces_is_a_small_one(monkeypatch):
  monkeypatch.setattr(imports, "_MOST_CHARACTERS", 30)
  verifier = _LastWord()
  stream = [(0.5, [_foreign(f"{i:08} so 3")]) for i in range(10, 17)]
  made = _import(stream, verifier=verifier)
  assert verifier.asked == [3, 3, 1]  # of 13 characters each
  assert made.counts["wrong"] == 7


def test_a_batch_is_tokenised_at_once_and_a_prompt_once():
  class _Counting(Letters):
    replies, prompts, decoded = [], [], []

    def encode_replies(self, texts):
      self.replies.append(list(texts))
      return super().encode_replies(texts)

    def encode_prompts(self, texts):
      texts = list(texts)
      self.prompts += texts
      return super().encode_prompts(texts)

    def decode(self, many):
      self.decoded.append(len(many))
      return super().decode(many)

  tokenizer = _Counting()
  texts = ["I say 2", "it is 2", "so 3", "or 2"]
  made = _import(
    [(0.5, [_foreign(t)]) for t in texts],
    tokenizer=tokenizer,
    batch_size=2,
    traces_per_problem=3,
  )
  assert tokenizer.replies == [texts[:2], texts[2:]]
  assert tokenizer.decoded == [2, 2]
  assert tokenizer.prompts == [_PROBLEMS[0].prompt]
  length = len(_PROBLEMS[0].prompt)
  assert [t.prompt_length for t in made.traces] == [length] * 3


def test_problems_match_by_id():
  made = _import(
    [(1.0, [_foreign("4", problem_id="b"), _foreign("2", problem_id="")])],
    text_of=None,
  )
  assert [t.problem_id for t in made.traces] == ["b"]
  assert made.counts["no such problem"] == 1


def test_a_stop_token_is_not_doubled():
  class _WithStop(Letters):
    def encode_replies(self, texts):
      return ([*self.encode(text), 0] for text in texts)

  [trace] = _import([(1.0, [_foreign("2")])], tokenizer=_WithStop()).traces
  assert trace.tokens.tolist() == [*b"2", 0]


# -- real ones -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("problems", "traces", "limit", "disagreements"),
  [
    ("gsm8k", "gsm8k_model_traces", 60, []),
    # 10{,}000 against 10000: see docs/imported_traces.md.
    (
      "math100_model_traces",
      "math100_model_traces",
      100,
      ["line 73, trace 8"],
    ),
  ],
)
def test_our_verdicts_are_those_of_others(
  problems, traces, limit, disagreements
):
  problems, traces = (_SHARED / x / "test.jsonl" for x in (problems, traces))
  for file in (problems, traces):
    if not file.exists():
      pytest.skip(f"{file} is absent")
  verifier = MathVerifier(num_workers=2, timeout_seconds=60.0)
  try:
    made = _import(
      _read(traces)[:limit],
      [
        Problem(str(n), row["problem"], row["answer"], "", "train", n)
        for _, n, row, *_ in itertools.islice(
          read_rows(epath.Path(problems)), limit
        )
      ],
      verifier=verifier,
      has_answer=has_answer,
      max_completion_length=1 << 20,
      traces_per_problem=8,
    )
  finally:
    verifier.close()
  assert made.counts["no such problem"] == 0
  assert made.counts["kept"] > 50
  assert [d["place"].split(", ", 1)[1] for d in made.disagreements] == (
    disagreements
  )
