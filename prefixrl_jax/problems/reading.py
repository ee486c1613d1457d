"""What a task's reader sees of a row, and what it makes of it."""

import decimal
import functools
import json
import math
import numbers
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from prefixrl_jax.text.conversations import NotText, kind, user_text


class Skip(Exception):
  """A row is not a problem; the text says why, and is counted."""


class Reading(NamedTuple):
  """What a reader makes of a row.

  Attributes:
    prompt: what the model reads, without config.problems.instruction.
    answer: the right one, or empty where there are many or tests judge.
    metadata: for the verifier, see docs/tasks.md.
    text: the problem as others write it, where the prompt says more; other
      people's traces and copies in evaluation sets are recognised by it.
  """

  prompt: str
  answer: str
  metadata: dict[str, Any]
  text: str = ""


class Draw(NamedTuple):
  """What generated problems depend on.

  Attributes:
    name: which of several tasks.
    level: how hard, in the task's own words; empty: its default.
    max_number: the largest number, where numbers are drawn.
    seed: seed for the draw.
    size: at most this many problems are used.
  """

  name: str
  level: str
  max_number: int
  seed: int
  size: int


@functools.cache
def _paths(columns: str) -> tuple[tuple[str, ...], ...]:
  return tuple(tuple(column.split(".")) for column in columns.split(","))


class Getter:
  """Finds a row's values under whatever name its source has for them."""

  def __init__(self, columns: Mapping[str, str], row: Mapping[str, Any]):
    """Wraps a row.

    Args:
      columns: what a reader asks for -> columns that may hold it, separated by
        commas; the first that does is used. A dot goes into an object.
      row: as it is in its file.
    """
    self._columns, self._row = columns, row

  def has(self, name: str) -> bool:
    """Whether there is a column for it, even an empty one."""
    return any(True for _ in self._values(name))

  def maybe(self, name: str) -> Any:
    """Returns a value; None if it is empty or no column has it."""
    for value in self._values(name):
      if isinstance(value, str):
        if not value or value.isspace():
          continue
      elif value is None or value == [] or value != value:
        continue  # some programs write NaN for a missing value
      return value
    return None

  def _values(self, name: str) -> Iterator[Any]:
    for path in _paths(self._columns[name]):
      value: Any = self._row
      for part in path:
        if not isinstance(value, dict) or part not in value:
          break
        value = value[part]
      else:
        yield value

  def __call__(self, name: str) -> Any:
    """Returns a value; the row is skipped if there is none."""
    value = self.maybe(name)
    if value is None:
      raise Skip(f"no {name}")
    return value

  def text(self, name: str) -> str:
    """Returns a text; of a conversation, the user's words.

    Raises:
      Skip: it is missing, empty or not text.
    """
    try:
      text = user_text(self(name)).strip()
    except NotText as e:
      raise Skip(f"{name} is {e}, no text") from None
    if not text:
      raise Skip(f"no {name}")
    return text

  def scalar(self, name: str) -> str:
    """Returns a text, number or truth value, or a list's only one, as text.

    If a list has several, none of them is the right one.

    Raises:
      Skip: it is missing, not finite, or a list of several or an object.
    """
    value = self(name)
    if isinstance(value, list):
      if len(value) > 1:
        raise Skip(f"{name} is a list of several")
      value = value[0]
      if value is None or value != value:
        raise Skip(f"no {name}")
    if isinstance(value, str):
      return value.strip()
    if isinstance(value, dict):
      inner = ", ".join(map(str, list(value)[:8]))
      raise Skip(
        f"{name} is an object (name one of its fields after a dot: {inner})"
      )
    if not isinstance(value, numbers.Real | decimal.Decimal):
      raise Skip(f"{name} is {kind(value)}, no text")
    if not isinstance(value, int) and not math.isfinite(value):
      raise Skip(f"{name} is not finite")
    return str(value)

  def parsed(self, name: str) -> Any:
    """Returns a value that may be JSON text; None if there is none.

    Raises:
      Skip: it is text that is not JSON.
    """
    value = self.maybe(name)
    if isinstance(value, str):
      try:
        return json.loads(value)
      except (ValueError, RecursionError):
        raise Skip(f"{name} is not JSON") from None
    return value
