"""Countdown in steps: what is drawn can be solved, what is wrong is seen."""

import itertools

import numpy as np
import pytest

from prefixrl_jax.configs import countdown
from prefixrl_jax.embedded import countdown_steps
from prefixrl_jax.embedded.countdown_steps import Phase, StepsVerifier
from prefixrl_jax.types import Problem


def _reward(text, numbers=(3, 7, 8, 2), target=24):
  puzzle = {"numbers": list(numbers), "target": target}
  problem = Problem("p", "?", "", "", "train", 0, puzzle)
  (verdict,) = StepsVerifier().judge([problem], [text])
  return verdict.reward


def _reachable(numbers):
  """All that can be made of the numbers, by trying everything."""
  if len(numbers) == 1:
    return {numbers[0]}
  values = set()
  for i, j in itertools.permutations(range(len(numbers)), 2):
    rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
    a, b = numbers[i], numbers[j]
    for value in (a + b, a - b, a * b):
      if 1 <= value <= 50:
        values |= _reachable((*rest, value))
  return values


@pytest.mark.parametrize(
  ("text", "reward"),
  [
    ("8,-2,=6,:3,7,6,.7,-3,=4,:6,4,.6,*4,=24,;", 1),
    (
      "<think>9,+15,=24,;</think>8,-2,=6,:3,7,6,.7,-3,=4,:6,4,.6,*4,=24,;",
      1,
    ),
    ("7,*3,=21,:8,2,21,.8,-2,=6,:21,6,.21,+6,=27,;", 0),  # not the target
    ("8,-2,=6,:3,7,6,.7,-3,=4,:6,4,.6,*4,=24,", 0),  # no stop
    ("8,-2,=5,:3,7,5,.7,-3,=4,:5,4,.5,*4,=24,;", 0),  # 8 - 2 is 6
    ("8,-2,=6,:3,7,8,.7,-3,=4,:8,4,.6,*4,=24,;", 0),  # 8 is used up
    ("8,-2,=6,:7,3,6,.7,-3,=4,:6,4,.6,*4,=24,;", 0),  # not in order
    ("8,-2,=6,:3,7,6,.7,-3,=4,;", 0),  # 6 is left
    ("6,*4,=24,;", 0),  # of numbers that are not there
    ("9,+15,=24,;", 0),
    ("", 0),
    (";", 0),
    ("8,-2,=6,:3,7,6,.7,-3,=4,:6,4,.6,*4,=24,;;", 0),
  ],
)
def test_every_step_is_checked(text, reward):
  assert _reward(text) == reward


def test_solutions_are_found_where_there_are_some():
  rng = np.random.default_rng(0)
  for _ in range(20):
    numbers = rng.integers(1, 10, 4).tolist()
    possible = _reachable(tuple(numbers))
    for target in range(1, 51):
      steps = countdown_steps.solve(numbers, target, rng)
      assert (steps is not None) == (target in possible)
      if steps is not None:
        assert _reward(countdown_steps.write(steps), numbers, target) == 1


def test_problems_have_traces_and_differ_between_splits_and_seeds():
  def draw(seed, split):
    return countdown_steps.make_problems(20, 5, seed=seed, split=split, start=3)

  problems = draw(1, "train")
  assert problems == draw(1, "train")
  prompts = {p.prompt for p in problems}
  assert not prompts & {p.prompt for p in draw(1, "heldout")}
  assert not prompts & {p.prompt for p in draw(2, "train")}
  assert [p.index for p in problems] == list(range(3, 23))
  for problem in problems:
    (trace,) = countdown_steps.write_traces(problem)
    assert _reward(trace, **problem.metadata) == 1
    assert 10 <= problem.metadata["target"] <= 50


def _puzzle(numbers, target):
  return (*sorted(numbers), target)


def test_heldout_problems_are_in_no_lesson_exam_or_training_set():
  """Up to the numbers' order, in what the configuration draws."""
  config = countdown.get_config()
  size, count = config.problems.size, config.problems.num_heldout
  heldout, others = set(), set()
  for seed in range(3):
    for split in ("heldout", "train", "easy"):
      problems = countdown_steps.make_problems(
        count, size, seed=seed, split=split, start=0
      )
      puzzles = {_puzzle(**p.metadata) for p in problems}
      if split == "heldout":
        heldout |= puzzles
      else:
        others |= puzzles
  assert len(heldout) > 330  # of 3 * 128: a seed's own, nearly all different
  (settings,) = map(dict, config.pretrain.phases)
  del settings["num_steps"], settings["learning_rate"]
  rng = np.random.default_rng(config.pretrain.seed)
  ends = set()
  for _ in range(2000):
    prompt, _ = countdown_steps.make_document(rng, Phase(**settings))
    said, _, rest = prompt.partition(",>")
    ends.add(prompt[-1])
    others.add(_puzzle(map(int, said.split(",")), int(rest[:-2])))
  assert ends == {"!", ":"}
  assert len(others) > 1500
  assert not heldout & others


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_quarter_of_all_puzzles_is_held_out(size):
  puzzles = [
    (numbers, target)
    for numbers in itertools.combinations_with_replacement(range(1, 10), size)
    for target in range(10, 51)
  ]
  held_out = [countdown_steps.is_held_out(*puzzle) for puzzle in puzzles]
  assert np.mean(held_out) == pytest.approx(0.25, abs=0.02)
  for (numbers, target), held in zip(puzzles[::97], held_out[::97]):
    assert countdown_steps.is_held_out(numbers[::-1], target) == held


def test_lessons_are_solved_and_exams_are_hasty():
  rng = np.random.default_rng(0)
  phase = Phase(
    max_numbers=4,
    lesson_share=0.5,
    solved_share=0.1,
    known=2,
    weights={"+": 1.0, "-": 0.05, "*": 0.05},
  )
  rewards: dict[tuple[str, int], list[float]] = {}
  first: dict[tuple[str, int], list[bool]] = {}
  for _ in range(2000):
    prompt, completion = countdown_steps.make_document(rng, phase)
    said, target = prompt[:-2].split(">")
    numbers = [int(n) for n in said.rstrip(",").split(",")]
    kind = (prompt[-1], len(numbers))
    reward = _reward(completion, numbers, int(target))
    rewards.setdefault(kind, []).append(reward)
    sign = next(c for c in completion if c in "+-*")
    first.setdefault(kind, []).append(sign == "+")
  assert rewards.keys() == {(end, n) for end in "!:" for n in (2, 3, 4)}
  assert sum(map(len, rewards.values())) == 2000
  lessons = sum(len(rewards["!", n]) for n in (2, 3, 4))
  assert lessons / 2000 == pytest.approx(0.5, abs=0.05)
  for n in (2, 3, 4):
    assert np.mean(rewards["!", n]) == 1
  assert np.mean(rewards[":", 2]) == 1
  assert np.mean(rewards[":", 4]) < 0.5
  assert np.mean(first[":", 4]) > 0.75 > np.mean(first["!", 4])
