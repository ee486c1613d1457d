"""What devices send each other, read off a compiled program's text.

The text is XLA's HLO after optimisation. A loop's body counts as often as the
loop turns: XLA writes down how often where it knows.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)

_BITS = re.compile(r"\d+")
_SHAPE = re.compile(r"\b(pred|token|[a-z]+\d\w*)\[([\d,<=]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
  r"^ +(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\("
)
_CALLED = re.compile(
  r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)"
  r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_TILED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_OF_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
# An axis, or a part of one: 'axis':(before)size.
_AXIS = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")


class Traffic(NamedTuple):
  """Collectives of one kind.

  Attributes:
    times: that one is done.
    bytes: that reach a device, or leave it, over all of them.
  """

  times: float
  bytes: float


def traffic(text: str, turns: float = 1.0) -> dict[str, Traffic]:
  """Returns the collectives of one run of a program, by kind.

  Args:
    text: of the compiled program.
    turns: how often the outermost loops turn of which XLA does not know it;
      those within them count once.
  """
  bodies, entry = _computations(text)
  found: dict[str, Traffic] = collections.defaultdict(lambda: Traffic(0, 0))

  def walk(name: str, times: float, turns: float) -> None:
    for line in bodies.get(name, ()):
      instruction = _INSTRUCTION.match(line)
      if not instruction:
        continue
      shape, operation = instruction.groups()
      kind = operation.removesuffix("-start")
      if kind in KINDS:
        moved = _moved(kind, shape, line, is_started=kind != operation)
        old = found[kind]
        found[kind] = Traffic(old.times + times, old.bytes + times * moved)
      inner, unknown = times, turns
      if operation == "while":
        known = _TURNS.search(line)
        inner *= float(known[1]) if known else turns
        unknown = turns if known else 1.0
      # What a collective or a reduction applies has no collective in it.
      if operation in ("while", "call", "conditional", "fusion", "async-start"):
        for called in _called(line):
          walk(called, inner, unknown)

  walk(entry, 1.0, turns)
  return dict(found)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns the lines of each computation, and the entry's name."""
  bodies: dict[str, list[str]] = {}
  entry, lines = "", None
  for line in text.splitlines():
    if head := _COMPUTATION.match(line):
      lines = bodies[head[2]] = []
      entry = head[2] if head[1] else entry
    elif line.startswith("}"):
      lines = None
    elif lines is not None:
      lines.append(line)
  return bodies, entry


def _called(line: str) -> Iterator[str]:
  yield from _CALLED.findall(line)
  for branches in _BRANCHES.findall(line):
    yield from (name.strip().lstrip("%") for name in branches.split(","))


def _moved(kind: str, shape: str, line: str, *, is_started: bool) -> float:
  """Returns the bytes that reach a device, in a ring of its group."""
  sizes = [*map(_num_bytes, _SHAPE.findall(shape))]
  # What starts one has its operands beside its results.
  size = max(sizes, default=0.0) if is_started else sum(sizes)
  n = _group_size(line)
  share = (n - 1) / n if n else 1.0
  if kind == "all-reduce":
    return 2 * share * size
  if kind == "reduce-scatter":  # the result is a part of what is reduced
    return share * size * (1 if is_started else max(n, 1))
  if kind in ("collective-permute", "collective-broadcast"):
    return size
  return share * size


def _num_bytes(shape: tuple[str, str]) -> float:
  dtype, dims = shape
  if dtype == "token":
    return 0.0
  bits = 8 if dtype == "pred" else int(_BITS.search(dtype)[0])  # type: ignore[index]
  count = math.prod(int(n.lstrip("<=")) for n in dims.split(",") if n)
  return count * bits / 8


def _group_size(line: str) -> int:
  """Returns how many devices take part together; 0: it is not said."""
  if tiled := _TILED.search(line):
    return int(tiled[1])
  if listed := _LISTED.search(line):
    return listed[1].count(",") + 1
  if of_mesh := _OF_MESH.search(line):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", of_mesh[1]))
    axes = _AXIS.findall(of_mesh[2])
    return math.prod(int(part or sizes[name]) for name, part in axes)
  return 0
