r"""The math verifier: a final answer against the gold one.

docs/verifiers.md has the rules. In short: the answer is in tags or boxes, else
on an answer line, else at the end of the last line. Two different answers are
wrong. What needs no algebra is compared here; the rest in a process that can be
killed. Running out of time is wrong, and is counted.
"""

import re
from collections.abc import Sequence
from typing import Any

from prefixrl_jax.rewards import answers, comparison, quantities, surroundings
from prefixrl_jax.rewards.workers import DIED, TIMED_OUT, WorkerPool
from prefixrl_jax.text.thoughts import without_thoughts
from prefixrl_jax.types import Problem, Verdict

# More answers are always wrong.
_MOST_ANSWERS = 4
# A worker's memory limit, so that 10^{10^{10}} does not take the machine.
_MEMORY_BYTES = 4 * 2**30

_FORMULA = re.compile(
  r"\$\$((?:[^$\\]|\\.)+)\$\$|(?<!\\)\$((?:[^$\\]|\\.)+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)",
  re.DOTALL,
)
_PROSE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_PERCENT = re.compile(r"\s*(?:\\?%|percent|pct)")
_OPTION = re.compile(r"\(?([A-Z])\)?")
_OF_OPTIONS = re.compile(r"\b(?:option|choice|answer)s?\b", re.IGNORECASE)
_SIDES = re.compile(r"(?<![<>!:\\])=")


class MathVerifier:
  """Judges completions of problems whose answer is a number or formula."""

  def __init__(self, *, num_workers: int, timeout_seconds: float):
    """Starts no process until one is needed.

    Args:
      num_workers: number of processes.
      timeout_seconds: time limit of one comparison.
    """
    self._pool = WorkerPool(
      _work,
      prepare=_prepare,
      num_workers=num_workers,
      timeout_seconds=timeout_seconds,
      memory_bytes=_MEMORY_BYTES,
    )

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`."""
    found = [
      [
        (problem.answer, answer, problem.prompt)
        for answer in final_answers(text)
      ]
      for problem, text in zip(problems, texts)
    ]
    # Completions of one problem often agree: each answer is judged only once.
    known: dict[tuple[str, str, str], Any] = {}
    for given in found:
      if len(given) <= _MOST_ANSWERS:
        known |= {
          key: comparison.at_a_glance(*key) for key in given if key not in known
        }
    hard = [key for key, result in known.items() if result is None]
    known.update(zip(hard, self._pool.map(hard)))
    return [_verdict([known.get(key) for key in given]) for given in found]

  def unparseable(self, golds: Sequence[str]) -> list[int]:
    """Returns the gold answers that can only be compared as text."""
    results = self._pool.map([(gold, None, "") for gold in golds])
    return [i for i, result in enumerate(results) if result is not True]

  def close(self) -> None:
    """Ends the worker processes."""
    self._pool.close()


def final_answers(text: str) -> list[str]:
  """Returns the different final answers of a completion; see `answers.given`.

  Without box and answer line it is what follows the last "is" of the last
  sentence, if that is one formula, or else the sentence's only number. Bare
  numbers line by line are a list and no answer, and neither is what is denied.
  """
  text = without_thoughts(text)
  if answers.is_marked(text):
    return [_out_of_prose(answer) for answer in answers.given(text)]
  lines = text.split()
  if len(lines) > 1 and all(map(quantities.read, lines)):
    return []
  sentence = answers.last_sentence(text)
  answer = _last_of(sentence)
  if not answer or surroundings.is_denied(sentence, answer):
    return []
  return [answer]


def has_answer(text: str) -> bool:
  """Whether a completion gives a final answer, or several."""
  return bool(final_answers(text))


def _out_of_prose(answer: str) -> str:
  """Returns the only number of an answer that is a sentence."""
  if "\\" in answer or len(_PROSE.findall(answer)) < 2:
    return answer
  number = quantities.in_prose(answer)
  if (
    not number
    or quantities.read(answer)
    or surroundings.is_denied(answer, number)
  ):
    return answer
  return number


def _last_of(sentence: str) -> str | None:
  """Returns the answer that a sentence ends with."""
  end = answers.after_is(sentence)
  for part in (end, sentence):
    formulas = list(_FORMULA.finditer(part))
    if len(formulas) == 1:
      (formula,) = formulas
      percent = _PERCENT.match(part, formula.end())
      end_of_it = percent.end() if percent else formula.end()
      if not quantities.stands_alone(part[: formula.start()], part[end_of_it:]):
        return None
      inside = next(filter(None, formula.groups()))
      return inside + (percent.group() if percent else "")
    if formulas:
      continue
    if number := quantities.in_prose(_SIDES.split(part)[-1]):
      return number
  if _FORMULA.search(sentence):
    return None
  if (option := _OPTION.fullmatch(end)) and _OF_OPTIONS.search(sentence):
    return option[1]
  # "the pair (x, y) is (7, 6)": a formula without delimiters.
  is_formula = end != sentence and not _PROSE.search(end)
  return end if is_formula and re.search(r"\d", end) else None


def _verdict(results: Sequence[Any]) -> Verdict:
  """Every answer that a completion gives must be right."""
  if results and all(result is True for result in results):
    return Verdict(1.0)
  timed_out = any(result is TIMED_OUT for result in results)
  died = any(
    result is DIED or isinstance(result, MemoryError) for result in results
  )
  if any(result is False or result is None for result in results):
    timed_out = died = False
  return Verdict(0.0, timed_out, died=died and not timed_out)


def _prepare() -> None:
  """Runs in a worker before its first job: sympy takes a second to import."""
  from prefixrl_jax.rewards import equality, formulas  # noqa: F401


def _work(job: tuple[str, str | None, str]) -> bool:
  """Runs in a worker; without an answer: whether the gold one can be read."""
  gold, answer, statement = job
  try:
    if answer is None:
      return comparison.is_readable(gold)
    return comparison.equivalent(gold, answer, statement)
  except MemoryError:
    raise  # by its limit: the answer is not known to be wrong
  except Exception:  # what cannot be compared is not equal
    return False
