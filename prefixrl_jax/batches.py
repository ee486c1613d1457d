"""Device types and the axis alphabet.

Axes: R rows (one trunk each), P trunk length, G lanes per row, C completion
length, B packed rows, T packed length, L layers, D width, N query heads, K
key/value heads, H head dimension, F MLP width, V vocabulary, M micro-batches.

A trunk is a prompt followed by a trace; a fork is how many trunk tokens a
completion sees; a lane is one completion in flight. A token of the trunk sees
the trunk before it. A token of a lane sees the trunk up to its fork, and its
own lane before it.
"""

from typing import Any

import flax.struct

# On the host a numpy array, on the mesh a jax.Array; in trees of shapes or of
# shardings, one of those.
Array = Any


@flax.struct.dataclass
class TrainBatch:
  """Packed rows of trees, M micro-batches of B rows.

  All arrays but `is_prefixed` are [M, B, T] and aligned with `tokens`. The
  step from a token to the one that predicts it is `parent`, and is taken in
  `learner.logprobs.action_logprobs` alone.
  """

  tokens: Array  # int32
  position: Array  # int32, place in the sequence the token belongs to
  tree: Array  # int32, 0 = padding, otherwise the tree's number in its row
  branch: Array  # int32, 0 = trunk, otherwise the lane's number in its tree
  fork: Array  # int32, trunk tokens that a lane's tokens see
  parent: Array  # int32, index in the row of the token that predicts this one
  action_mask: Array  # bool, true on sampled tokens only
  behavior_logprobs: Array  # float32, 0 where action_mask is false
  advantages: Array  # float32, 0 where action_mask is false
  is_prefixed: Array  # bool [M], micro-batches are all of one kind


@flax.struct.dataclass
class TrainState:
  """What an update reads and replaces."""

  step: Array  # int32 []
  params: dict
  opt_state: tuple


@flax.struct.dataclass
class KVCache:
  """Keys and values of one layer, rotated, for R trunks and R x G lanes.

  Slot 0 of a lane holds the last trunk token before its fork: a lane starts
  by decoding that token again, so that it needs no prefill of its own. P and C
  lie in blocks, (P) is a block's size (`attention.key_blocks`); the axes are in
  the order in which XLA:CPU multiplies without copying.
  """

  trunk_key: Array  # [R, K, P / (P), H, (P)]
  trunk_value: Array  # [R, K, P / (P), (P), H]
  lane_key: Array  # [R, K, G, C / (C), H, (C)]
  lane_value: Array  # [R, K, G, C / (C), (C), H]


@flax.struct.dataclass
class SamplerState:
  """Everything the decode loop carries."""

  caches: tuple[KVCache, ...]  # one per layer
  trunk_tokens: Array  # int32 [R, P]
  fork: Array  # int32 [R, G]
  token: Array  # int32 [R, G], the token to be decoded next
  length: Array  # int32 [R, G], tokens sampled so far
  limit: Array  # int32 [R, G], tokens to sample at most
  active: Array  # bool [R, G]
  key: Array  # key [R, G], of the completion, not of the step
  tokens: Array  # int32 [R, G, C]
  logprobs: Array  # float32 [R, G, C]
