"""Several skills in one: checksum's chains, of twelve kinds.

A problem is of one kind, whose letter is before each of its symbols: `Ca C4 C3
Cb C1 C5 C?`. A kind has its own symbols, so that a model learns to work out the
blocks of each for itself, its own rule, and its own rate at which exams work
blocks out: from `Phase.worked_share` for A, down in equal ratios to
`rarest_share` for L. The verifier wants the answers of `checksum`, in symbols
of the problem's kind alone.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from prefixrl_jax.embedded import checksum
from prefixrl_jax.embedded.checksum import PAD, SIZES, STOP, UNITS, Rule
from prefixrl_jax.embedded.drawing import draw_problems
from prefixrl_jax.types import Problem

__all__ = ["PAD", "SIZES", "STOP", "UNITS"]

# No two have the same.
RULES = {
  letter: Rule(start, (first, second))
  for letter, (start, first, second) in zip(
    "ABCDEFGHIJKL",
    ((s, a, b) for a in (1, 2) for b in (1, 2) for s in (0, 1, 2)),
  )
}
_KINDS = "".join(RULES)
_OF_A_KIND = [s for s in checksum.SYMBOLS if s not in (PAD, STOP)]
SYMBOLS = (PAD, *(k + s for k in _KINDS for s in _OF_A_KIND), STOP)
_SYMBOL = re.compile(r"[=:]\d|[a-j0-9?!]")


def make_problems(
  num_problems: int, num_blocks: int, *, seed: int, split: str, start: int
) -> list[Problem]:
  """Draws random problems, of each kind as many, one kind after the other.

  Args:
    num_problems: how many.
    num_blocks: blocks per problem, at most 10.
    seed: seed for the draw, together with split.
    split: "train", "heldout" or "easy".
    start: index of the first; indices must be distinct within a run.
  """

  def draw(rng: np.random.Generator, i: int) -> dict[str, Any]:
    kind = _KINDS[i % len(_KINDS)]
    drawn = checksum.draw_problem(rng, num_blocks, RULES[kind])
    return drawn | {
      "prompt": _in_kind(drawn["prompt"], kind),
      "metadata": drawn["metadata"] | {"kind": kind},
    }

  return draw_problems(
    "skills", draw, num_problems, seed=seed, split=split, start=start
  )


def _in_kind(text: str, kind: str) -> str:
  return _SYMBOL.sub(lambda symbol: kind + symbol[0], text)


def _without_kind(text: str, kind: str) -> str:
  """Returns checksum's text; empty if it has a symbol of another kind."""
  symbol = f"{kind}({_SYMBOL.pattern})"
  is_whole = re.fullmatch(f"({symbol})*{STOP}?", text)
  return re.sub(symbol, r"\1", text) if is_whole else ""


def hinted(prompt: str, hint: str) -> str:
  """Returns a prompt with the beginning of an answer before its end."""
  return prompt[:-2] + hint + prompt[-2:]


def write_traces(problem: Problem) -> Iterator[str]:
  """Yields the one trace in which every block is worked."""
  kind = problem.prompt[0]
  plain = problem.prompt.replace(kind, "")
  yield _in_kind(checksum.worked(plain, RULES[kind]), kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase(checksum.Phase):
  """A phase of pretraining; worked_share is the first kind's."""

  rarest_share: float  # of exam blocks that are worked, of the last kind


def make_document(rng: np.random.Generator, phase: Phase) -> tuple[str, str]:
  """Draws a pretraining document: (prompt, completion)."""
  i = int(rng.integers(0, len(_KINDS)))
  step = phase.rarest_share / phase.worked_share
  share = phase.worked_share * step ** (i / (len(_KINDS) - 1))
  of_kind = dataclasses.replace(phase, worked_share=share)
  document = checksum.make_document(rng, of_kind, RULES[_KINDS[i]])
  prompt, completion = (_in_kind(text, _KINDS[i]) for text in document)
  return prompt, completion


def worked_share(text: str) -> float:
  """Returns the share of the text's blocks that are worked."""
  return checksum.worked_share(re.sub(f"[{_KINDS}]", "", text))


MARKER = (checksum.MARKER[0], worked_share)


class SkillsVerifier(checksum.ChecksumVerifier):
  """Compares answers in the problem's kind alone."""

  def is_correct(self, problem: Problem, text: str) -> bool:
    """See `TextVerifier`."""
    plain = _without_kind(text, problem.prompt[0])
    return super().is_correct(problem, plain)
