"""Rules for the values of fields: in words, and as functions."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

from prefixrl_jax.models.hub import is_repository


@dataclasses.dataclass(frozen=True)
class Rule:
  """What a value may be: in words, and as a function."""

  words: str
  allows: Callable[[Any], bool]


_LARGEST = 2**31 - 1  # what fits into a device's int32


def whole(low: int, high: int = _LARGEST) -> Rule:
  """Returns the rule: a whole number."""
  upto = f" from {low} to {high}" if high < _LARGEST else f", at least {low}"
  return Rule(
    f"a whole number{upto}",
    lambda v: type(v) is int and low <= v <= high,
  )


def real(low: float, high: float, *, open_low=False, open_high=False) -> Rule:
  """Returns the rule: a finite number in an open or closed interval."""
  is_real = lambda v: type(v) in (int, float) and math.isfinite(v)
  sides = ("(" if open_low else "[") + f"{low:g}, {high:g}"
  return Rule(
    f"a number in {sides}" + (")" if open_high else "]"),
    lambda v: (
      is_real(v)
      and (low < v if open_low else low <= v)
      and (v < high if open_high else v <= high)
    ),
  )


def one_of(*names: str) -> Rule:
  """Returns the rule: one of some strings."""
  return Rule(
    f"one of {', '.join(repr(n) for n in names)}",
    lambda v: type(v) is str and v in names,
  )


def several(rule: Rule, *, may_be_empty: bool = False) -> Rule:
  """Returns the rule: a tuple or list of different values."""
  return Rule(
    f"a list of different values, each {rule.words}",
    lambda v: (
      type(v) in (list, tuple)
      and (may_be_empty or len(v) > 0)
      and all(map(rule.allows, v))
      and len(set(v)) == len(v)
    ),
  )


def _compiles(pattern: Any) -> bool:
  try:
    return type(pattern) is str and bool(re.compile(pattern))
  except (re.error, OverflowError, RecursionError):
    return False


def text_with(*fields: str) -> Rule:
  """Returns the rule: a string with each of the fields, in braces."""
  places = [f"{{{field}}}" for field in fields]
  return Rule(
    f"a string with {' and '.join(places)}",
    lambda v: type(v) is str and all(place in v for place in places),
  )


TEXT = Rule("a string", lambda v: type(v) is str)
REPOSITORY = Rule(
  "ORGANISATION/NAME or empty",
  lambda v: type(v) is str and (not v or is_repository(v)),
)
PATTERN = Rule("a regular expression", _compiles)
NAME = Rule("a name", lambda v: type(v) is str and v != "")
SWITCH = Rule("True or False", lambda v: type(v) is bool)
COUNT = whole(1)
COUNT_OR_NONE = whole(0)
SEED = whole(0)
SHARE = real(0, 1)
SIZE_OF_MESH = Rule(
  "a whole number, at least 1, or -1",
  lambda v: type(v) is int and (v == -1 or 1 <= v <= _LARGEST),
)
RATE = real(0, 1, open_low=True)
SECONDS = real(0, 86400, open_low=True)
POSITIVE = real(0, 1e30, open_low=True)
DTYPE = one_of("float32", "bfloat16")
