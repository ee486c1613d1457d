"""The code verifier: the last fenced block against a problem's tests.

What a program prints or a function returns is compared outside: the sandbox
receives inputs and never expected outputs. Tests that are Python themselves
(asserts) run in a second sandbox, which never holds model-written code; they
call the solution in the first one with plain data and get plain data back.

A program that takes too long, too much memory or prints too much is wrong.
`timed_out` means something else: total_seconds ran out before any test had
failed; `died`: the sandbox crashed twice.
"""

import ast
import json
import re
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from prefixrl_jax.rewards import values
from prefixrl_jax.rewards.inside import plain
from prefixrl_jax.rewards.sandbox import (
  OUTPUT_BYTES,
  Died,
  OutOfTime,
  Sandbox,
  TooLong,
  unpack,
)
from prefixrl_jax.rewards.sandbox_pool import SandboxPool
from prefixrl_jax.text.thoughts import without_thoughts
from prefixrl_jax.types import Problem, UserError, Verdict

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})([^`]*)")
_FUTURE = re.compile(r"^from __future__ import [^(\n]*\n", re.MULTILINE)
_PYTHON = ("", "python", "py", "python3")
_ENDINGS = ("crash", "time limit", "memory limit", "file limit")
_BROKEN = "sandbox broke down"


class Report(NamedTuple):
  """The results of a completion, test by test.

  statuses: "passed", "wrong", or why there was no answer: "error", "crash",
    "... limit", "no code", "not python", "out of time", "sandbox broke down".
    Shorter than the list of tests if judging stopped at the first failure.
  """

  statuses: list[str]
  num_tests: int


class CodeVerifier:
  """Judges completions that are Python programs or functions.

  A problem's metadata:
    format: "stdin", "call" or "asserts".
    tests: {"input": str, "output": str}; {"input": [arguments], "output":
      value, and maybe "or_output": an equally right value}; or strings of
      Python that fail by an exception.
    entry_point: the function, maybe a method of `Solution`; "" if none.
    setup: Python put before each of the asserts.
    prompt_code: put before a completion that does not define entry_point.
    whole_completion: whether the completion is code without a fence.
    tolerance: of numbers, relative above 1 and absolute below; None: exact.
  """

  def __init__(
    self,
    *,
    num_workers: int,
    timeout_seconds: float,
    total_seconds: float,
    memory_mb: int,
    sandbox: str,
    partial: bool,
  ):
    """Tries the sandbox out.

    Args:
      num_workers, timeout_seconds, total_seconds, memory_mb, sandbox: see
        `SandboxPool`.
      partial: whether the reward is the share of tests passed; otherwise 1 if
        all pass, else 0.

    Raises:
      UserError: no sandbox is available; says what to do.
    """
    self._partial = partial
    self._pool = SandboxPool(
      num_workers=num_workers,
      timeout_seconds=timeout_seconds,
      total_seconds=total_seconds,
      memory_mb=memory_mb,
      sandbox=sandbox,
    )

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`."""
    return [self._verdict(report) for report in self.examine(problems, texts)]

  def examine(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Report]:
    """Returns the results of each text, test by test."""
    return self._pool.map(self._report, problems, texts)

  def close(self) -> None:
    """Ends the sandboxes."""
    self._pool.close()

  def _verdict(self, report):
    passed = report.statuses.count("passed")
    share = passed / report.num_tests if report.num_tests else 0.0
    reward = share if self._partial else float(share == 1.0)
    wrong = set(report.statuses) - {"passed", "out of time", _BROKEN}
    last = report.statuses[-1] if report.statuses else ""
    if wrong and not self._partial:
      last = ""  # more time would not have changed it
    return Verdict(reward, last == "out of time", died=last == _BROKEN)

  def _report(self, problem: Problem, text: str) -> Report:
    metadata = problem.metadata
    formats = {"stdin": self._stdin, "call": self._call, "asserts": self._check}
    if metadata["format"] not in formats:
      raise UserError(
        f"problem {problem.id}: metadata 'format' = {metadata['format']!r} is"
        f" none of {', '.join(formats)}."
      )
    num_tests = len(metadata["tests"])
    code, why = find_code(text, metadata["whole_completion"])
    if code is None:
      return Report([why] * num_tests, num_tests)
    code = _complete(code, metadata["prompt_code"], metadata["entry_point"])
    for _ in range(2):
      statuses: list[str] = []
      try:
        for status in formats[metadata["format"]](metadata, code):
          statuses.append(status)
          if status != "passed" and not self._partial:
            break
        break
      except OutOfTime:
        statuses.append("out of time")
        break
      except Died:  # not the program's fault; once more
        statuses.append(_BROKEN)
    return Report(statuses, num_tests)

  def _stdin(self, metadata, code) -> Iterator[str]:
    tests = metadata["tests"]
    runs = self._pool.run(code, [test["input"] for test in tests])
    for test, run in zip(tests, runs):
      if run.status != "ok":
        yield run.status
      else:
        same = values.same_text(
          run.stdout, test["output"], metadata["tolerance"]
        )
        yield "passed" if same else "wrong"

  def _call(self, metadata, code) -> Iterator[str]:
    tests, name = metadata["tests"], metadata["entry_point"]
    inputs = [json.dumps(plain.encode(list(t["input"]))) for t in tests]
    for test, run in zip(tests, self._pool.run(code, inputs, entry_point=name)):
      if run.status != "ok":
        yield run.status
      else:
        yield _returned(run.stdout, test, metadata["tolerance"])

  def _check(self, metadata, code) -> Iterator[str]:
    tests, deadline, done = metadata["tests"], None, 0
    while done < len(tests):
      with self._pool.take() as sandbox, self._pool.take() as checker:
        deadline = deadline or self._pool.deadline()
        solution = _Solution(sandbox, self._pool, deadline)
        failed = solution.load(code)
        if failed:
          yield from [failed] * (len(tests) - done)
          return
        job = self._pool.job(
          "check",
          setup=metadata["setup"],
          prompt_code=_stand_alone(metadata["prompt_code"]),
          entry_point=metadata["entry_point"],
        )
        checker.send(job, deadline)
        while done < len(tests) and not solution.is_gone:
          test, done = tests[done], done + 1
          yield solution.check(checker, test)


class _Solution:
  """A completion's functions, which live in a sandbox."""

  def __init__(self, sandbox: Sandbox, pool: SandboxPool, deadline: float):
    self._sandbox, self._pool, self._deadline = sandbox, pool, deadline
    self._until = deadline
    self.is_gone = False

  def load(self, code: str) -> str | None:
    """Loads the code; returns None, or why it could not be loaded."""
    self._until = self._pool.patience(self._deadline)
    try:
      reply = unpack(self._forward(self._pool.job("serve", code=code)))
    except _Gone as e:
      return str(e)
    return None if "value" in reply else _why(reply)

  def check(self, checker: Sandbox, source: str) -> str:
    """Runs a test in `checker`, and answers its calls from here."""
    self._until = self._pool.patience(self._deadline)
    message: Any = {"source": source}
    try:
      while True:
        reply = checker.ask(message, self._until)
        if "status" in reply:
          return str(reply["status"])
        if "ended" in reply:  # the answer was too large for it
          self.is_gone = True
          return _ending(reply)
        message = self._forward(reply)
    except _Gone as e:
      return str(e)
    except OutOfTime:  # the checker's: processing the answers took too long
      self._out_of_time()
      self.is_gone = True
      return "time limit"

  def _forward(self, message) -> bytes:
    """Sends a message and returns the reply; _Gone if there is none."""
    try:
      self._sandbox.send(message, self._until)
      reply = self._sandbox.receive(self._until, max_bytes=OUTPUT_BYTES)
      message = unpack(reply)
      if "ended" not in message:
        return reply
      why = _ending(message)  # the solution may claim it too
    except OutOfTime:
      self._out_of_time()
      why = "time limit"
    except TooLong:
      why = "output limit"
    except Died:
      why = "crash"
    self.is_gone = True
    raise _Gone(why)

  def _out_of_time(self):
    if time.monotonic() >= self._deadline:
      raise OutOfTime


def _returned(text, test, tolerance):
  """The status of a test, from the report of its function's process."""
  try:
    reply = json.loads(text)
    if "value" not in reply:
      return _why(reply)
    value = values.as_json(reply["value"])
    same = any(
      values.same_value(value, test[name], tolerance)
      for name in ("output", "or_output")
      if name in test
    )
    return "passed" if same else "wrong"
  # Not plain data, or not written by our own code.
  except (ValueError, TypeError, AttributeError, RecursionError):
    return "error"


class _Gone(Exception):
  """The solution's process has ended; the message says how."""


def find_code(text: str, whole: bool) -> tuple[str | None, str]:
  """Returns a completion's code, or None and the reason.

  Drafts within thoughts are ignored.

  Args:
    text: the completion.
    whole: whether all of it is code unless it has a fence.
  """
  block, fence, language = None, "", ""
  lines: list[str] = []
  text = without_thoughts(text)
  for line in text.replace("\r\n", "\n").split("\n"):
    found = _FENCE.fullmatch(line)
    if not fence and found:
      fence, lines = found[1], []
      language = (found[2].lower().split() or [""])[0]
    elif fence and line.strip() == fence[0] * max(
      len(fence), len(line.strip())
    ):
      block, fence = (language, "\n".join(lines)), ""
    elif fence:
      lines.append(line)
  if fence:
    return None, "no code"  # the last block was never closed
  if block is None:
    return (text, "") if whole and text.strip() else (None, "no code")
  if block[0] not in _PYTHON:
    return None, "not python"
  return (
    (textwrap.dedent(block[1]), "") if block[1].strip() else (None, "no code")
  )


def _complete(code, prompt_code, entry_point):
  if not prompt_code:
    return code
  name = re.escape(entry_point)
  if re.search(rf"^(?:async\s+def|def|class)\s+{name}\b", code, re.MULTILINE):
    # Often without the imports and functions given in the prompt.
    prompt_code = f"{_stand_alone(prompt_code)}\n"
  # They must be the first statements of a file.
  future = "".join(_FUTURE.findall(code))
  return future + prompt_code + _FUTURE.sub("", code)


def _stand_alone(prompt_code):
  """A prompt's definitions; its imports alone if it stops in mid-function."""
  try:
    ast.parse(prompt_code)
  except (SyntaxError, ValueError):  # null bytes, a lone surrogate
    imports = re.findall(r"^(?:import|from)\s.*$", prompt_code, re.MULTILINE)
    return "\n".join(imports)
  return prompt_code


def _ending(message):
  """The status of a test during which a process ended."""
  # Even if the process exited on its own, that does not pass a test.
  return message["ended"] if message["ended"] in _ENDINGS else "error"


def _why(reply):
  """The status of a call that raised."""
  return "memory limit" if reply.get("raised") == "MemoryError" else "error"
