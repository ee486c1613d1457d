"""Device types, and the axis alphabet that all shapes are written in.

Axes: R sampler rows (one trunk each), P trunk length, G lanes per sampler row,
C completion length, M micro-batches, B packed rows of a micro-batch, T packed
length, L layers, D width, N query heads, K key/value heads, H head dimension,
F MLP width, V vocabulary, E experts. In signatures they are jaxtyping's, which
only type checkers import: Float[Array, "B T D"]; *B is any number of axes.

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

  All arrays but those of [M] are [M, B, T] and aligned with `tokens`. The
  step from a token to the one that predicts it is `parent`, and is taken in
  `learner.logprobs` alone. The last ones are there if the loss needs them, 0
  where action_mask is false.
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
  weights: Array = None  # float32, of a token in the objective
  is_trace: Array = None  # bool, of a stored trace, not of a rollout
  old_values: Array = None  # float32, the critic's before the first update
  returns: Array = None  # float32, what the critic is to predict
  normalizer: Array = None  # float32 [M], the objective's divisor, the same
  kl_coefficient: Array = None  # float32 [M], the same


@flax.struct.dataclass
class TrainState:
  """What an update reads and replaces.

  Attributes:
    step: int32 [], updates so far.
    params: what is trained, float: the policy's parameters, or its adapters.
    opt_state: the optimizer's; moments are shaped and sharded as params.
  """

  step: Array
  params: dict
  opt_state: tuple


@flax.struct.dataclass
class KVCache:
  """Keys and values of one layer, rotated, for R trunks and R x G lanes.

  Slot 0 of a lane holds the last trunk token before its fork: a lane starts
  by decoding that token again, so that it needs no prefill of its own. P and C
  are divided into blocks, (P) is a block's size (`attention.key_blocks`); the
  axes are in the order in which XLA:CPU multiplies without copying.
  """

  trunk_key: Array  # [R, K, P / (P), H, (P)]
  trunk_value: Array  # [R, K, P / (P), (P), H]
  lane_key: Array  # [R, K, G, C / (C), H, (C)]
  lane_value: Array  # [R, K, G, C / (C), (C), H]


@flax.struct.dataclass
class SamplerState:
  """Everything the decode loop carries.

  Between two decode steps `token` is the last of what a lane sees: the trunk
  token before the fork if length is 0, else tokens[length - 1]. Its keys and
  values are not in the cache yet. What an inactive lane draws is not kept.

  Attributes:
    caches: one for each layer; the slots of a lane below its length are valid.
    trunk_tokens: int32 [R, P], the trunk in each row's cache, padded with 0.
    fork: int32 [R, G], how many tokens of its row's trunk a lane sees; at
      least 1.
    token: int32 [R, G], the token that is decoded next.
    length: int32 [R, G], how many tokens a lane has sampled, at most its limit.
    limit: int32 [R, G], how many tokens a lane may sample, at most C.
    active: bool [R, G], the lane goes on: it has drawn no stop token, is below
      its limit, and its logits were finite.
    key: PRNG key [R, G], of a lane's completion; the one of a token is this
      folded with the token's place.
    tokens: int32 [R, G, C], what was sampled; entries from length on are left
      over from earlier completions.
    logprobs: float32 [R, G, C], of `tokens`, by the policy at the temperature
      of sampling, before top_k and top_p.
  """

  caches: tuple[KVCache, ...]
  trunk_tokens: Array
  fork: Array
  token: Array
  length: Array
  limit: Array
  active: Array
  key: Array
  tokens: Array
  logprobs: Array
