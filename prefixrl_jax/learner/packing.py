"""Trees of host arrays become the rows of a TrainBatch."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from prefixrl_jax.batches import TrainBatch


@dataclasses.dataclass(frozen=True)
class Lane:
  """A completion to learn from."""

  fork: int
  tokens: np.ndarray  # int [length]
  logprobs: np.ndarray  # float [length], the behavior policy's
  advantages: np.ndarray  # float [length]


@dataclasses.dataclass(frozen=True)
class Tree:
  """A trunk and the lanes that grow from it."""

  trunk: np.ndarray  # int [trunk length]
  lanes: Sequence[Lane]
  is_prefixed: bool


@dataclasses.dataclass(frozen=True)
class Layout:
  """The static shape of a row: [trunk | lane 1 | ... | lane G]."""

  trunk_length: int  # P
  num_lanes: int  # G
  completion_length: int  # C

  @property
  def row_length(self) -> int:
    """T."""
    return self.trunk_length + self.num_lanes * self.completion_length


def pack(
  trees: Sequence[Tree],
  layout: Layout,
  rows_per_micro: int,
  *,
  num_rows: int = 0,
) -> TrainBatch:
  """Packs one tree a row; micro-batches hold prefixed trees or others.

  The last micro-batch of a kind is filled up with empty rows, so the shape
  depends on how many trees there are of each kind and on nothing else.

  Args:
    trees: at least one.
    layout: must hold every trunk, lane count and completion.
    rows_per_micro: B.
    num_rows: add empty rows up to this many.

  Returns:
    TrainBatch of numpy arrays, [M, B, T].
  """
  micros: list[list[Tree]] = []
  for kind in (True, False):
    some = [t for t in trees if t.is_prefixed == kind]
    micros += [
      some[i : i + rows_per_micro] for i in range(0, len(some), rows_per_micro)
    ]
  while len(micros) * rows_per_micro < num_rows:
    micros.append([])
  shape = (len(micros), rows_per_micro, layout.row_length)
  fields = {
    name: np.zeros(shape, dtype)
    for name, dtype in (
      ("tokens", np.int32),
      ("position", np.int32),
      ("tree", np.int32),
      ("branch", np.int32),
      ("fork", np.int32),
      ("parent", np.int32),
      ("action_mask", bool),
      ("behavior_logprobs", np.float32),
      ("advantages", np.float32),
    )
  }
  for m, micro in enumerate(micros):
    for b, tree in enumerate(micro):
      _fill_row({k: v[m, b] for k, v in fields.items()}, tree, layout)
  # Lanes that are not there fork at the trunk's start + 1, where they see
  # something: a softmax over nothing is not a number.
  fields["fork"][..., layout.trunk_length :][
    fields["fork"][..., layout.trunk_length :] == 0
  ] = 1
  is_prefixed = np.array([any(t.is_prefixed for t in m) for m in micros])
  return TrainBatch(is_prefixed=is_prefixed, **fields)


def _fill_row(row: dict[str, np.ndarray], tree: Tree, layout: Layout) -> None:
  n = len(tree.trunk)
  assert n <= layout.trunk_length, (n, layout)
  assert len(tree.lanes) <= layout.num_lanes, (len(tree.lanes), layout)
  row["tokens"][:n] = tree.trunk
  row["position"][: layout.trunk_length] = np.arange(layout.trunk_length)
  row["tree"][:n] = 1
  for g, lane in enumerate(tree.lanes):
    k = len(lane.tokens)
    assert 0 < lane.fork <= n, (lane, n)
    assert k <= layout.completion_length, (lane, layout)
    start = layout.trunk_length + g * layout.completion_length
    whole = slice(start, start + layout.completion_length)
    used = slice(start, start + k)
    row["branch"][whole] = g + 1
    row["fork"][whole] = lane.fork
    row["position"][whole] = lane.fork + np.arange(layout.completion_length)
    row["tokens"][used] = lane.tokens
    row["tree"][used] = 1
    # The first token of a lane is predicted by the last trunk token it sees.
    row["parent"][used] = np.arange(start - 1, start + k - 1)
    row["parent"][start] = lane.fork - 1
    row["action_mask"][used] = True
    row["behavior_logprobs"][used] = lane.logprobs
    row["advantages"][used] = lane.advantages
