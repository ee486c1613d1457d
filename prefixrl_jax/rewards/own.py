"""A reward of the user's: a function in a file, called in killable processes.

The function is trusted, as the config is; it must not execute what it judges.
"""

import functools
import math
import numbers
import os
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from prefixrl_jax import user_code
from prefixrl_jax.rewards.workers import DIED, TIMED_OUT, WorkerPool
from prefixrl_jax.types import Problem, UserError, Verdict

FIELD = "config.rewards.function"
_ARGUMENTS = ("problems", "texts")
_AT_A_TIME = 16  # texts a call, at most
_MEMORY_BYTES = 4 * 2**30  # a worker's address space
_REMEDY = "It returns a number from 0 to 1 for each text, 1 if it is right."

_Job = tuple[Sequence[Problem], Sequence[str]]


class _Wrong(NamedTuple):
  """Why there are no rewards: the function's fault, in one line."""

  why: str


class FunctionVerifier:
  """Judges with a function of the user's: (problems, texts) -> rewards."""

  def __init__(
    self, *, function: str, num_workers: int, timeout_seconds: float
  ):
    """Reads and checks the function; starts no process until one is needed.

    Args:
      function: "FILE.py:NAME".
      num_workers: number of processes.
      timeout_seconds: time limit of one call.

    Raises:
      UserError: there is no such function, or it takes other arguments.
    """
    source = check(function)
    self._num_workers = num_workers
    self._pool = WorkerPool(
      _judge,
      prepare=functools.partial(_prepare, source),
      num_workers=num_workers,
      timeout_seconds=timeout_seconds,
      memory_bytes=_MEMORY_BYTES,
    )

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`.

    Several texts share a call. If it takes too long, or its process ends, each
    of them is judged again on its own: only those that are to blame are wrong.

    Raises:
      UserError: the function raises, or returns something else than rewards.
    """
    share = math.ceil(len(texts) / self._num_workers)
    size = max(1, min(_AT_A_TIME, share))
    spans = [
      range(i, min(i + size, len(texts))) for i in range(0, len(texts), size)
    ]
    results = self._map(problems, texts, spans)
    lost = [
      i for span, r in zip(spans, results) if not _is_judged(r) for i in span
    ]
    alone = [range(i, i + 1) for i in lost]
    again = (
      dict(zip(lost, self._map(problems, texts, alone))) if size > 1 else {}
    )
    verdicts = []
    for span, result in zip(spans, results):
      for place, i in enumerate(span):
        own = again.get(i, result)
        if _is_judged(own):
          verdicts.append(Verdict(own[0 if i in again else place]))
        else:
          verdicts.append(Verdict(0.0, own is TIMED_OUT, died=own is DIED))
    return verdicts

  def _map(
    self,
    problems: Sequence[Problem],
    texts: Sequence[str],
    spans: Sequence[range],
  ) -> list[Any]:
    jobs: list[_Job] = [
      (problems[s.start : s.stop], texts[s.start : s.stop]) for s in spans
    ]
    results = self._pool.map(jobs)
    for result in results:
      if isinstance(result, _Wrong):
        raise UserError(f"{FIELD}: {result.why}")
      if isinstance(result, Exception):  # of the machinery
        raise result
    return results

  def close(self) -> None:
    """Ends the worker processes."""
    self._pool.close()


def check(function: str) -> user_code.Source:
  """Returns the function's source, once it is known to be a function.

  Args:
    function: "FILE.py:NAME".

  Raises:
    UserError: there is no such function, or it takes other arguments.
  """
  return user_code.check(function, FIELD, *_ARGUMENTS)


def _is_judged(result: Any) -> bool:
  return result is not TIMED_OUT and result is not DIED


# -- in the workers ------------------------------------------------------------

_function: tuple[Callable[..., Any], user_code.Source] | None = None


def _prepare(source: user_code.Source) -> None:
  # The accelerator is the parent's.
  os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
  global _function
  _function = user_code.load(source, *_ARGUMENTS), source


def _judge(job: _Job) -> list[float] | _Wrong:
  """Returns a reward for each text of a job, or why there is none."""
  assert _function is not None
  function, source = _function
  problems, texts = job
  try:
    returned = function(list(problems), list(texts))
    rewards = list(returned) if isinstance(returned, Iterable) else returned
  except MemoryError:  # the limit is the text's to keep
    os._exit(1)
  except (Exception, SystemExit) as e:
    return _Wrong(
      f"{user_code.raised(e, source.file)}. Return 0 for a text that cannot be"
      " judged."
    )
  if fault := _fault(rewards, returned, len(texts)):
    where = user_code.place_of(function, source.file)
    return _Wrong(f"{where}: {source.name} {fault}. {_REMEDY}")
  return [float(r) for r in rewards]


def _fault(rewards: Any, returned: Any, count: int) -> str:
  """Says what is wrong with what a function has returned; empty: nothing."""
  if not isinstance(rewards, list) or isinstance(
    returned, (str, bytes, dict, set, frozenset)
  ):
    return f"returns {_shown(returned)}, no list of rewards"
  if len(rewards) != count:
    return f"returns {len(rewards)} rewards for {count} texts"
  for i, reward in enumerate(rewards):
    if not _is_number(reward):
      return f"returns {_shown(reward)} as reward of text {i}, no number"
    if not 0 <= float(reward) <= 1:  # nor if it is NaN
      return f"returns {float(reward):g} as reward of text {i}"
  return ""


def _is_number(value: Any) -> bool:
  # Of numpy's and torch's scalars, too.
  if isinstance(value, numbers.Real):
    return True
  return getattr(value, "shape", None) == () and hasattr(value, "__float__")


def _shown(value: Any) -> str:
  return f"{reprlib.repr(value)} ({type(value).__name__})"
