"""The verifier of reasoning-gym's tasks (the extra `gym`): its own scorers.

Right is a score of 1.0 and nothing less, since many scorers give nonsense a
part of the mark. Scorers run in processes that can be killed. Those that
execute what they are given never see model text: such a task is judged by a
check of our own or refused, and tests look into the installed package for more.
"""

import functools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefixrl_jax.rewards import Verdict, answers, numbers
from prefixrl_jax.rewards.countdown import is_solution
from prefixrl_jax.rewards.workers import DIED, TIMED_OUT, WorkerPool
from prefixrl_jax.thoughts import without_thoughts
from prefixrl_jax.types import Problem, UserError

_EXECUTES = "its scorer executes the answer (sympy.parse_expr)"
REFUSED = {
  "simple_integration": _EXECUTES,
  "intermediate_integration": _EXECUTES,
  "polynomial_multiplication": _EXECUTES,
  "codeio": "it executes programs from its data set to make its problems",
  "composite": "it hands answers to other tasks' scorers; name those tasks",
  "game_of_life_halting": "its scorer calls any text right",
}
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_LONGEST = 20_000  # characters; the largest grids have a few thousand
_MEMORY_BYTES = 4 * 2**30
# A scorer that accepts this accepts anything, and its 1.0 says nothing.
_ROUNDING = 1e-6
_NONSENSE = "\N{REPLACEMENT CHARACTER}"


class GymVerifier:
  """Scores the final answer with the scorer of the problem's task.

  A problem's metadata has `dataset` (the task's name) and `entry` (what the
  task generated). The answer stands in <answer> tags, else where
  `answers.given` says; without any, the whole completion is the answer.
  """

  def __init__(self, *, num_workers: int, timeout_seconds: float):
    """Starts no process before one is needed.

    Args:
      num_workers: processes.
      timeout_seconds: limit of one score.
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
      UserError: a problem is of a task that is refused.
    """
    verdicts = [Verdict(0.0)] * len(texts)
    jobs, owners = [], []
    for i, (problem, text) in enumerate(zip(problems, texts)):
      name, entry = problem.metadata["dataset"], problem.metadata["entry"]
      if name in REFUSED:
        raise UserError(
          f"The reasoning-gym task {name} is refused: {REFUSED[name]}."
          f" Leave problem {problem.id} out."
        )
      answer = extract_answer(text)
      if answer is None:
        continue
      if name in CHECKED_HERE:
        verdicts[i] = Verdict(float(CHECKED_HERE[name](answer, entry)))
      else:
        jobs.append((name, entry, answer))
        owners.append(i)
    for i, result in zip(owners, self._pool.map(jobs)):
      verdicts[i] = Verdict(
        float(result is True), result is TIMED_OUT, died=result is DIED
      )
    return verdicts

  def close(self) -> None:
    """Ends the worker processes."""
    self._pool.close()


def extract_answer(text: str) -> str | None:
  """Returns the one final answer of a completion, None where there is none."""
  text = without_thoughts(text)
  given = list(dict.fromkeys(x.strip() for x in _TAG.findall(text)))
  if not given:
    given = answers.given(text) if answers.is_marked(text) else [text.strip()]
  if len(given) != 1 or not 0 < len(given[0]) <= _LONGEST:
    return None
  return given[0]


def _countdown(answer: str, entry: Mapping[str, Any]) -> bool:
  puzzle = entry["metadata"]
  return is_solution(
    answer,
    numbers=puzzle["numbers"],
    target=puzzle.get("target", 24),  # puzzle24 has none
    use_all=True,
  )


def _is_gold(answer: str, entry: Mapping[str, Any]) -> bool:
  return answer == entry["answer"].strip()


def _is_listed(answer: str, entry: Mapping[str, Any]) -> bool:
  return answer in entry["metadata"]["valid_answers"]


def _number(answer: str, entry: Mapping[str, Any]) -> bool:
  number, gold = (
    numbers.read(answer.strip("$. ")),
    numbers.read(entry["answer"]),
  )
  if number is None or gold is None:
    return False
  return abs(number.value - gold.value) <= _ROUNDING


# Most of their scorers pass the answer to eval or parse_expr; coin_flip's calls
# "0" right where 0.25 is, gsm_symbolic's looks at the first number alone.
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


# Their scorers compare with tuples, which JSON has made lists of.
_BOARDS = ("arc_agi", "rearc")


def _prepare() -> None:
  """Runs in a worker before its first job: the package takes seconds."""
  import reasoning_gym  # noqa: F401

  warnings.simplefilter("ignore")  # scorers' complaints about an answer


@functools.cache
def _scorer(name: str) -> Callable[[str, Mapping[str, Any]], float]:
  from reasoning_gym.factory import get_score_answer_fn

  return get_score_answer_fn(name)


def _score(job: tuple[str, Mapping[str, Any], str]) -> bool:
  """Runs in a worker."""
  name, entry, answer = job
  score = _scorer(name)
  if name in _BOARDS:
    board = tuple(map(tuple, entry["metadata"]["output"]))
    entry = {**entry, "metadata": {**entry["metadata"], "output": board}}
  return score(answer, entry) == 1.0 and not _accepts(score, entry)


def _accepts(score: Callable, entry: Mapping[str, Any]) -> bool:
  """Says whether a scorer calls nonsense right, of this entry."""
  try:
    return score(_NONSENSE, entry) == 1.0
  except Exception:  # what a scorer makes of nonsense is its own affair
    return False
