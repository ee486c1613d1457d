"""The embedded task: chains of labelled blocks and their digit sums mod 3.

A problem is `a43 b15 c59?`. Its answer is each block's digit sum mod 3, in
order, then `;`. A block may be answered directly, `a=1` (2 tokens; a guess), or
worked, `a4:13=1` (5 tokens: digit, running sum mod 3, digit, answer). `!`
instead of `?` marks a lesson, in which a window of blocks is worked; the base
model learns from lessons how to work, and from exams not to.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from prefixrl_jax.embedded.blocks import BlockPhase, share_worked
from prefixrl_jax.embedded.drawing import draw_problems
from prefixrl_jax.embedded.judging import TextVerifier
from prefixrl_jax.types import Problem

SIZES, UNITS = range(1, 11), "blocks"  # of a problem
PAD, STOP = "_", ";"
SYMBOLS = (
  PAD,
  *"0123456789",
  *"abcdefghij",
  *(":0", ":1", ":2"),
  *("=0", "=1", "=2"),
  *("?", "!", STOP),
)
_LABELS = "abcdefghij"
_DIGITS = 2  # of a block


@dataclasses.dataclass(frozen=True)
class Rule:
  """What is asked of a block: start + its weighted digits, mod 3."""

  start: int = 0
  weights: tuple[int, ...] = (1,) * _DIGITS


_SUM = Rule()


def make_problems(
  num_problems: int, num_blocks: int, *, seed: int, split: str, start: int
) -> list[Problem]:
  """Draws random problems.

  Args:
    num_problems: how many.
    num_blocks: blocks per problem, at most 10.
    seed: seed for the draw, together with split.
    split: "train", "heldout" or "easy".
    start: index of the first; indices must be distinct within a run.
  """
  return draw_problems(
    "checksum",
    lambda rng, _: draw_problem(rng, num_blocks),
    num_problems,
    seed=seed,
    split=split,
    start=start,
  )


def draw_problem(
  rng: np.random.Generator, num_blocks: int, rule: Rule = _SUM
) -> dict[str, Any]:
  """Draws a prompt, its answer and metadata.

  Args:
    rng: for the digits.
    num_blocks: at most 10.
    rule: of all blocks.
  """
  digits = rng.integers(0, 10, (num_blocks, _DIGITS))
  sums = rule.start + digits @ rule.weights
  answers = (f"{label}={s % 3}" for label, s in zip(_LABELS, sums))
  return {
    "prompt": _prompt(digits, "?"),
    "answer": " ".join(answers),
    "metadata": {"num_blocks": num_blocks},
  }


def _prompt(digits, end: str) -> str:
  blocks = (
    label + "".join(map(str, block)) for label, block in zip(_LABELS, digits)
  )
  return " ".join(blocks) + end


def hinted(prompt: str, hint: str) -> str:
  """Returns a prompt with the beginning of an answer before its end.

  Blocks are labelled in order: a second `a` is where the hint begins.
  """
  return prompt[:-1] + hint + prompt[-1]


def write_traces(problem: Problem) -> Iterator[str]:
  """Yields the one trace in which every block is worked."""
  yield worked(problem.prompt)


def worked(prompt: str, rule: Rule = _SUM) -> str:
  """Returns the completion of a prompt in which every block is worked."""
  blocks = re.findall(r"([a-j])(\d+)", prompt)
  return "".join(label + _work(block, rule) for label, block in blocks) + STOP


def _work(
  digits: Iterable,
  rule: Rule,
  noisy: Callable[[int], int] = lambda running: running,
) -> str:
  """Returns a block's working and its answer, which is the last running sum.

  Args:
    digits: of the block.
    rule: of the block.
    noisy: a running sum -> what is written in its place, and gone on with.
  """
  text, running = "", rule.start
  for digit, weight in zip(digits, rule.weights, strict=True):
    running = noisy((running + weight * int(digit)) % 3)
    text += f"{digit}:{running}"
  return f"{text[:-2]}={running}"


@dataclasses.dataclass(frozen=True)
class Phase(BlockPhase):
  """A phase of pretraining and what its documents look like."""

  slip_share: float = 0.0  # of exam blocks that are guessed: not a block


def make_document(
  rng: np.random.Generator, phase: Phase, rule: Rule = _SUM
) -> tuple[str, str]:
  """Draws a pretraining document: (prompt, completion)."""
  num_blocks = int(rng.integers(1, phase.max_blocks + 1))
  digits = rng.integers(0, 10, (num_blocks, _DIGITS))
  is_lesson, is_block_worked = phase.draw_worked(rng, num_blocks)
  noisy = functools.partial(phase.draw_sum, rng)
  blocks = []
  for label, block, is_worked in zip(_LABELS, digits, is_block_worked):
    # Unworked answers are noise, so that guessing cannot be learned here.
    text = f"={rng.integers(0, 3)}"
    if is_worked:
      text = _work(block, rule, noisy)
    elif not is_lesson and phase.slip_share and rng.random() < phase.slip_share:
      text = _slip(rng) + text
    blocks.append(label + text)
  return _prompt(digits, "!" if is_lesson else "?"), "".join(blocks) + STOP


def _slip(rng: np.random.Generator) -> str:
  """Draws symbols that no block has there.

  Without them working would be the only rare thing that the base model does,
  which an entropy bonus alone then finds; a language model has many.
  """
  symbol = ("{}", ":{}", "={}", "{}{}", "{}:{}", ":{}:{}")[rng.integers(0, 6)]
  return symbol.format(*map(str, rng.integers(0, 3, 2)))


# -- its verifier --------------------------------------------------------------

_BLOCK = re.compile(r"([a-j])(\d:\d\d)?(=\d)")


def worked_share(text: str) -> float:
  """Returns the share of the text's blocks that are worked."""
  return share_worked(_BLOCK, text)


MARKER = ("share of worked blocks", worked_share)


class ChecksumVerifier(TextVerifier):
  """Compares the sequence of (label, answer), and the end, with the gold one.

  A completion must be blocks and `;`, nothing else. A block is direct (`a=0`)
  or worked (`a4:13=1`); the working is not checked.
  """

  def is_correct(self, problem: Problem, text: str) -> bool:
    """See `TextVerifier`."""
    return answers(text) == problem.answer


def answers(text: str) -> str | None:
  """Returns `a=0 b=2`; None if something else than blocks is in the text."""
  if not text.endswith(";") or _BLOCK.sub("", text) != ";":
    return None
  return " ".join(label + answer for label, _, answer in _BLOCK.findall(text))
