"""Trees of host arrays become the packed rows of a TrainBatch.

In this module a row is a packed row.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prefixrl_jax.batches import TrainBatch
from prefixrl_jax.rounding import ceil_div, round_up
from prefixrl_jax.types import UserError

# Rows are whole multiples of this many tokens: what is cut into blocks of a
# power of two (attention, the logits' chunks) then leaves little over.
_ROW_MULTIPLE = 128

_FIELDS: dict[str, type] = {
  "tokens": np.int32,
  "position": np.int32,
  "tree": np.int32,
  "branch": np.int32,
  "fork": np.int32,
  "parent": np.int32,
  "action_mask": bool,
  "behavior_logprobs": np.float32,
  "advantages": np.float32,
}
# Fields that are there if a loss needs them, by what it says it needs.
_OPTIONAL: dict[str, dict[str, type]] = {
  "weights": {"weights": np.float32},
  "traces": {"is_trace": bool},
  "values": {"old_values": np.float32, "returns": np.float32},
}


@dataclasses.dataclass(frozen=True)
class Lane:
  """A completion to learn from.

  Attributes:
    fork: how many tokens of the trunk it sees.
    tokens: int [completion length].
    logprobs: float [completion length], the behavior policy's.
    advantages: float [completion length].
    weight: of each of its tokens in the objective.
    is_trace: a stored trace, not the policy's own.
    values: float [completion length], the critic's; None: there is none.
    returns: float [completion length], what the critic is to predict.
  """

  fork: int
  tokens: np.ndarray
  logprobs: np.ndarray
  advantages: np.ndarray
  weight: float = 1.0
  is_trace: bool = False
  values: np.ndarray | None = None
  returns: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Tree:
  """A trunk and the lanes that grow from it.

  Attributes:
    trunk: int [trunk length].
    lanes: completions, each from a fork of the trunk.
    is_prefixed: the lanes were given a prefix; a tree is of one kind.
  """

  trunk: np.ndarray
  lanes: Sequence[Lane]
  is_prefixed: bool

  @property
  def num_tokens(self) -> int:
    """Tokens the tree takes in a packed row, the trunk's once."""
    return len(self.trunk) + sum(len(lane.tokens) for lane in self.lanes)

  @property
  def num_sequence_tokens(self) -> int:
    """Tokens of all sequences, what a lane sees of the trunk for each."""
    return sum(lane.fork + len(lane.tokens) for lane in self.lanes)


@dataclasses.dataclass(frozen=True)
class Layout:
  """The static shape of a batch: what an update is compiled for.

  Attributes:
    row_length: T, tokens of a packed row.
    rows_per_microbatch: B.
    num_microbatches: M, how many there is room for; those without a tree cost
      nothing.
  """

  row_length: int
  rows_per_microbatch: int
  num_microbatches: int

  @property
  def tokens_per_microbatch(self) -> int:
    """Tokens of a micro-batch, padding included."""
    return self.row_length * self.rows_per_microbatch


def layout_for(
  *,
  longest_trunk: int,
  longest_completion: int,
  num_lanes: int,
  num_trees: tuple[int, int],
  row_length: int,
  rows_per_microbatch: int,
) -> Layout:
  """Returns a layout into which any such trees can be packed.

  Args:
    longest_trunk: tokens of any tree's trunk, at most.
    longest_completion: tokens of any lane, at most.
    num_lanes: lanes of any tree, at most.
    num_trees: how many prefixed trees and how many others, at most.
    row_length: tokens of a packed row; it is longer where one lane and its
      trunk are.
    rows_per_microbatch: B.
  """
  length = round_up(
    max(row_length, longest_trunk + longest_completion), _ROW_MULTIPLE
  )
  # A tree is split, and a packed row begun, only when there is no room for
  # more: so each but the last of its kind holds at least this many.
  trees_a_row = length // (longest_trunk + num_lanes * longest_completion)
  lanes_a_row = (length - longest_trunk) // longest_completion
  rows = [
    ceil_div(n, trees_a_row)
    if trees_a_row
    else n * ceil_div(num_lanes, lanes_a_row)
    for n in num_trees
  ]
  return Layout(
    length,
    rows_per_microbatch,
    sum(ceil_div(n, rows_per_microbatch) for n in rows),
  )


def join_trees(trees: Sequence[Tree], max_tokens: int) -> list[Tree]:
  """Puts lanes onto one trunk where one tree's trunk begins another's.

  Prefixes of one trace nest, so all of a step's forks of it become one tree,
  and their trunk is computed once. Trees of different kinds stay apart.

  Args:
    trees: in any order.
    max_tokens: tokens of a joined tree, at most.
  """
  joined: list[Tree] = []
  for tree in sorted(trees, key=lambda t: -len(t.trunk)):
    n = len(tree.trunk)
    for i, other in enumerate(joined):
      if (
        other.is_prefixed == tree.is_prefixed
        and other.num_tokens + tree.num_tokens - n <= max_tokens
        and np.array_equal(other.trunk[:n], tree.trunk)
      ):
        joined[i] = dataclasses.replace(
          other, lanes=[*other.lanes, *tree.lanes]
        )
        break
    else:
      joined.append(tree)
  return joined


def split_tree(tree: Tree, max_tokens: int) -> list[Tree]:
  """Gives lanes that do not fit after their trunk another copy of it.

  Args:
    tree: of any size.
    max_tokens: tokens of a part, at most.

  Raises:
    UserError: the trunk and one lane are longer.
  """
  parts: list[list[Lane]] = [[]]
  room = max_tokens - len(tree.trunk)
  for lane in tree.lanes:
    n = len(lane.tokens)
    if len(tree.trunk) + n > max_tokens:
      raise UserError(
        f"a trunk of {len(tree.trunk)} tokens and a completion of {n} do not"
        f" fit into a packed row of {max_tokens}; raise"
        " config.learner.row_length."
      )
    if n > room:
      parts.append([])
      room = max_tokens - len(tree.trunk)
    parts[-1].append(lane)
    room -= n
  return [dataclasses.replace(tree, lanes=lanes) for lanes in parts]


class Place(NamedTuple):
  """Where a lane is in a batch: from `start` on in a row of a micro-batch."""

  microbatch: int
  row: int
  start: int


def pack(
  trees: Sequence[Tree],
  layout: Layout,
  *,
  needs: Collection[str] = (),
  scalars: Mapping[str, float] | None = None,
  places: dict[int, Place] | None = None,
) -> TrainBatch:
  """Packs trees into rows, longest first, several a row where they fit.

  Trees that share a trunk are joined, those longer than a packed row split.
  Micro-batches hold prefixed trees or others, never both, and those that hold
  any come first.

  Args:
    trees: in any order.
    layout: the shape to fill.
    needs: what a loss needs; says which further fields there are.
    scalars: fields of [M] that have one value.
    places: is told where each lane came to be, by its `id`.

  Returns:
    TrainBatch of numpy arrays, [M, B, T], is_prefixed [M].

  Raises:
    UserError: a lane and its trunk are longer than a row, or there are too
      many trees.
  """
  parts = [p for tree in trees for p in split_tree(tree, layout.row_length)]
  filled = _microbatches(join_trees(parts, layout.row_length), layout)
  if len(filled) > layout.num_microbatches:  # larger pieces may leave more gaps
    filled = _microbatches(parts, layout)
  if len(filled) > layout.num_microbatches:
    raise UserError(
      f"{len(trees)} trees take {len(filled)} micro-batches; the update has"
      f" room for {layout.num_microbatches}."
    )
  shape = (
    layout.num_microbatches,
    layout.rows_per_microbatch,
    layout.row_length,
  )
  dtypes: dict[str, type] = dict(_FIELDS)
  for name in needs:
    dtypes |= _OPTIONAL.get(name, {})
  fields: dict[str, np.ndarray] = {
    name: np.zeros(shape, dtype) for name, dtype in dtypes.items()
  }
  is_prefixed = np.zeros(layout.num_microbatches, bool)
  for m, rows in enumerate(filled):
    is_prefixed[m] = rows[0][0].is_prefixed
    for b, row in enumerate(rows):
      start = 0
      for number, tree in enumerate(row, 1):
        _write(
          {name: field[m, b] for name, field in fields.items()},
          tree,
          number,
          start,
        )
        if places is not None:
          _note(places, tree, Place(m, b, start + len(tree.trunk)))
        start += tree.num_tokens
  spread = {
    name: np.full(layout.num_microbatches, value, np.float32)
    for name, value in (scalars or {}).items()
  }
  return TrainBatch(is_prefixed=is_prefixed, **fields, **spread)


def _note(places: dict[int, Place], tree: Tree, place: Place) -> None:
  """Notes where a tree's lanes are, the first at `place`."""
  for lane in tree.lanes:
    places[id(lane)] = place
    place = place._replace(start=place.start + len(lane.tokens))


def _microbatches(
  trees: Sequence[Tree], layout: Layout
) -> list[list[list[Tree]]]:
  """Returns micro-batches of rows of trees, prefixed ones first."""
  filled = []
  for kind in (True, False):
    rows = _fill([t for t in trees if t.is_prefixed == kind], layout.row_length)
    for i in range(0, len(rows), layout.rows_per_microbatch):
      filled.append(rows[i : i + layout.rows_per_microbatch])
  return filled


def _fill(trees: Sequence[Tree], row_length: int) -> list[list[Tree]]:
  """Puts each tree, longest first, into the first row with room (first fit)."""
  rows: list[list[Tree]] = []
  room: list[int] = []
  for tree in sorted(trees, key=lambda t: -t.num_tokens):
    r = next((r for r, n in enumerate(room) if n >= tree.num_tokens), len(rows))
    if r == len(rows):
      rows.append([])
      room.append(row_length)
    rows[r].append(tree)
    room[r] -= tree.num_tokens
  return rows


def _write(
  row: dict[str, np.ndarray], tree: Tree, number: int, start: int
) -> None:
  """Writes [trunk | lane 1 | lane 2 | ...] into a row, from `start`."""
  n = len(tree.trunk)
  trunk = slice(start, start + n)
  row["tokens"][trunk] = tree.trunk
  row["position"][trunk] = np.arange(n)
  row["parent"][trunk] = np.arange(start - 1, start + n - 1).clip(start)
  row["tree"][start : start + tree.num_tokens] = number
  place = start + n
  for branch, lane in enumerate(tree.lanes, 1):
    assert 0 < lane.fork <= n, (lane, n)
    k = len(lane.tokens)
    here = slice(place, place + k)
    row["tokens"][here] = lane.tokens
    row["position"][here] = lane.fork + np.arange(k)
    row["branch"][here] = branch
    row["fork"][here] = lane.fork
    # The first token of a lane is predicted by the last trunk token it sees.
    row["parent"][here] = np.arange(place - 1, place + k - 1)
    row["parent"][place] = start + lane.fork - 1
    row["action_mask"][here] = True
    row["behavior_logprobs"][here] = lane.logprobs
    row["advantages"][here] = lane.advantages
    if "weights" in row:
      row["weights"][here] = lane.weight
    if "is_trace" in row:
      row["is_trace"][here] = lane.is_trace
    if "returns" in row:
      row["old_values"][here] = lane.values
      row["returns"][here] = lane.returns
    place += k
