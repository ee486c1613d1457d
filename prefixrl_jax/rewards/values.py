"""A program's output, or a function's result, against the expected one."""

import math
from typing import Any

_UNLIKE_JSON = object()  # a set, say


def same_text(text: str, expected: str, tolerance: float | None) -> bool:
  """Whether texts are equal, token by token."""
  tokens, wanted = text.split(), expected.split()
  return len(tokens) == len(wanted) and all(
    a == b or (tolerance is not None and _near(a, b, tolerance))
    for a, b in zip(tokens, wanted)
  )


def _near(text, expected, tolerance):
  try:
    return _close(float(text), float(expected), tolerance)
  except ValueError:
    return False


def _close(value, expected, tolerance):
  if not math.isfinite(expected):
    return value == expected
  return abs(value - expected) <= tolerance * max(1.0, abs(expected))


def as_json(value: Any) -> Any:
  """Returns what `plain.encode` made, in JSON's form.

  Only text is hashed: colliding values would take forever.

  Raises:
    ValueError, TypeError, RecursionError: `encode` cannot have made it.
  """
  if isinstance(value, list):
    return [as_json(v) for v in value]
  if not isinstance(value, dict):
    return value
  ((kind, content),) = value.items()
  if kind == "tuple":
    return [as_json(v) for v in content]
  if kind == "dict":
    return {_key(as_json(k)): as_json(v) for k, v in content}
  if kind == "int":
    return int(content, 16)
  if kind == "reference":
    raise ValueError("not plain data")
  return _UNLIKE_JSON


def same_value(value: Any, expected: Any, tolerance: float | None) -> bool:
  """Whether values are equal as JSON: tuples are lists, keys are text."""
  if isinstance(value, list):
    return (
      isinstance(expected, (list, tuple))
      and len(value) == len(expected)
      and all(same_value(a, b, tolerance) for a, b in zip(value, expected))
    )
  if isinstance(value, dict):
    if not isinstance(expected, dict):
      return False
    wanted = {_key(k): v for k, v in expected.items()}
    return value.keys() == wanted.keys() and all(
      same_value(v, wanted[k], tolerance) for k, v in value.items()
    )
  numbers = (int, float)
  if isinstance(value, numbers) and isinstance(expected, numbers):
    if value == expected:
      return True
    try:
      return tolerance is not None and _close(value, expected, tolerance)
    except OverflowError:  # an int too large for a float
      return False
  return type(value) is type(expected) and value == expected


def _key(key):
  if isinstance(key, str):
    return key
  if key is None or isinstance(key, bool):
    return {None: "null", True: "true", False: "false"}[key]
  if isinstance(key, (int, float)):
    return str(key)
  raise TypeError("JSON has no such key")
