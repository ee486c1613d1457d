"""Packing loses nothing, and what it promises to hold it holds."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from prefixrl_jax.learner import packing
from prefixrl_jax.learner.packing import (
  Lane,
  Layout,
  Tree,
  layout_for,
  pack,
  split_tree,
)
from prefixrl_jax.types import UserError

LONGEST_TRUNK, LONGEST_LANE, NUM_LANES = 20, 15, 4


@st.composite
def _trees(draw):
  """Some with one trunk, as prefixes of a trace have."""
  rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  trunks = rng.integers(0, 50, (3, LONGEST_TRUNK)).astype(np.int32)
  trees = []
  for _ in range(draw(st.integers(0, 9))):
    trunk = trunks[rng.integers(3)][: rng.integers(1, LONGEST_TRUNK + 1)]
    lanes = []
    for _ in range(rng.integers(1, NUM_LANES + 1)):
      n = int(rng.integers(1, LONGEST_LANE + 1))
      lanes.append(
        Lane(
          int(rng.integers(1, len(trunk) + 1)),
          rng.integers(0, 50, n).astype(np.int32),
          -rng.random(n).astype(np.float32),
          rng.normal(size=n).astype(np.float32),
        )
      )
    trees.append(Tree(trunk, lanes, bool(rng.integers(2))))
  return trees


def _sequences(trees):
  """What each lane is, whatever tree it is in."""
  return sorted(
    (
      tree.is_prefixed,
      (*tree.trunk[: lane.fork].tolist(), *lane.tokens.tolist()),
      tuple(lane.logprobs.tolist()),
      tuple(lane.advantages.tolist()),
    )
    for tree in trees
    for lane in tree.lanes
  )


def _unpack(batch):
  """Reads the lanes back out of the rows."""
  trees = []
  for m, b in np.ndindex(batch.tokens.shape[:2]):
    row = {
      name: getattr(batch, name)[m, b]
      for name in batch.__dataclass_fields__
      if name in packing._FIELDS
    }
    for number in range(1, row["tree"].max() + 1):
      of_tree = row["tree"] == number
      trunk = row["tokens"][of_tree & (row["branch"] == 0)]
      lanes = []
      for branch in range(1, row["branch"][of_tree].max() + 1):
        here = of_tree & (row["branch"] == branch)
        assert row["action_mask"][here].all()
        lanes.append(
          Lane(
            int(row["fork"][here][0]),
            row["tokens"][here],
            row["behavior_logprobs"][here],
            row["advantages"][here],
          )
        )
      trees.append(Tree(trunk, lanes, bool(batch.is_prefixed[m])))
  return trees


@hypothesis.given(
  _trees(), st.sampled_from([1, 30, 128, 300, 700]), st.integers(1, 3)
)
@hypothesis.settings(deadline=None, max_examples=150)
def test_unpacking_gives_back_what_was_packed(trees, row_length, per_micro):
  layout = layout_for(
    longest_trunk=LONGEST_TRUNK,
    longest_completion=LONGEST_LANE,
    num_lanes=NUM_LANES,
    num_trees=(
      sum(t.is_prefixed for t in trees),
      sum(not t.is_prefixed for t in trees),
    ),
    row_length=row_length,
    rows_per_microbatch=per_micro,
  )
  batch = pack(trees, layout)
  assert batch.tokens.shape == (
    layout.num_microbatches,
    per_micro,
    layout.row_length,
  )
  assert _sequences(_unpack(batch)) == _sequences(trees)
  # Nothing but the tail is padding, and full micro-batches come first.
  used = batch.tree > 0
  assert (used[..., :-1] >= used[..., 1:]).all()
  per_micro_used = used.any((1, 2))
  assert (per_micro_used[:-1] >= per_micro_used[1:]).all()


def test_a_tree_longer_than_a_row_is_split():
  lane = lambda n: Lane(2, np.arange(n), np.zeros(n), np.zeros(n))
  tree = Tree(np.arange(4), [lane(n) for n in (3, 3, 5, 1, 6)], True)
  parts = split_tree(tree, 10)
  assert [[len(x.tokens) for x in p.lanes] for p in parts] == [
    [3, 3],
    [5, 1],
    [6],
  ]
  assert all(p.num_tokens <= 10 and p.is_prefixed for p in parts)


def test_what_no_row_can_hold_is_named():
  lane = Lane(4, np.arange(7), np.zeros(7), np.zeros(7))
  with pytest.raises(UserError, match=r"4 tokens.* 7 .*row_length"):
    pack([Tree(np.arange(4), [lane], True)], Layout(10, 1, 1))
  other = Tree(np.arange(1, 5), [lane], True)
  with pytest.raises(UserError, match="2 micro-batches"):
    pack([Tree(np.arange(4), [lane], True), other], Layout(12, 1, 1))
