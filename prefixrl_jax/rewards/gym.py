"""The verifier of reasoning-gym's tasks (the extra `gym`): its own scorers.

Only a score of 1.0 is right, since many scorers give nonsense partial credit,
and only if it is specific: an answer that the scorer also accepts for other
problems with other answers is wrong. Scorers run in processes that can be
killed. Those that execute their input never see model text: such a task is
judged by a check of our own or refused, and tests search the installed package
for more of them.
"""

import cmath
import contextlib
import functools
import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prefixrl_jax.rewards import answers, quantities
from prefixrl_jax.rewards.countdown import is_solution
from prefixrl_jax.rewards.workers import DIED, TIMED_OUT, WorkerPool
from prefixrl_jax.text.thoughts import without_thoughts
from prefixrl_jax.types import Problem, UserError, Verdict

_EXECUTES = "its scorer executes the answer (sympy.parse_expr)"
REFUSED = {
  "simple_integration": _EXECUTES,
  "intermediate_integration": _EXECUTES,
  "polynomial_multiplication": _EXECUTES,
  "codeio": "it executes programs from its data set to make its problems",
  "composite": "it hands answers to other tasks' scorers; name those tasks",
  "game_of_life_halting": "its scorer calls any text right",
  "propositional_logic": "(P ∨ Q) is right for most of its problems",
}
_LONGEST = 20_000  # characters; the largest grids have a few thousand
_MEMORY_BYTES = 4 * 2**30
# A scorer that accepts this accepts anything, and its 1.0 says nothing.
_ROUNDING = 1e-6
_NONSENSE = "\N{REPLACEMENT CHARACTER}"
# Comparisons with NaN or infinity may come out either way.
_NOT_FINITE = re.compile(
  r"(?<![^\W\d_])(?:s?nan|inf(?:inity)?)j?(?![^\W\d_])|∞", re.IGNORECASE
)
# A task's name, its problem, an answer, other problems to try it on.
_Job = tuple[str, Mapping[str, Any], str, Sequence[Mapping[str, Any]]]
_REFERENCES = 6  # problems of a task on which an answer is tried
_TOO_MANY = 3  # problems with different answers for which a constant is right
# Constants that a policy finds without reading the problem.
CONSTANTS = (
  *("0", "1", "-1", "2", "10", "0.0", "1e-9", "1e9", "0j", "i", "0/1", "1/1"),
  *("True", "False", "true", "false", "yes", "no", "None", "null", "unknown"),
  *("[]", "{}", "()", "[[]]", '""', "''", "[0]", "[1]", "[1, 2]", '{"a": 1}'),
  *(
    "?",
    ".",
    "-",
    ",",
    "x",
    "a",
    "A",
    "a b c",
    "1 2 3",
    "0 0\n0 0",
    "\\frac{0}{1}",
  ),
  *("nan", "inf", "-inf", "nan+nanj", "1e999"),
  *("0" * 300, "1 " * 300, "a " * 300, "\n" * 300 + "0"),
)


class GymVerifier:
  """Scores the final answer with the scorer of the problem's task.

  A problem's metadata has `dataset` (the task's name) and `entry` (what the
  task generated). The answer is in <answer> tags, else where `answers.given`
  finds it; failing that, the whole completion is the answer.
  """

  def __init__(self, *, num_workers: int, timeout_seconds: float):
    """Starts no process until one is needed.

    Args:
      num_workers: number of processes.
      timeout_seconds: time limit of one score.
    """
    self._pool = WorkerPool(
      _score,
      prepare=_prepare,
      num_workers=num_workers,
      timeout_seconds=timeout_seconds,
      memory_bytes=_MEMORY_BYTES,
    )

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`.

    Raises:
      UserError: a problem's task is refused.
    """
    verdicts = [Verdict(0.0)] * len(texts)
    jobs: list[_Job] = []
    owners: list[int] = []
    for i, (problem, text) in enumerate(zip(problems, texts)):
      name, entry = problem.metadata["dataset"], problem.metadata["entry"]
      if name in REFUSED:
        raise UserError(
          f"The reasoning-gym task {name} is refused: {REFUSED[name]}."
          f" Leave problem {problem.id} out."
        )
      answer = extract_answer(text)
      if answer is None or not _may_be_scored(answer, entry):
        continue
      if name in CHECKED_HERE:
        verdicts[i] = Verdict(float(CHECKED_HERE[name](answer, entry)))
      else:
        jobs.append((name, entry, answer, ()))
        owners.append(i)
    results = self._pool.map(jobs)
    # Anything but the gold text must not be right for all problems.
    doubtful = [
      j
      for j, (_, entry, answer, _) in enumerate(jobs)
      if results[j] is True and not _is_gold(answer, entry)
    ]
    tried = [(*jobs[j][:3], references(jobs[j][0])) for j in doubtful]
    for j, result in zip(doubtful, self._pool.map(tried)):
      results[j] = result
    for i, result in zip(owners, results):
      verdicts[i] = Verdict(
        float(result is True), result is TIMED_OUT, died=result is DIED
      )
    return verdicts

  def close(self) -> None:
    """Ends the worker processes."""
    self._pool.close()


def extract_answer(text: str) -> str | None:
  """Returns the one final answer of a completion, None if there is none."""
  text = without_thoughts(text)
  given = list(dict.fromkeys(filter(None, answers.tagged(text))))
  if not given:
    given = answers.given(text) if answers.is_marked(text) else [text.strip()]
  if len(given) != 1 or not 0 < len(given[0]) <= _LONGEST:
    return None
  return given[0]


def _may_be_scored(answer: str, entry: Mapping[str, Any]) -> bool:
  """Whether all numbers of an answer are finite, however written."""
  plain = unicodedata.normalize("NFKC", answer)
  return _is_gold(answer, entry) or not (
    _NOT_FINITE.search(plain)
    or any(map(_is_beyond, re.split(r"[^\w.+-]+", plain)))
  )


def _is_beyond(word: str) -> bool:
  for read in (float, complex):
    with contextlib.suppress(ValueError, OverflowError):
      return not cmath.isfinite(read(word))
  return False


def find_constant(
  name: str, entries: Sequence[Mapping[str, Any]]
) -> str | None:
  """Returns a constant that is right for problems with different answers.

  Args:
    name: of a task.
    entries: some of its problems.

  Returns: A constant that shows the task's scorer cannot be trusted; None: none
    does.
  """
  with _quiet():
    for constant in (*CONSTANTS, None):
      right = [
        (e["answer"], i)
        for i, e in enumerate(entries)
        if _is_right(name, e, constant or e["question"])
      ]
      # Problems without an answer each count as different.
      golds = {i if gold is None else str(gold).strip() for gold, i in right}
      if len(golds) >= _TOO_MANY:
        return constant or "the question"
  return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Some tasks print on the way, or leave files open."""
  with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    yield


@functools.cache
def references(name: str) -> list[Mapping[str, Any]]:
  """Returns problems of a task on which other problems' answers are tried."""
  from reasoning_gym.factory import create_dataset

  entries = []
  with _quiet():
    data = create_dataset(name, seed=1, size=_REFERENCES)
    for i in range(_REFERENCES):
      # Some entries of some tasks cannot be generated.
      with contextlib.suppress(AssertionError, IndexError, ValueError):
        entries.append(data[i])
  return entries


def _countdown(answer: str, entry: Mapping[str, Any]) -> bool:
  puzzle = entry["metadata"]
  return is_solution(
    answer,
    numbers=puzzle["numbers"],
    target=puzzle.get("target", 24),  # puzzle24 has none
    use_all=True,
  )


def _is_gold(answer: str, entry: Mapping[str, Any]) -> bool:
  return answer == str(entry["answer"]).strip()


def _is_listed(answer: str, entry: Mapping[str, Any]) -> bool:
  return answer in entry["metadata"]["valid_answers"]


def _number(answer: str, entry: Mapping[str, Any]) -> bool:
  number, gold = (
    quantities.read(answer.strip("$. ")),
    quantities.read(entry["answer"]),
  )
  if number is None or gold is None:
    return False
  return abs(number.value - gold.value) <= _ROUNDING


# Most of their scorers pass the answer to eval or parse_expr; coin_flip's
# accepts "0" for 0.25, gsm_symbolic's reads only the first number.
CHECKED_HERE: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
  "countdown": _countdown,
  "puzzle24": _countdown,
  "binary_matrix": _is_gold,
  "spiral_matrix": _is_gold,
  "string_insertion": _is_gold,
  "n_queens": _is_listed,
  "coin_flip": _number,
  "gsm_symbolic": _number,
}


# Their scorers compare with tuples, which JSON turned into lists.
_BOARDS = ("arc_agi", "rearc")


def _prepare() -> None:
  """Runs in a worker before its first job: the package takes seconds."""
  import reasoning_gym  # noqa: F401

  warnings.simplefilter("ignore")  # scorers' complaints about an answer


@functools.cache
def _scorer(name: str) -> Callable[[str, Mapping[str, Any]], float]:
  from reasoning_gym.factory import get_score_answer_fn

  return get_score_answer_fn(name)


def _score(job: _Job) -> bool:
  """Runs in a worker."""
  name, entry, answer, others = job
  return (
    _accepts(name, entry, answer)
    and not _accepts_quietly(name, entry, _NONSENSE)
    and not _is_for_all(name, entry, answer, others)
  )


def _is_for_all(name: str, entry, answer: str, others: Sequence) -> bool:
  """Whether most problems with another answer accept this one too.

  Most suffices, not all: a task's problems may have more than one form. And a
    few may accept it legitimately: some colourings fit several graphs.
  """
  gold = entry["answer"]
  if _is_gold(answer, entry):
    return False
  others = [o for o in others if gold is None or o["answer"] != gold]
  count = sum(_accepts_quietly(name, other, answer) for other in others)
  return count >= 2 and count > len(others) / 2


def _is_right(name: str, entry: Mapping[str, Any], answer: str) -> bool:
  """Judges as `GymVerifier` does, in this process."""
  if not answer.strip() or not _may_be_scored(answer, entry):
    return False
  if name in CHECKED_HERE:
    return CHECKED_HERE[name](answer, entry)
  return (
    _accepts_quietly(name, entry, answer)
    and not _accepts_quietly(name, entry, _NONSENSE)
    and not _is_for_all(name, entry, answer, references(name))
  )


def _accepts_quietly(name: str, entry: Mapping[str, Any], answer: str) -> bool:
  try:
    return _accepts(name, entry, answer)
  except Exception:  # a scorer may raise anything on nonsense
    return False


def _accepts(name: str, entry: Mapping[str, Any], answer: str) -> bool:
  if name in _BOARDS:
    board = tuple(map(tuple, entry["metadata"]["output"]))
    entry = {**entry, "metadata": {**entry["metadata"], "output": board}}
  return _scorer(name)(answer, entry) == 1.0
