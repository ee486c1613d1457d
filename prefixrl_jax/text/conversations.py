"""Text as chat programs store it: conversations, and contents in parts."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

USER = ("user", "human")
ASSISTANT = ("assistant", "gpt", "model", "bot", "chatbot")
# Fields of messages and rows that hold the thoughts before the answer.
REASONING = (
  "reasoning_content",
  "reasoning",
  "thinking",
  "thoughts",
  "thought",
  "thinking_content",
  "reasoning_text",
  "reasoning_details",
  "thinking_blocks",
  "chain_of_thought",
)
_SPOKEN_PARTS = ("text", "input_text", "output_text")
_THOUGHT_PARTS = (
  "thinking",
  "reasoning",
  "thought",
  "reasoning_text",
  "reasoning.text",
  "reasoning.summary",
  "summary_text",
)
_PYTHON = re.compile(r"\s*[\[{]\s*\{?\s*'.*[\]}]\s*", re.DOTALL)
_KINDS = {
  type(None): "null",
  str: "a text",
  bytes: "binary",
  dict: "an object",
  list: "a list",
  tuple: "a list",
  bool: "true or false",
  int: "a number",
  float: "a number",
}


class NotText(Exception):
  """A value that should be text and is not; the message says what it is."""


class Said(NamedTuple):
  """The thoughts and the spoken text of one message."""

  thoughts: str
  aloud: str


def kind(value: Any) -> str:
  """Returns what a value is, in JSON's terms."""
  return _KINDS.get(type(value), f"a {type(value).__name__}")


def unpacked(value: Any) -> Any:
  """Returns a value, or the list or object that it holds as JSON in text.

  A list of numbers stays as it is: it may be an answer.

  Raises:
    NotText: the text is Python's form of a list or an object.
  """
  if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
    return value
  try:
    parsed = json.loads(value)
  except (ValueError, RecursionError):
    if _PYTHON.fullmatch(value):
      raise NotText(f"Python's form of {kind([])} or {kind({})}") from None
    return value
  holds_text = isinstance(parsed, list) and any(
    isinstance(x, dict | str) for x in parsed
  )
  return parsed if isinstance(parsed, dict) or holds_text else value


def messages(value: Any) -> list[Mapping] | None:
  """Returns the messages of a conversation, or None if it is not one."""
  if isinstance(value, Mapping):
    value = [value]
  if not isinstance(value, list) or not value:
    return None
  is_message = lambda m: isinstance(m, Mapping) and bool(_role(m))
  return value if all(map(is_message, value)) else None


def user_text(value: Any) -> str:
  """Returns a text, or what the user says first in a conversation.

  Raises:
    NotText: it is neither, or has a part that is not text.
  """
  value = unpacked(value)
  found = messages(value)
  if found is not None:
    said = [read_message(m).aloud for m in found if _role(m) in USER]
    return said[0] if said else ""
  if isinstance(value, list) and all(isinstance(x, Mapping) for x in value):
    return read_content(value).aloud
  return _text(value)


def first_reply(conversation: list[Mapping]) -> Said:
  """Returns what the assistant says first, with the thoughts before it.

  Raises:
    NotText: it calls a tool, or has a part that is no text.
  """
  thoughts: list[str] = []
  for message in conversation:
    is_thought = (
      _role(message) in _THOUGHT_PARTS
      or message.get("channel") == "analysis"  # gpt-oss
    )
    if is_thought or _role(message) in ASSISTANT:
      said = read_message(message)
      thoughts.append(said.thoughts)
      if not is_thought:
        return Said("\n".join(filter(None, thoughts)), said.aloud)
      thoughts.append(said.aloud)
  return Said("\n".join(filter(None, thoughts)), "")


def read_message(message: Mapping) -> Said:
  """Returns what a message says, wherever its thoughts are.

  Raises:
    NotText: it calls a tool, or has a part that is no text.
  """
  if message.get("tool_calls"):
    raise NotText("a call of a tool")
  thoughts, aloud = read_content(message.get("content", message.get("value")))
  return Said(reasoning(message) or thoughts, aloud)


def reasoning(fields: Mapping) -> str:
  """Returns the thoughts in a separate field, or nothing.

  Raises:
    NotText: the field holds something else.
  """
  found = (read_thoughts(fields.get(name)) for name in REASONING)
  return next(filter(None, found), "")


def has_parts(value: Any) -> bool:
  """Whether a value is content in parts, each with a type."""
  known = (*_SPOKEN_PARTS, *_THOUGHT_PARTS)
  return isinstance(value, list) and any(
    isinstance(part, Mapping) and part.get("type") in known for part in value
  )


def read_content(content: Any) -> Said:
  """Returns what content says: text, or parts with a type.

  Raises:
    NotText: a part is neither text nor thoughts.
  """
  if isinstance(content, Mapping):
    content = [content]
  if not isinstance(content, list):
    return Said("", _text(content))
  thoughts, aloud = [], []
  for part in content:
    if isinstance(part, Mapping):
      form = part.get("type") or ("text" if part.get("text") else None)
      if form in _THOUGHT_PARTS or part.get("thought") is True:
        thoughts.append(read_thoughts({**part, "thought": None}))
      elif form in _SPOKEN_PARTS:
        aloud.append(_text(part.get("text")))
      else:
        raise NotText(f"a part of type {form!r}")
    else:
      aloud.append(_text(part))
  return Said("\n".join(filter(None, thoughts)), "".join(aloud))


def _role(message: Mapping) -> str:
  said = message.get("role") or message.get("from")
  return said.casefold() if isinstance(said, str) else ""


def read_thoughts(value: Any) -> str:
  """Returns the text of a field or part with reasoning.

  Raises:
    NotText: there is no text in it.
  """
  if isinstance(value, list):
    return "\n".join(filter(None, map(read_thoughts, value)))
  if not isinstance(value, Mapping):
    return _text(value).strip()
  for name in (*REASONING, "text", "summary", "content"):
    if value.get(name):
      return read_thoughts(value[name])
  raise NotText(f"thoughts of type {value.get('type')!r} without a text")


def _text(value: Any) -> str:
  if value is not None and not isinstance(value, str):
    raise NotText(kind(value))
  return value or ""
