"""What a row of other people's traces holds: texts, thoughts, or a flaw."""

import json

import pandas as pd
import pyarrow as pa
import pytest
from etils import epath

from prefixrl_jax.traces.foreign import GUESSES, read_foreign

_ASK = {"role": "user", "content": "q"}
_THOUGHT = "<think>\nt\n</think>\n\nx"


_REPLY = {"role": "assistant", "content": "x"}


def _said(**fields):
  return {"messages": [_ASK, _REPLY | fields]}


def _lines(path, row):
  path.write_text(json.dumps(row) + "\n")
  return path


def _read(path):
  return list(
    read_foreign([epath.Path(path)], model="", **dict.fromkeys(GUESSES, ""))
  )


@pytest.mark.parametrize(
  ("row", "expected"),
  [
    # thoughts in fields of their own: of a message, of a trace, of the row
    (_said(reasoning_content="t"), [_THOUGHT]),
    (_said(thinking=" t\n"), [_THOUGHT]),
    (_said(content=[{"type": "thinking", "thinking": "t"}, "x"]), [_THOUGHT]),
    (_said(content=None, reasoning="t"), ["<think>\nt\n</think>"]),
    (
      {"problem": "q", "response": {"reasoning": "t", "content": "x"}},
      [_THOUGHT],
    ),
    ({"problem": "q", "reasoning": "t", "response": "x"}, [_THOUGHT]),
    ({"problem": "q", "thinking": ["t"], "response": "x"}, [_THOUGHT]),
    (
      {"problem": "q", "reasoning": ["t", None], "responses": ["x", "y"]},
      [_THOUGHT, "y"],
    ),
    (
      {
        "problem": "q",
        "response": {
          "choices": [
            {"message": _REPLY | {"reasoning": "t"}, "finish_reason": "stop"}
          ]
        },
      },
      [_THOUGHT],
    ),
    # They are not said twice.
    ({"problem": "q", "reasoning": "t", "response": _THOUGHT}, [_THOUGHT]),
    (_said(content=_THOUGHT, reasoning="t"), [_THOUGHT]),
    # contents in parts, and JSON in a text
    (_said(content=[{"type": "text", "text": "x"}]), ["x"]),
    ({"messages": json.dumps(_said()["messages"])}, ["x"]),
    ({"problem": "q", "generations": '["x", "y"]'}, ["x", "y"]),
    ({"problem": "q", "response": '{"content": "x"}'}, ["x"]),
    ({"problem": "q", "text": "[1, 2]"}, ["[1, 2]"]),
    ({"problem": "q", "text": "{x} is 2"}, ["{x} is 2"]),
    # nothing there
    ({"problem": "q", "generations": []}, [""]),
    ({"problem": "q", "generations": [], "finish_reasons": []}, [""]),
    ({"problem": "q", "generations": [], "correct": []}, [""]),
    ({"problem": [], "generations": [[]]}, [""]),
    ({"messages": []}, [""]),
    ({"messages": [_ASK]}, [""]),
    ({"problem": "q", "generations": None}, [""]),
  ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_texts_and_thoughts_wherever_they_are(tmp_path, row, expected, kind):
  path = tmp_path / f"f.{kind}"
  if kind == "jsonl":
    _lines(path, row)
  else:
    try:
      pd.DataFrame([row]).to_parquet(path)
    except (pa.ArrowException, TypeError):
      pytest.skip("Parquet cannot hold such a value")
  [(_, traces)] = _read(path)
  assert [t.text for t in traces] == expected
  assert {t.flaw for t in traces} == {""}


@pytest.mark.parametrize(
  ("row", "flaw"),
  [
    (
      _said(content=[{"type": "image_url"}]),
      "it is a part of type 'image_url'",
    ),
    (_said(tool_calls=[{}]), "it is a call of a tool"),
    (_said(reasoning=3), "it is a number"),
    ({"problem": "q", "text": 3}, "it is a number"),
    ({"problem": "q", "text": {"foo": 1}}, "it is an object without a text"),
    ({"problem": "q", "text": '{"foo": 1}'}, "it is an object without a text"),
    ({"problem": "q", "text": "[{'role': 'a'}]"}, "it is Python's form of"),
    ({"problem": {"a": 1}, "text": "x"}, "its problem is an object"),
    ({"problem": 3, "text": "x"}, "its problem is a number"),
    (
      {"problem": "q", "reasoning": 3, "text": "x"},
      "its thoughts are a number",
    ),
    ({"problem": "q", "text": "x \ud800"}, "half a character"),
    ({"problem": "q \udc00", "text": "x"}, "half a character"),
    (
      {"problem": "q", "reasoning": ["t"], "responses": ["x", "y"]},
      "its thoughts are 1 for 2 texts",
    ),
  ],
)
def test_what_is_no_text_has_a_name(tmp_path, row, flaw):
  [(_, traces)] = _read(_lines(tmp_path / "f.jsonl", row))
  assert traces
  for trace in traces:
    assert flaw in trace.flaw
    assert not trace.text


@pytest.mark.parametrize(
  ("reason", "finished"),
  [
    (None, True),
    ("", True),
    ("stop", True),
    ("STOP", True),
    ("FinishReason.STOP", True),
    ("FINISH_REASON_STOP", True),
    (True, True),
    ({"type": "stop", "matched": 7}, True),
    ({"reason": "stop"}, True),
    ({"type": None}, True),
    ({}, True),
    ("length", False),
    ("MAX_TOKENS", False),
    (False, False),
    ({"type": "length", "length": 512}, False),
    ({"finish_reason": "length"}, False),
  ],
)
def test_reasons_of_an_end_in_any_form(tmp_path, reason, finished):
  row = {"problem": "q", "text": "x", "finish_reason": reason}
  [(_, [trace])] = _read(_lines(tmp_path / "f.jsonl", row))
  assert trace.finished == finished


@pytest.mark.parametrize(
  "text",
  ["[THINK]t", "◁think▷t", "<|begin_of_thought|>t", "<think>a</think>b<think>"],
)
def test_thoughts_that_never_end_are_unfinished(tmp_path, text):
  path = _lines(tmp_path / "f.jsonl", {"problem": "q", "text": text})
  [(_, [trace])] = _read(path)
  assert not trace.finished
