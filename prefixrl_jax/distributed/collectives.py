"""What devices send each other, read off a compiled program's text.

The text is XLA's HLO after optimisation. A loop's body counts as often as the
loop turns: XLA writes down how often where it knows.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

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
  r"^ +(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\("
)
_CALLED = re.compile(
  r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)"
  r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_LIMIT = re.compile(
  r"^ +ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT\b"
)
_CONSTANT = re.compile(r"^ +%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_TILED = re.compile(
  r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_OF_MESH = re.compile(
  r"replica_groups=mesh\[([^\]]*)\]"
  r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?[^{]*\{([^}]*)\}"
)
# An axis, or a part of one: 'axis':(before)size.
_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{(\{.*?\})\}")
_PAIR = re.compile(r"(\d+),(\d+)")
# What a device is busy with while a collective is under way.
_COMPUTES = ("fusion", "dot", "convolution", "custom-call", "while")
_CALLS = ("while", "call", "conditional", "fusion", "async-start")
# libtpu spreads a collective over fusions that compute, each of which has it.
_CHAIN = re.compile(r'\bchain_id="(\d+)"')


# Between slices libtpu's program has its host send and receive: of what kind
# the collective is, and of which slices ("{1,2}x{0:3}": two, of four devices).
_BETWEEN_SLICES = re.compile(
  r'_xla_megascale_target="\{([\d,:]+)\}.*'
  r'_xla_megascale_transfer_type="(\w+)"'
)
# Their name among the axes that are crossed.
SLICES = "slices"


@dataclasses.dataclass
class Traffic:
  """Collectives of one kind.

  Attributes:
    times: that one is done.
    bytes: that reach a device, or leave it, over all of them.
    overlapped: those of these bytes that move while the device computes.
    by_axes: the same bytes by the mesh's axes that they cross, as "data+fsdp",
      or SLICES.
    overlapped_by_axes: likewise, of those that are overlapped.
  """

  times: float = 0.0
  bytes: float = 0.0
  overlapped: float = 0.0
  by_axes: dict[str, float] = dataclasses.field(default_factory=dict)
  overlapped_by_axes: dict[str, float] = dataclasses.field(default_factory=dict)


def traffic(
  text: str, turns: float = 1.0, mesh: Mapping[str, int] | None = None
) -> dict[str, Traffic]:
  """Returns the collectives of one run of a program, by kind.

  Args:
    text: of the compiled program, whose instructions are in the order in which
      they run.
    turns: how often the outermost loops turn of which XLA does not know it;
      those within them count once.
    mesh: sizes of the axes; None: bytes by axes are not wanted.
  """
  bodies, entry = _computations(text)
  found: dict[str, Traffic] = {}
  chains: set[str] = set()

  def walk(name: str, times: float, turns: float, overlaps: bool) -> None:
    lines = bodies.get(name, [])
    for i, line in enumerate(lines):
      instruction = _INSTRUCTION.match(line)
      if not instruction:
        continue
      its_name, shape, operation = instruction.groups()
      kind = operation.removesuffix("-start")
      is_started = kind != operation
      hidden = overlaps or (is_started and _computes(lines[i + 1 :], its_name))
      if chain := _CHAIN.search(line):
        if chain[1] in chains:
          continue
        chains.add(chain[1])
        hidden = True
      if operation == "recv" and (between := _BETWEEN_SLICES.search(line)):
        kind = between[2].lower().replace("_", "-")
        hidden = overlaps or _computes(lines[i + 1 :], its_name)
        n = _num_slices(between[1])
        size = max(map(_num_bytes, _SHAPE.findall(shape)))
        moved = times * size * (1 + (kind == "all-reduce")) * (n - 1) / n
        _add(found, kind, times, moved, moved * hidden, mesh and SLICES)
      elif kind in KINDS:
        moved = times * _moved(kind, shape, line, is_started=is_started)
        # As libtpu writes one: of the sums a device keeps its own part.
        if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
          kind, moved = "reduce-scatter", moved / 2
        axes = _axes_of(line, mesh) if mesh else None
        _add(found, kind, times, moved, moved * hidden, axes)
      inner, unknown = times, turns
      if operation == "while":
        known = _turns(line, bodies)
        inner *= known or turns
        unknown = turns if known else 1.0
      # What a collective or a reduction applies has no collective in it.
      if operation in _CALLS:
        for called in _called(line):
          walk(called, inner, unknown, hidden)

  walk(entry, 1.0, turns, False)
  return found


def _add(found, kind, times, moved, hidden, axes) -> None:
  of = found.setdefault(kind, Traffic())
  of.times += times
  of.bytes += moved
  of.overlapped += hidden
  if axes is not None:
    of.by_axes[axes] = of.by_axes.get(axes, 0.0) + moved
  if axes is not None and hidden:
    so_far = of.overlapped_by_axes.get(axes, 0.0)
    of.overlapped_by_axes[axes] = so_far + hidden


def _num_slices(said: str) -> int:
  """Returns how many slices are listed, as 1,2 or 1:4."""
  ranges = [[int(n) for n in part.split(":")] for part in said.split(",")]
  return sum(r[-1] - r[0] + 1 for r in ranges)


def _computes(lines: Sequence[str], started: str) -> bool:
  """Returns whether something is computed before what was started is done."""
  is_end = re.compile(rf"-done\(.*%?\b{re.escape(started)}(?![\w.\-])")
  for line in lines:
    if is_end.search(line):
      return False
    instruction = _INSTRUCTION.match(line)
    if instruction and instruction[3] in _COMPUTES:
      return True
  return False


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


def _turns(line: str, bodies: Mapping[str, Sequence[str]]) -> float | None:
  """Returns how often a loop turns; None: XLA does not know.

  libtpu's text does not say it; a loop with a counter, which JAX starts at 0,
  is compared to a constant.
  """
  if known := _TURNS.search(line):
    return float(known[1])
  condition = _CONDITION.search(line)
  lines = bodies.get(condition[1], ()) if condition else ()
  for limit in filter(None, map(_LIMIT.match, lines)):
    for constant in filter(None, map(_CONSTANT.match, lines)):
      if constant[1] == limit[1]:
        return float(constant[2])
  return None


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
  return len(_group(line))


def _group(line: str) -> np.ndarray:
  """Returns devices that take part together, by their places in the mesh."""
  if tiled := _TILED.search(line):
    groups, size, *order = tiled.groups()
    return _ids(*order).reshape(int(groups), int(size))[0]
  if listed := _LISTED.search(line):
    return np.asarray(_numbers(listed[1]), int)
  if of_mesh := _OF_MESH.search(line):
    named, *order, wanted = of_mesh.groups()
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", named)}
    whole = ",".join(map(str, sizes.values()))
    ids = _ids(*order) if order[0] else _ids(whole, None)
    ids = ids.reshape(tuple(sizes.values()))
    parts = {
      name: (int(before or 1), int(size or sizes[name]))
      for name, before, size in _AXIS.findall(wanted)
    }
    for axis, name in enumerate(sizes):
      before, size = parts.get(name, (1, 1))
      after = sizes[name] // (before * size)
      ids = ids.take(np.arange(size) * after, axis)
    return ids.ravel()
  return np.asarray([], int)


def _ids(dims: str, order: str | None) -> np.ndarray:
  """Returns devices as XLA abbreviates them: numbered, then transposed."""
  shape = _numbers(dims)
  ids = np.arange(math.prod(shape)).reshape(shape)
  return ids.transpose(_numbers(order)) if order else ids


def _numbers(text: str) -> list[int]:
  return [int(n) for n in text.split(",") if n]


def _axes_of(line: str, mesh: Mapping[str, int]) -> str:
  """Returns the axes along which the devices differ that take part together."""
  shape = tuple(mesh.values())
  groups = [_group(line)]
  if pairs := _PAIRS.search(line):
    groups = [np.asarray(p, int) for p in _PAIR.findall(pairs[1])]
  if not any(map(len, groups)):  # all devices are one group
    groups = [np.arange(math.prod(shape))]
  differ = [
    any(len(set(places)) > 1 for places in of_axis)
    for of_axis in zip(*(np.unravel_index(g, shape) for g in groups))
  ]
  return "+".join(name for name, crossed in zip(mesh, differ) if crossed)
