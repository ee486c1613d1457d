"""Tests that stand in the statement: known by input and output, in order."""

import json
import pathlib

import pytest

from prefixrl_jax.problems.reading import Getter
from prefixrl_jax.problems.shown import num_shown
from prefixrl_jax.problems.sources import SOURCES
from prefixrl_jax.types import Problem

_CONTESTS = (
  pathlib.Path(__file__).parents[3]
  / "shared/data/code_contests_test165/test.jsonl"
)


def _problem(task, row):
  source = SOURCES[task]
  parts = source.read(Getter(source.columns, row))
  metadata = parts.metadata | {"text": parts.text}
  return Problem("p", parts.prompt, "", "", "train", 0, metadata)


def _contest(text, *tests):
  inputs, outputs = zip(*tests)
  tests = {"input": list(inputs), "output": list(outputs)}
  return _problem("code_contests", {"problem": text, "tests": tests})


_SAMPLE = """Add 1 ≤ n ≤ 9 numbers; print 0 for none.

Input

3
1 2 3

Output

6

Input

2
-4 1

Output

-3"""


@pytest.mark.parametrize(
  ("tests", "shown"),
  [
    ([("3\n1 2 3\n", "6\n")], 1),
    ([("3\n1 2 3", "6"), ("2\n-4 1\n", "-3\n")], 2),
    ([("3\n1 2 3\n", "6\n"), ("1\n7\n", "7\n")], 1),
    ([("3\n1 2 3\n", "-3\n")], 1),  # of the next sample, close by
    ([("3\n1 2 3\n", "5\n")], 0),  # another output
    ([("3\n1 2 4\n", "6\n")], 0),  # another input
    ([("2\n4 1\n", "-3\n")], 0),
    ([("1\n2 3\n", "6\n")], 1),  # as part of another one: looked up as well
    ([("0\n", "9\n")], 0),  # both there, but not one behind the other
    ([("", "")], 0),
    ([(f"{10**6}\n" + "1 " * 10**6, "1")], 0),
  ],
)
def test_programs(tests, shown):
  assert num_shown(_contest(_SAMPLE, *tests)) == shown


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("Sample: `3 4` -> `7`.", 1),
    ("**Input:** 3 4\n\n**Output:** 7", 1),
    ("in:\n3\n4\nout:\n7", 1),
    ("Input\n3 4\n" + "word " * 30 + "\n7", 0),
    ("Output\n7\nInput\n3 4", 0),
    ("Input\n3 4\nOutput\n70", 0),
  ],
)
def test_layouts(text, shown):
  assert num_shown(_contest(text, ("3 4\n", "7\n"))) == shown


@pytest.mark.parametrize(("tail", "shown"), [("", 0), ("10^{-6}", 1)])
def test_numbers_within_the_tolerance(tail, shown):
  text = "Input\n2\nOutput\n1.41421356"
  text += f"\nThe absolute or relative error must be below {tail}."
  assert num_shown(_contest(text, ("2\n", "1.4142135\n"))) == shown


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("Input: xs = [2,7, 11], k = 9\nOutput: [0, 1]", 1),
    ("f([2, 7, 11], 9) --> [0,1]", 1),
    ("f([2, 7, 11], 9) --> 0", 0),
    ("f([2, 7, 11], 8) --> [0,1]", 0),
    ("Find two that add up to k.", 0),
  ],
)
def test_functions(text, shown):
  tests = {"fn_name": "f", "inputs": [[[2, 7, 11], 9]], "outputs": [[[0, 1]]]}
  row = {"question": text, "input_output": json.dumps(tests)}
  assert num_shown(_problem("apps", row)) == shown


def test_asserts():
  row = {
    "prompt": "Double: assert twice(3) == 6 holds.",
    "test_list": ["assert twice(1) == 2", "assert twice(3) == 6"],
    "test_imports": [],
  }
  assert num_shown(_problem("mbpp", row)) == 1  # and ours names the other


def test_without_tests():
  assert num_shown(Problem("p", "1 + 1 is 2", "2", "", "train", 0, {})) == 0


def test_of_a_real_set():
  if not _CONTESTS.exists():
    pytest.skip("needs code_contests_test165/test.jsonl")
  problems = [
    _problem("code_contests", json.loads(line))
    for line in _CONTESTS.read_text().splitlines()
  ]
  every = [num_shown(p) == len(p.metadata["tests"]) for p in problems]
  assert every.count(True) == 41
