"""Text as chat programs keep it."""

import json

import pytest

from prefixrl_jax.text.conversations import (
  NotText,
  Said,
  first_reply,
  messages,
  read_content,
  unpacked,
  user_text,
)

_USER = {"role": "user", "content": "q"}
_PART = {"type": "text", "text": "a"}


def _reply(**fields):
  return [_USER, {"role": "assistant", "content": "a", **fields}]


@pytest.mark.parametrize(
  ("conversation", "expected"),
  [
    (_reply(), ("", "a")),
    (_reply(reasoning_content="t"), ("t", "a")),
    (_reply(reasoning="t"), ("t", "a")),
    (_reply(thinking="t"), ("t", "a")),
    (_reply(thoughts="t"), ("t", "a")),
    (_reply(reasoning="", reasoning_content="t"), ("t", "a")),
    # Some servers say the same twice.
    (_reply(reasoning="t", reasoning_content="t"), ("t", "a")),
    (
      _reply(reasoning_details=[{"type": "reasoning.text", "text": "t"}]),
      ("t", "a"),
    ),
    (
      _reply(thinking_blocks=[{"type": "thinking", "thinking": "t"}]),
      ("t", "a"),
    ),
    (_reply(content=None, reasoning="t"), ("t", "")),
    (_reply(content=[_PART, {"type": "text", "text": "b"}]), ("", "ab")),
    (_reply(content=[_PART, "b"]), ("", "ab")),
    (_reply(content=_PART), ("", "a")),
    (_reply(content=[{"text": "a", "type": None}]), ("", "a")),
    (_reply(content=[{"type": "output_text", "text": "a"}]), ("", "a")),
    (_reply(content=[]), ("", "")),
    (
      _reply(content=[{"type": "thinking", "thinking": "t"}, _PART]),
      ("t", "a"),
    ),
    (
      _reply(
        content=[
          {"type": "thinking", "thinking": [{"type": "text", "text": "t"}]},
          _PART,
        ]
      ),
      ("t", "a"),
    ),
    (
      _reply(
        content=[
          {"type": "reasoning", "summary": [{"text": "t"}]},
          {"type": "reasoning", "text": "u"},
          _PART,
        ]
      ),
      ("t\nu", "a"),
    ),
    (_reply(content=[{"text": "t", "thought": True}, _PART]), ("t", "a")),
    ([_USER, {"role": "Assistant", "content": "a"}], ("", "a")),
    (
      [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
      ("", "a"),
    ),
    ([_USER, {"role": "model", "content": "a"}], ("", "a")),
    (
      [
        _USER,
        {"role": "assistant", "channel": "analysis", "content": "t"},
        {"role": "assistant", "channel": "final", "content": "a"},
      ],
      ("t", "a"),
    ),
    (
      [
        _USER,
        {"role": "reasoning", "content": "t"},
        {"role": "assistant", "content": "a"},
        _USER,
        {"role": "assistant", "content": "b"},
      ],
      ("t", "a"),
    ),
    ([_USER], ("", "")),
  ],
)
def test_a_reply_and_its_thoughts(conversation, expected):
  assert first_reply(messages(conversation)) == Said(*expected)


@pytest.mark.parametrize(
  ("fields", "what"),
  [
    ({"content": [{"type": "image_url", "image_url": "u"}]}, "'image_url'"),
    (
      {"content": [{"type": "tool_use", "input": {}}]},
      "'tool_use'",
    ),
    ({"content": [3]}, "a number"),
    ({"content": 3}, "a number"),
    ({"content": True}, "true or false"),
    ({"content": [{"type": "text", "text": ["a"]}]}, "a list"),
    ({"content": {}}, "a part of type None"),
    ({"tool_calls": [{"id": 1}]}, "a call of a tool"),
    ({"reasoning": 3}, "a number"),
    ({"reasoning": {"type": "encrypted", "data": "x"}}, "'encrypted'"),
    ({"reasoning": {"effort": "high"}}, "without a text"),
  ],
)
def test_a_reply_that_is_no_text_says_what_it_is(fields, what):
  with pytest.raises(NotText, match=what):
    first_reply(_reply(**fields))


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    ("q", "q"),
    ([_USER], "q"),
    (_USER, "q"),
    ([{"role": "system", "content": "s"}, _USER, *_reply()], "q"),
    (json.dumps([_USER]), "q"),
    ([_PART], "a"),
    ([], ""),
    (None, ""),
    ("[1, 2]", "[1, 2]"),
    ("[a] and [b]", "[a] and [b]"),
    ("{a", "{a"),
    ("[" * 100_000, "[" * 100_000),
  ],
)
def test_what_a_user_says(value, expected):
  assert user_text(value) == expected


@pytest.mark.parametrize(
  "value",
  [
    5,
    ["a"],
    [1],
    [[]],
    {"a": 1},
    '{"a": 1}',
    "[{'role': 'user'}]",
    "{'a': 1}",
    "['a', 'b']",
    b"q",
  ],
)
def test_what_no_user_says(value):
  with pytest.raises(NotText):
    user_text(value)


def test_a_list_of_texts_in_a_text_is_that_list():
  assert unpacked('["a", "b"]') == ["a", "b"]
  assert read_content(["a", "b"]) == Said("", "ab")
