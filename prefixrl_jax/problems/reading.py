"""What a task's reader is given of a row, and what it makes of it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Skip(Exception):
  """A row that is no problem; its text says why, and is counted."""


class Parts(NamedTuple):
  """What a reader makes of a row.

  Attributes:
    prompt: what the model reads, but for config.problems.instruction.
    answer: the right one, or empty where there are many or tests judge.
    metadata: for the verifier, see docs/tasks.md.
    text: the problem as others write it, where the prompt says more; traces of
      others and copies in evaluation sets are known by it.
  """

  prompt: str
  answer: str
  metadata: dict[str, Any]
  text: str = ""


class Draw(NamedTuple):
  """What problems that are drawn by rule depend on.

  Attributes:
    name: of a task among several.
    level: how hard, in the task's own words; empty: its default.
    max_number: the largest number, where numbers are drawn.
    seed: of the draw.
    size: problems that are taken at most.
  """

  name: str
  level: str
  max_number: int
  seed: int
  size: int


class Getter:
  """Finds a row's values under whatever name its source has for them."""

  def __init__(self, columns: Mapping[str, str], row: Mapping[str, Any]):
    """Takes a row.

    Args:
      columns: what a reader asks for -> columns that may hold it, the first
        that does, with commas between; a dot goes into an object.
      row: as its file has it.
    """
    self._columns, self._row = columns, row

  def has(self, name: str) -> bool:
    """Whether a column for it is there, be it empty."""
    return any(True for _ in self._values(name))

  def maybe(self, name: str) -> Any:
    """Returns a value; None if no column holds it or it is empty."""
    for value in self._values(name):
      if value is not None and value != [] and str(value).strip():
        return value
    return None

  def _values(self, name: str) -> Iterator[Any]:
    for column in self._columns[name].split(","):
      value: Any = self._row
      for part in column.split("."):
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
    """Returns a value as text: a user's words, if it is a conversation."""
    value = self(name)
    if isinstance(value, list):
      said = [m.get("content") for m in value if m.get("role") == "user"]
      value = said[0] if said else ""
    if not (text := str(value).strip()):
      raise Skip(f"no {name}")
    return text

  def parsed(self, name: str) -> Any:
    """Returns a value that may be JSON in a text; None if there is none."""
    value = self.maybe(name)
    if isinstance(value, str):
      try:
        return json.loads(value)
      except ValueError:
        raise Skip(f"{name} is not JSON") from None
    return value
