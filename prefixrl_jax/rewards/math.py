"""The math verifier: a final answer against the gold one.

The rules: the last \\boxed{...} is the answer; without a box, what follows
the last "answer is", "answer:" or "####" on its line; else the last number.
Answers that are equal as text (spaces, $ and a final full stop aside) are
equal; all others are judged by math-verify, in a process that can be killed.
A completion without an answer is wrong. Running out of time is wrong, and is
counted.
"""

import logging
import re
from collections.abc import Sequence

from prefixrl_jax.rewards import Verdict
from prefixrl_jax.rewards.workers import TIMED_OUT, WorkerPool
from prefixrl_jax.types import Problem

_LINE = re.compile(r"(?:####|answer\s*(?:is|:))\s*(.+)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")


def extract_answer(text: str) -> str | None:
  """Returns the final answer of a completion, by the module's rules."""
  if "\\boxed{" in text:
    return _last_boxed(text)
  lines = _LINE.findall(text)
  if lines:
    return lines[-1].strip()
  numbers = _NUMBER.findall(text)
  return numbers[-1] if numbers else None


class MathVerifier:
  """Judges completions of problems whose answer is a number or formula."""

  def __init__(self, *, num_workers: int, timeout_seconds: float):
    """Starts no process before one is needed.

    Args:
      num_workers: processes.
      timeout_seconds: limit of one comparison.
    """
    self._pool = WorkerPool(
      _equivalent,
      prepare=_prepare,
      num_workers=num_workers,
      timeout_seconds=timeout_seconds,
    )

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`."""
    verdicts = [Verdict(0.0)] * len(texts)
    hard = []
    for i, (problem, text) in enumerate(zip(problems, texts)):
      answer = extract_answer(text)
      if answer is None:
        continue
      if _plain(answer) == _plain(problem.answer):
        verdicts[i] = Verdict(1.0)
      else:
        hard.append((i, (problem.answer, answer)))
    for (i, _), result in zip(hard, self._pool.map([pair for _, pair in hard])):
      verdicts[i] = Verdict(float(result is True), result is TIMED_OUT)
    return verdicts

  def close(self) -> None:
    """Ends the worker processes."""
    self._pool.close()


def _last_boxed(text: str) -> str | None:
  start = text.rfind("\\boxed{") + len("\\boxed{")
  depth = 1
  for end in range(start, len(text)):
    depth += {"{": 1, "}": -1}.get(text[end], 0)
    if depth == 0:
      return text[start:end]
  return None  # never closed: no answer


def _plain(answer: str) -> str:
  return re.sub(r"[\s$]|\.$", "", answer.strip())


def _prepare() -> None:
  """Runs in a worker before its first job: sympy takes a second to import."""
  import math_verify  # noqa: F401

  # It warns at every call that its time-outs are off.
  logging.getLogger("math_verify").setLevel(logging.ERROR)


def _equivalent(pair: tuple[str, str]) -> bool:
  """Runs in a worker; its own time-outs are off, the pool has a better one."""
  import math_verify

  gold, answer = (
    math_verify.parse(f"${x.strip().strip('$')}$", parsing_timeout=None)
    for x in pair
  )
  return math_verify.verify(gold, answer, timeout_seconds=None)
