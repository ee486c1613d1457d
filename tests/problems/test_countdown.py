"""Countdown and parities: solvable problems, right answers, worked traces."""

import ast
import itertools
import json
import pathlib
import re
from collections import Counter
from fractions import Fraction

import pytest

from prefixrl_jax.configs import math
from prefixrl_jax.problems import countdown, parities
from prefixrl_jax.problems.loading import load_parts
from prefixrl_jax.problems.reading import Draw, Getter, Skip
from prefixrl_jax.types import Problem, UserError

_GAMES = pathlib.Path(__file__).parents[3] / "shared" / "data/game24/all.jsonl"
_COLUMNS = {"numbers": "numbers", "target": "target"}


def _draw(level, seed=0, max_number=25):
  return Draw("", level, max_number, seed, 100)


def _value(expression):
  """An independent reading: Python's own precedence, exact numbers."""
  exact = re.sub(r"\d+", lambda m: f"Fraction({m[0]})", expression)
  tree = ast.parse(exact, mode="eval")
  return eval(compile(tree, "", "eval"), {"Fraction": Fraction})


def _is_solution(expression, numbers, target):
  used = Counter(map(int, re.findall(r"\d+", expression)))
  return used == Counter(numbers) and _value(expression) == target


@pytest.mark.parametrize("level", ["", "2", "3", "5"])
def test_drawn_problems_have_the_answer_they_say(level):
  rows = list(itertools.islice(countdown.generate(_draw(level)), 20))
  for row in rows:
    assert len(row["numbers"]) == int(level or 4)
    assert 1 <= row["target"] <= 100
    parts = countdown.read(Getter(_COLUMNS, row))
    assert _is_solution(parts.answer, row["numbers"], row["target"])
    numbers = sorted(row["numbers"])
    assert parts.metadata == {
      "numbers": numbers,
      "target": row["target"],
      "use_all": True,
    }
    listed = ", ".join(map(str, numbers))
    assert f"numbers {listed} exactly once" in parts.prompt


def test_draws_repeat_and_differ_by_seed():
  some = lambda seed: list(
    itertools.islice(countdown.generate(_draw("4", seed)), 5)
  )
  assert some(1) == some(1) != some(2)


@pytest.mark.parametrize(
  ("numbers", "target", "found"),
  [
    ([3, 3, 8, 8], 24, True),  # 8 / (3 - 8 / 3): fractions on the way
    ([1, 5, 5, 5], 24, True),
    ([1, 1, 1, 1], 24, False),
    ([7, 7, 0], 1, True),
    ([0, 0], 1, False),  # nothing is divided by 0
  ],
)
def test_the_solver_is_exact(numbers, target, found):
  solution = countdown.solve(numbers, target)
  assert (solution is not None) == found
  if found:
    assert _is_solution(solution[0], numbers, target)


@pytest.mark.parametrize("task", ["countdown", "game24", "parities"])
def test_heldout_problems_are_no_training_problems_in_another_order(task):
  config = math.get_config(f"task={task},trial=true").problems
  num_train = 15 if task == "game24" else 150  # its solver takes longest
  config.update(num_train=num_train, num_heldout=50, max_number=9)
  if task == "countdown":
    config.level = "3"
  train, heldout = (
    [_puzzle(p) for p in part.problems] for part in load_parts(config, seed=0)
  )
  assert (len(train), len(heldout)) == (num_train, 50)
  assert len({*train, *heldout}) == num_train + 50


def _puzzle(problem):
  """What a problem is whatever the order of its numbers; blocks have one."""
  known = problem.metadata
  if "blocks" in known:
    return tuple(known["blocks"])
  return (*sorted(known["numbers"]), known["target"])


def test_unsolvable_rows_are_skipped():
  row = {"numbers": [1, 1, 1, 1], "target": 24}
  with pytest.raises(Skip, match="no solution"):
    countdown.read(Getter(_COLUMNS, row))


def test_games_of_24_are_those_that_people_play():
  if not _GAMES.exists():
    pytest.skip(f"{_GAMES} is absent")
  rows = [json.loads(line) for line in _GAMES.read_text().splitlines()]
  for row in rows[::10]:
    expression, _ = countdown.solve(row["numbers"], row["target"])
    assert _is_solution(expression, row["numbers"], 24)
  theirs = {tuple(sorted(row["numbers"])) for row in rows}
  ours = itertools.islice(countdown.generate_24(_draw("")), 100)
  assert {tuple(row["numbers"]) for row in ours} <= theirs


def test_traces_are_worked_step_by_step():
  numbers, target = [4, 6, 8, 10], 24
  problem = Problem(
    "p", "", "", "", "", 3, {"numbers": numbers, "target": target}
  )
  traces = list(countdown.write_traces(problem))
  assert traces == list(countdown.write_traces(problem))
  assert len(set(traces)) > 1
  for trace in traces:
    *steps, answer = trace.split("\n")
    left = Counter(map(Fraction, numbers))
    for step in steps:
      a, b, value, rest = re.fullmatch(
        r"(\S+) [-+*/] (\S+) = (\S+), left: (.*)", step
      ).groups()
      assert _value(step.split(" = ")[0]) == Fraction(value)
      left = left - Counter(map(Fraction, (a, b))) + Counter([Fraction(value)])
      assert left == Counter(map(Fraction, rest.split(", ")))
    boxed = answer.removeprefix("\\boxed{").removesuffix("}")
    assert _is_solution(boxed, numbers, target)


@pytest.mark.parametrize(
  ("generate", "level", "message"),
  [
    (countdown.generate, "hard", r"'hard': countdown's level is the number"),
    (countdown.generate_24, "3", r"where config\.problems\.file has its rank"),
    (parities.generate, "1", r"'1': parities' level is the number"),
    (parities.generate, "x", r"'x': parities' level is the number"),
  ],
)
def test_a_level_that_there_is_not(generate, level, message):
  with pytest.raises(UserError, match=message):
    next(generate(_draw(level)))


def test_parities_chain():
  parts = parities.read(
    Getter({"blocks": "blocks"}, {"blocks": ["1000", "0110", "0111"]})
  )
  assert parts.answer == "(1, 1, 0)"
  problem = Problem("p", "", parts.answer, "", "", 0, parts.metadata)
  assert list(parities.write_traces(problem)) == [
    "1000: 0 + 1 ones, parity 1\n0110: 1 + 2 ones, parity 1\n"
    "0111: 1 + 3 ones, parity 0\n\\boxed{(1, 1, 0)}"
  ]
  drawn = next(parities.generate(_draw("5")))
  assert len(drawn["blocks"]) == 5
  assert all(re.fullmatch("[01]{4}", block) for block in drawn["blocks"])
