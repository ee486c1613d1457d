"""Chain of parities: ones are counted block by block, modulo 2.

A generated task whose difficulty is its length: each parity needs the one
before, and a guess at k of them is right once in 2^k.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from prefixrl_jax.problems.reading import Draw, Getter, Reading
from prefixrl_jax.types import Problem, UserError

_WIDTH = 4  # bits of a block


def read(get: Getter) -> Reading:
  """Blocks of bits; the answer is a tuple of running parities."""
  blocks = list(get("blocks"))
  parities = np.cumsum([b.count("1") for b in blocks]) % 2
  return Reading(
    f"Blocks: {' '.join(blocks)}\n\nThe parity of a block is the number of ones"
    " in it and in all blocks before it, modulo 2. Give the parities of all"
    " blocks, in order, as a tuple in \\boxed{}.",
    f"({', '.join(map(str, parities))})",
    {"blocks": blocks},
  )


def generate(draw: Draw) -> Iterator[dict[str, Any]]:
  """Draws problems without end; the level is the number of blocks, else 8.

  Raises:
    UserError: there is no such level.
  """
  if draw.level and not (draw.level.isdecimal() and int(draw.level) > 1):
    raise UserError(
      f"config.problems.level = {draw.level!r}: parities' level is the"
      " number of blocks, at least 2."
    )
  count = int(draw.level or 8)
  rng = np.random.default_rng([draw.seed, 2])
  while True:
    bits = rng.integers(0, 2, (count, _WIDTH))
    yield {"blocks": ["".join(map(str, block)) for block in bits.tolist()]}


def write_traces(problem: Problem) -> Iterator[str]:
  """Yields the only solution: block by block, the answer last."""
  total, lines = 0, []
  for block in problem.metadata["blocks"]:
    ones = block.count("1")
    lines.append(f"{block}: {total} + {ones} ones, parity {(total + ones) % 2}")
    total = (total + ones) % 2
  yield "\n".join([*lines, f"\\boxed{{{problem.answer}}}"])
