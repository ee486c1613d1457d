"""Programs to write, and the tests that judge them.

A problem's metadata has its format: "stdin" (a program from standard input to
standard output), "call" (a function's arguments and result) or "asserts"
(statements that must not fail). The answer is empty: the tests judge.
"""

import re
import typing
from typing import Any

from prefixrl_jax.problems.reading import Getter, Reading, Skip

_STDIN = (
  "Write a Python program that reads from standard input and writes to"
  " standard output. Give it in one ```python block."
)
_FUNCTION = (
  "Write the Python function {name}. Give it, with all that it needs, in one"
  " ```python block."
)
_NAME = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_WORD = re.compile(r"\w+")
# "absolute or relative error does not exceed 10^{-6}", and the like.
_TOLERANCE = re.compile(
  r"\b(?:absolute|relative)\b[^.]*?\b(?:10\s*\^\s*\{?\s*[-\u2212]\s*|1e-)"
  r"(\d{1,2})"
)
# What wraps the function under test in an MBPP assertion.
_AROUND = {"assert", "not", "set", "sorted", "list", "tuple", "abs", "round"}
_AROUND |= {"len", "str", "int", "float", "math", "isclose", "dict", "type"}


def read_apps(get: Getter) -> Reading:
  """APPS: its tests are a JSON text of inputs, outputs and maybe fn_name.

  Raises:
    Skip: there are no tests.
  """
  tests = get.parsed("tests")
  if not tests or not tests.get("inputs"):
    raise Skip("no tests")
  inputs, outputs = tests["inputs"], tests["outputs"]
  name = tests.get("fn_name")
  question = get.text("problem")
  if not name:
    return _stdin(question, inputs, outputs)
  pairs = _pairs(inputs, outputs)
  # Some of APPS's sources wrap a result in a list, others do not, and rows do
  # not say which; APPS's own grader accepts both.
  if all(isinstance(o, list) and len(o) == 1 for o in outputs):
    pairs = [pair | {"or_output": pair["output"][0]} for pair in pairs]
  starter = get.maybe("starter_code") or ""
  begin = f"\n\nIt begins with:\n```python\n{starter.strip()}\n```"
  return Reading(
    f"{question}{begin if starter.strip() else ''}\n\n"
    + _FUNCTION.format(name=name),
    "",
    _metadata(
      "call", pairs, entry_point=name, prompt_code=_annotations(starter)
    ),
    question,
  )


def read_contest(get: Getter) -> Reading:
  """Problems with tests as {"inputs": [...], "outputs": [...]}, or several.

  Raises:
    Skip: there are no tests.
  """
  inputs: list[str] = []
  outputs: list[str] = []
  for name in ("tests", "private_tests", "generated_tests"):
    tests = get.parsed(name)
    if tests:
      inputs += tests["inputs"] if "inputs" in tests else tests["input"]
      outputs += tests["outputs"] if "outputs" in tests else tests["output"]
  if not inputs:
    raise Skip("no tests")
  return _stdin(get.text("problem"), inputs, outputs)


def read_humaneval(get: Getter) -> Reading:
  """HumanEval: a function's signature and docstring, and a test script."""
  code, name = str(get("problem")), get.text("entry_point")
  return Reading(
    f"Complete this Python function.\n\n```python\n{code.strip()}\n```\n\n"
    + _FUNCTION.format(name=name),
    "",
    _metadata(
      "asserts",
      [f"{get('tests')}\ncheck({name})"],
      entry_point=name,
      prompt_code=code,
    ),
    code,
  )


def read_humaneval_completion(get: Getter) -> Reading:
  """HumanEval for models without a chat template: they continue the code."""
  reading = read_humaneval(get)
  code = reading.metadata["prompt_code"]
  return reading._replace(
    prompt=code, metadata=reading.metadata | {"whole_completion": True}
  )


def read_mbpp(get: Getter) -> Reading:
  """MBPP: a sentence and assertions, of which the first shows the name.

  Raises:
    Skip: the tests call no function.
  """
  task, tests = get.text("problem"), list(get("tests"))
  setup = get.maybe("setup") or ""
  if isinstance(setup, list):
    setup = "\n".join(setup)
  names = [n for n in _NAME.findall(tests[0]) if n not in _AROUND]
  if not names:
    raise Skip("tests call no function")
  return Reading(
    f"{task}\n\nIt must pass this test:\n```python\n{tests[0].strip()}\n```\n\n"
    + _FUNCTION.format(name=names[0]),
    "",
    _metadata("asserts", tests, entry_point=names[0], setup=setup),
    task,
  )


def _annotations(starter: str) -> str:
  """Imports the types that starter code names, as the sites it is from do."""
  names = sorted(set(_WORD.findall(starter)) & set(typing.__all__))
  return f"from typing import {', '.join(names)}\n" if names else ""


def _stdin(question: str, inputs, outputs) -> Reading:
  close = _TOLERANCE.search(question)
  return Reading(
    f"{question}\n\n{_STDIN}",
    "",
    _metadata(
      "stdin",
      _pairs(map(_lines, inputs), map(_lines, outputs)),
      tolerance=10.0 ** -int(close[1]) if close else None,
    ),
    question,
  )


def _lines(value: Any) -> str:
  """Some of APPS's inputs and outputs are lists of lines."""
  if isinstance(value, list):
    return "\n".join(map(str, value))
  return str(value)


def _pairs(inputs, outputs) -> list[dict[str, Any]]:
  try:
    return [
      {"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)
    ]
  except ValueError:
    raise Skip("inputs and outputs differ in number") from None


def _metadata(
  form: str,
  tests: list,
  *,
  entry_point: str = "",
  setup: str = "",
  prompt_code: str = "",
  tolerance: float | None = None,
) -> dict[str, Any]:
  return {
    "format": form,
    "tests": tests,
    "entry_point": entry_point,
    "setup": setup,
    "prompt_code": prompt_code,
    "whole_completion": False,
    "tolerance": tolerance,
  }
