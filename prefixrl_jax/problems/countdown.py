"""Countdown and the game of 24: make a target of some numbers.

Solvable problems, the solver that finds their solutions, and worked traces by
rule. Sums are exact: fractions, never floats.
"""

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from prefixrl_jax.problems.reading import Draw, Getter, Reading, Skip
from prefixrl_jax.types import Problem, UserError


class _Term(NamedTuple):
  """A number of the problem, or an expression that joins some of them."""

  value: Fraction
  text: str
  sign: str = ""  # that joined it last
  made: str = ""  # "10 - 4 = 6"


class Step(NamedTuple):
  """Two of the numbers become one."""

  text: str  # "10 - 4 = 6"
  left: tuple[Fraction, ...]  # all numbers that are left then


def read(get: Getter) -> Reading:
  """Numbers and a target; the answer is a solution that we find.

  The numbers are sorted, so that two copies of a puzzle are recognised as such
  whatever the order of their numbers.

  Raises:
    Skip: there is no solution.
  """
  numbers = sorted(int(n) for n in get("numbers"))
  target = int(get("target"))
  found = solve(numbers, target)
  if found is None:
    raise Skip("no solution")
  listed = ", ".join(map(str, numbers))
  return Reading(
    f"Use each of the numbers {listed} exactly once, with +, -, *, / and"
    f" brackets, to make {target}. Give the expression in \\boxed{{}}.",
    found[0],
    {"numbers": numbers, "target": target, "use_all": True},
  )


def generate(draw: Draw) -> Iterator[dict[str, Any]]:
  """Draws solvable problems without end.

  The level is the number of numbers, 2 to 6; 4 by default. They are joined at
  random, and the result is the target if it is a whole number from 1 to four
  times `max_number`.

  Raises:
    UserError: there is no such level.
  """
  if draw.level not in ("", "2", "3", "4", "5", "6"):
    raise UserError(
      f"config.problems.level = {draw.level!r}: countdown's level is the"
      " number of numbers, 2 to 6."
    )
  rng = np.random.default_rng([draw.seed, 24])
  while True:
    size = int(draw.level or 4)
    numbers = rng.integers(1, draw.max_number + 1, size).tolist()
    terms = [_Term(Fraction(n), str(n)) for n in numbers]
    while len(terms) > 1:
      i, j = rng.permutation(len(terms))[:2].tolist()
      rest = [t for k, t in enumerate(terms) if k not in (i, j)]
      options = _joined(terms[i], terms[j])
      terms = [*rest, options[int(rng.integers(len(options)))]]
    target = terms[0].value
    if target.denominator == 1 and 1 <= target <= 4 * draw.max_number:
      yield {"numbers": numbers, "target": int(target)}


def generate_24(draw: Draw) -> Iterator[dict[str, Any]]:
  """All games of 24 that have a solution, 1,362 of them, in random order.

  Raises:
    UserError: a level is asked for.
  """
  if draw.level:
    raise UserError(
      f"config.problems.level = {draw.level!r}: a game of 24 has a level where"
      " config.problems.file has its rank."
    )
  games = list(itertools.combinations_with_replacement(range(1, 14), 4))
  np.random.default_rng([draw.seed, 24]).shuffle(games)
  for numbers in games:
    if solve(numbers, 24):
      yield {"numbers": [int(n) for n in numbers], "target": 24}


def solve(
  numbers: Sequence[int], target: int, rng: np.random.Generator | None = None
) -> tuple[str, list[Step]] | None:
  """Returns an expression and its steps, or None if there is no solution.

  Args:
    numbers: each is used once.
    target: what they must make.
    rng: chooses among the solutions; None: the first one found.
  """
  dead: set[tuple[Fraction, ...]] = set()

  def search(terms: list[_Term]) -> tuple[str, list[Step]] | None:
    if len(terms) == 1:
      return (terms[0].text, []) if terms[0].value == target else None
    state = tuple(sorted(t.value for t in terms))
    if state in dead:
      return None
    pairs = list(itertools.combinations(range(len(terms)), 2))
    if rng is not None:
      rng.shuffle(pairs)
    for i, j in pairs:
      rest = [t for k, t in enumerate(terms) if k not in (i, j)]
      options = _joined(terms[i], terms[j])
      if rng is not None:
        options = [options[k] for k in rng.permutation(len(options))]
      for new in options:
        found = search([*rest, new])
        if found:
          step = Step(new.made, tuple(t.value for t in (*rest, new)))
          return found[0], [step, *found[1]]
    dead.add(state)
    return None

  return search([_Term(Fraction(n), str(n)) for n in numbers])


def write_traces(problem: Problem, count: int = 4) -> Iterator[str]:
  """Yields solutions step by step, each found in a different order.

  Each step lists the numbers that are left, so that any beginning can be
  continued; the answer comes last.
  """
  numbers, target = problem.metadata["numbers"], problem.metadata["target"]
  for attempt in range(count):
    rng = np.random.default_rng([problem.index, attempt])
    found = solve(numbers, target, rng)
    if found is None:
      return
    expression, steps = found
    lines = [
      f"{step.text}, left: {', '.join(map(str, step.left))}" for step in steps
    ]
    yield "\n".join([*lines, f"\\boxed{{{expression}}}"])


def _joined(a: _Term, b: _Term) -> list[_Term]:
  """Returns every result of joining two numbers.

  Negative differences are left out: whatever they solve, their opposites solve
  too.
  """
  if a.value < b.value:
    a, b = b, a
  ways = [(a, b, "+"), (a, b, "-"), (a, b, "*")]
  if b.value:
    ways.append((a, b, "/"))
  if a.value and a.value != b.value:
    ways.append((b, a, "/"))
  return [_join(*way) for way in ways]


def _join(x: _Term, y: _Term, sign: str) -> _Term:
  value = {
    "+": x.value + y.value,
    "-": x.value - y.value,
    "*": x.value * y.value,
    "/": x.value / (y.value or 1),
  }[sign]
  left = _within(x, "+-" if sign in "*/" else "")
  right = _within(y, {"+": "", "-": "+-", "*": "+-", "/": "+-*/"}[sign])
  return _Term(
    value,
    f"{left} {sign} {right}",
    sign,
    f"{x.value} {sign} {y.value} = {value}",
  )


def _within(term: _Term, weaker: str) -> str:
  """Returns a term's text, in brackets if its operator binds less tightly."""
  return f"({term.text})" if term.sign and term.sign in weaker else term.text
