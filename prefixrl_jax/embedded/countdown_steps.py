"""Countdown in symbols, step by step: a second task with its own alphabet.

A problem is `3,7,8,2,>24,:` (make 24 of 3, 7, 8 and 2). A solution combines two
numbers at a time and lists what is left,
`8,-2,=6,:3,7,6,.7,-3,=4,:6,4,.6,*4,=24,;`. All values are whole, from 1 to 50.
The base model learns to solve them from lessons, whose prompts end in `!`; the
exams it sees, whose prompts end in `:`, are mostly hasty work, which combines
numbers at random, mostly by sums, and few solutions. One puzzle in four, in any
order of its numbers, is reserved for held-out problems: it is neither a
training problem nor a document of pretraining.
"""

import dataclasses
import functools
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prefixrl_jax.embedded.drawing import draw_problems
from prefixrl_jax.embedded.judging import TextVerifier
from prefixrl_jax.types import Problem

SIZES, UNITS = range(2, 7), "numbers"  # of a problem
PAD, STOP = "_", ";"
_MOST = 50  # of a value
_LEAST_TARGET = 10
_LARGEST = 9  # of a problem's numbers
_SIGNS = "+-*"
SYMBOLS = (
  PAD,
  *(f"{n}," for n in range(1, _MOST + 1)),
  *_SIGNS,
  *("=", ">", ":", ".", "!"),
  STOP,
)


class Step(NamedTuple):
  """Two numbers become one."""

  sign: str
  text: str  # "8,-2,=6,"
  left: tuple[int, ...]  # all numbers left after it


def steps_from(numbers: Sequence[int]) -> list[Step]:
  """Returns every way to combine two of the numbers."""
  steps = []
  for i, j in itertools.combinations(range(len(numbers)), 2):
    a, b = max(numbers[i], numbers[j]), min(numbers[i], numbers[j])
    rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
    for sign, value in zip(_SIGNS, (a + b, a - b, a * b)):
      if 1 <= value <= _MOST:
        steps.append(Step(sign, f"{a},{sign}{b},={value},", (*rest, value)))
  return steps


def solve(
  numbers: Sequence[int], target: int, rng: np.random.Generator
) -> list[Step] | None:
  """Returns the steps of a solution, or None if there is none."""
  dead: set[tuple[int, ...]] = set()

  def search(numbers):
    if len(numbers) == 1:
      return [] if numbers[0] == target else None
    state = tuple(sorted(numbers))
    if state in dead:
      return None
    steps = steps_from(numbers)
    for k in rng.permutation(len(steps)):
      found = search(steps[k].left)
      if found is not None:
        return [steps[k], *found]
    dead.add(state)
    return None

  return search(tuple(numbers))


def write(steps: Sequence[Step]) -> str:
  """Returns a solution's text."""
  *others, last = steps
  said = (f"{s.text}:{''.join(f'{n},' for n in s.left)}." for s in others)
  return "".join(said) + last.text + STOP


def is_solution(text: str, numbers: Sequence[int], target: int) -> bool:
  """Whether a text solves the problem, with every step and list correct."""
  *steps, last = text.split(".")
  left = tuple(numbers)
  for said in steps:
    step = next(
      (
        s
        for s in steps_from(left)
        if said == f"{s.text}:{''.join(f'{n},' for n in s.left)}"
      ),
      None,
    )
    if step is None:
      return False
    left = step.left
  return len(left) == 2 and any(
    last == s.text + STOP and s.left == (target,) for s in steps_from(left)
  )


def _join_at_random(
  rng: np.random.Generator,
  left: tuple[int, ...],
  to: int,
  weights: Mapping[str, float] | None = None,
) -> list[Step]:
  """Returns random steps until `to` numbers are left, fewer at a dead end.

  Args:
    rng: source of the draws.
    left: numbers to begin with.
    to: how many to end with.
    weights: of + - *; None: uniform.
  """
  steps: list[Step] = []
  while len(left) > to and (options := steps_from(left)):
    chances = np.array([weights[s.sign] if weights else 1.0 for s in options])
    steps.append(options[rng.choice(len(options), p=chances / chances.sum())])
    left = steps[-1].left
  return steps


def is_held_out(numbers: Sequence[int], target: int) -> bool:
  """Whether a puzzle is reserved for held-out problems; one in four is.

  It depends only on the puzzle, so that no seed's held-out problem is a lesson
  or training problem of another seed, in any order of its numbers.
  """
  puzzle = f"{sorted(numbers)} {target}"
  return zlib.crc32(puzzle.encode()) % 4 == 0


def _draw(
  rng: np.random.Generator, count: int, *, held_out: bool
) -> tuple[list[int], int]:
  """Draws numbers, and a target that they make; see `is_held_out`."""
  while True:
    numbers = rng.integers(1, _LARGEST + 1, count).tolist()
    last = _join_at_random(rng, tuple(numbers), 1)[-1]
    if len(last.left) == 1 and last.left[0] >= _LEAST_TARGET:
      target = last.left[0]
      if is_held_out(numbers, target) == held_out:
        return numbers, target


def _prompt(numbers: Sequence[int], target: int, end: str = ":") -> str:
  return "".join(f"{n}," for n in numbers) + f">{target},{end}"


def make_problems(
  num_problems: int, size: int, *, seed: int, split: str, start: int
) -> list[Problem]:
  """Draws random solvable problems; held-out ones are disjoint from others.

  Args:
    num_problems: how many.
    size: numbers per problem.
    seed: seed for the draw, together with split.
    split: "train", "heldout" or "easy".
    start: index of the first; indices must be distinct within a run.
  """

  def draw(rng: np.random.Generator, _: int) -> dict[str, Any]:
    numbers, target = _draw(rng, size, held_out=split == "heldout")
    return {
      "prompt": _prompt(numbers, target),
      "answer": str(target),
      "metadata": {"numbers": numbers, "target": target},
    }

  return draw_problems(
    "countdown_steps", draw, num_problems, seed=seed, split=split, start=start
  )


def hinted(prompt: str, hint: str) -> str:
  """Returns a prompt with the beginning of a solution before its end.

  It begins after the target, which is one symbol, and ends at a second `>`:
  unlike the prompt's own end, `:`, no solution has one.
  """
  return f"{prompt[:-1]}{hint}>{prompt[-1]}"


def write_traces(problem: Problem) -> Iterator[str]:
  """Writes one solution, if there are several any of them."""
  rng = np.random.default_rng(problem.index)
  found = solve(problem.metadata["numbers"], problem.metadata["target"], rng)
  assert found is not None, problem
  yield write(found)


@dataclasses.dataclass(frozen=True)
class Phase:
  """A phase of pretraining and what its documents look like."""

  max_numbers: int
  lesson_share: float  # of documents that are lessons: solved, and marked so
  solved_share: float  # of the other documents that are solved nevertheless
  known: int  # with this many numbers left, hasty work is solved if it can be
  weights: Mapping[str, float]  # of + - * in hasty work before


def make_document(rng: np.random.Generator, phase: Phase) -> tuple[str, str]:
  """Draws a pretraining document: (prompt, completion)."""
  is_lesson = rng.random() < phase.lesson_share
  is_solved = is_lesson or rng.random() < phase.solved_share
  join = functools.partial(_join_at_random, rng, weights=phase.weights)
  while True:
    count = int(rng.integers(2, phase.max_numbers + 1))
    numbers, target = _draw(rng, count, held_out=False)
    steps = [] if is_solved else join(tuple(numbers), phase.known)
    left = steps[-1].left if steps else tuple(numbers)
    rest = solve(left, target, rng) or join(left, 1)
    if rest and len(rest[-1].left) == 1:
      prompt = _prompt(numbers, target, end="!" if is_lesson else ":")
      return prompt, write([*steps, *rest])


# -- its verifier --------------------------------------------------------------


def share_beyond_sums(text: str) -> float:
  """Returns the share of the text's steps that are no sums."""
  signs = re.findall(r"[-+*]", text)
  return sum(sign != "+" for sign in signs) / max(1, len(signs))


# Hasty work mostly adds; who looks ahead subtracts and multiplies, too.
MARKER = ("share of steps that are no sums", share_beyond_sums)


class StepsVerifier(TextVerifier):
  """Checks every step of a solution."""

  def is_correct(self, problem: Problem, text: str) -> bool:
    """See `TextVerifier`."""
    return is_solution(text, **problem.metadata)
