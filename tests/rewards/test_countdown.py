"""Countdown and the game of 24: value, numbers, and nothing but arithmetic."""

import json
import pathlib

import pytest
from watching import ends

from prefixrl_jax.rewards.countdown import CountdownVerifier, is_solution
from prefixrl_jax.types import Problem

_GAME24 = pathlib.Path(__file__).parents[3] / "shared/data/game24"


def _reward(text, *, numbers=(4, 7, 8, 8), target=24, use_all=True):
  puzzle = {"numbers": list(numbers), "target": target, "use_all": use_all}
  problem = Problem("p", "?", "", "", "train", 0, puzzle)
  (verdict,) = CountdownVerifier().judge([problem], [text])
  return verdict.reward


@pytest.mark.parametrize(
  "text",
  [
    "(7 - 8/8) * 4",
    "(7 - 8/8) * 4 = 24",
    r"\boxed{(7 - \frac88) \cdot 4}",
    "<answer>**(7 - 8/8) * 4**</answer>",
    "<answer>`(7 - 8/8) * 4`</answer>",
    "(7 − 8÷8) × 4 = 24.",
    "(7 - 8/8) x 4",
    "4 x(7 - 8/8)",
    r"\boxed{(7 - \frac{8}{8}) \cdot 4}",
    r"\boxed{\left(7 - 8 \div 8\right) \times 4 = 24}",
    "8 / 8 = 1\n7 - 1 = 6\nAnswer: (7 - 8 / 8) * 4 = 24",
    r"The answer is $4 \times (7 - \dfrac{8}{8})$.",
    "-(8/8 - 7) * 4",
    # As long as one likes to write it.
    "(7 - 8/8)" + " " * 3000 + "* 4",
    r"\boxed{\left("
    + " " * 3000
    + r"7 - \frac{8}{8}"
    + r"\, " * 900
    + r"\right) * 4}",
    r"\boxed{{7 - \tfrac {8} {8}} \cdot 4}",
    "\\boxed{(7 -\n8/8) * 4}",
    r"<think>4 * 7 or \boxed{8 * 4}?</think>(7 - 8/8) * 4",
  ],
)
def test_right(text):
  assert _reward(text) == 1


@pytest.mark.parametrize(
  "text",
  [
    "",
    "24",
    r"\boxed{24}",
    "= 24",
    "4 7 8 8",
    "4, 7, 8, 8",
    "4 + 7 + 8 + 8 = 24",
    "(7 - 8/8) * 4 = 25",
    "(7 - 8/8) * 4 = 24 = 24",
    "24 = (7 - 8/8) * 4",
    "8 * (7 - 4)",  # one 8 is left
    "(7 - 8/8) * 4 + 8 - 8",  # 8 four times
    "8 + 8 + 8",
    "(7 - 8/8) * 4 or 8 * (7 - 4)",
    r"\boxed{(7 - 8/8) * 4} \boxed{8 * (7 - 4)}",
    r"\boxed{8 * (7 - 4)}. But another one may be right, let me see:"
    r" \boxed{(7 - 8/8) * 4}",
    "(7 - 8//8) * 4",
    "(7 - 8**0) * 4 + 8 - 8",
    "4 * 7 - 8 + 8 / (8 - 8)",
    "(7 - 8/8) * +4",
    "(7 - 8/8)4",
    "(7 - 8/8) * 4.0",
    "(7 - 8/8) * 4 # 24",
    "(7 - 8/8) * 4 if 1 else 0",
    "__import__('os').getpid()",
    "[7, 8, 8, 4][0]",
    "24 * (8 - 7) * 4 / 4",
    "2 4",
    "9**9**9**9",
    "4" * 100_000,
    "+".join(["8"] * 50_000),
    "(" * 100_000,
    "(" * 140 + "(7 - 8/8) * 4" + ")" * 140 + "+0",
    # What stands far before or behind counts.
    "8 + " + " " * 3000 + "(7 - 8/8) * 4",
    r"8 + " + r"\, " * 3000 + "(7 - 8/8) * 4",
    "8 + " * 900 + "(7 - 8/8) * 4",
    "(7 - 8/8) * 4" + " " * 3000 + "+ 1",
    "(7 - 8/8) * 4 = 24" + " " * 3000 + "= 25",
    "(7 - 8/8) * 4" + r"\, " * 900 + " or 4 * 7",
    r"(7 - 8/8) * 4 \left." + r"\!" * 2000 + r"\right] + 8",
    "<think>(7 - 8/8) * 4</think>",
    r"(7 - \frac{8}) * 4",
    r"{(7 - \frac{8}{8}) * 4",
    r"\frac{" * 10_000,
    r"\frac{" * 10_000 + "8" + "}{8}" * 10_000,
    "{" * 50_000 + "}" * 50_000,
    r"\frac{8}{8}" * 10_000,
  ],
  ids=lambda text: text[:30],
)
def test_wrong_and_soon_known_to_be(text):
  with ends():
    assert _reward(text) == 0
    assert _reward(rf"\boxed{{{text}}}") == 0


def test_countdown_may_leave_numbers_and_is_exact():
  puzzle = dict(numbers=[3, 3, 8, 8], target=24)
  assert is_solution("8 / (3 - 8/3)", use_all=True, **puzzle)  # by thirds
  assert is_solution(r"\frac{8}{3 - \frac{8}{3}}", use_all=True, **puzzle)
  assert is_solution("8 * 3", use_all=False, **puzzle)
  assert not is_solution("8 * 3", use_all=True, **puzzle)
  assert not is_solution("8 * 3 + 3 - 3", use_all=False, **puzzle)
  big = dict(numbers=[10**9, 3, 3], target=10**9, use_all=False)
  assert is_solution("1000000000 / 3 * 3", **big)
  assert not is_solution("1000000000", numbers=[1], target=10**9, use_all=False)


def test_game24_has_no_puzzle_that_its_numbers_alone_solve():
  files = sorted(_GAME24.glob("*.jsonl"))
  if not files:
    pytest.skip(f"{_GAME24} is absent")
  rows = [json.loads(line) for line in files[0].read_text().splitlines()]
  assert rows
  for row in rows[:300]:
    numbers = row["numbers"]
    said = " ".join(map(str, numbers))
    assert _reward(said, numbers=numbers) == 0
    assert _reward(f"Answer: {said} = 24", numbers=numbers) == 0
