"""Tests that a problem's own statement gives away.

A program that only looks inputs up in the statement would pass them.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from prefixrl_jax.rewards.values import same_text
from prefixrl_jax.types import Problem

_WORD = re.compile(r"\d+(?:\.\d+)?|\w+|[^\w\s\"'`]")
_GAP = 20  # words between input and output: "Output", "Explanation: ..."


def num_shown(problem: Problem) -> int:
  """Returns how many of a problem's tests stand in its statement.

  That is, a test's input (or all arguments, one after another) and, shortly
  after it, its output; for tests that are Python code, their text. What our own
  prompts quote does not count: MBPP's quote the first test.
  """
  tests = problem.metadata.get("tests", ())
  if not tests:
    return 0
  statement = problem.metadata.get("text") or problem.prompt
  words = _words(statement)
  places: dict[str, list[int]] = {}
  for i, word in enumerate(words):
    places.setdefault(word, []).append(i)
  tolerance = problem.metadata["tolerance"]
  near = lambda word, other: same_text(word, other, tolerance)
  return sum(
    any(
      _stands(parts, words, places, near)
      for parts in _ways(test)
      if sum(map(len, parts)) <= len(statement)
    )
    for test in tests
  )


def _ways(test: Any) -> list[list[str]]:
  """Returns alternatives: texts that must follow one another."""
  if isinstance(test, str):
    return [[_without_space(test)]]
  inputs = test["input"]
  if isinstance(inputs, str):
    return [[_without_space(inputs), _without_space(test["output"])]]
  given = [json.dumps(x) for x in inputs]
  outputs = [test[k] for k in ("output", "or_output") if k in test]
  return [[*given, json.dumps(x)] for x in outputs]


def _without_space(text: str) -> str:
  return " ".join(text.split())


def _words(text: str) -> list[str]:
  return _WORD.findall(text.casefold())


def _stands(
  parts: Sequence[str],
  words: Sequence[str],
  places: dict[str, list[int]],
  near: Callable[[str, str], bool],
) -> bool:
  first, *rest = [p for p in map(_words, parts) if p] or [[]]
  if not first:
    return False
  *between, last = [first, *rest]
  for start in places.get(first[0], ()) if rest else range(len(words)):
    end = start
    for part in between:
      end = _end(part, words, end, 0 if part is first else _GAP, str.__eq__)
      if end < 0:
        break
    else:
      if _end(last, words, end, _GAP if rest else 0, near) >= 0:
        return True
  return False


def _end(part, words, start: int, gap: int, same) -> int:
  """Returns where a part ends that begins within `gap` words; -1: nowhere."""
  for begin in range(start, min(start + gap + 1, len(words))):
    if begin + len(part) > len(words):
      break
    if all(map(same, words[begin : begin + len(part)], part)):
      return begin + len(part)
  return -1
