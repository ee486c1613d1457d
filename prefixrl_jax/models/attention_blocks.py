"""What both fast paths of attention begin and end with.

`attention_xla` and `attention_kernel` walk the same visits (`block_map`); they
differ in how a visit is computed, and in the order of the queries' axes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prefixrl_jax.models import attention, block_map

# Below every real score and above every masked one: their difference has the
# exponential 0, also for a query that sees nothing.
FLOOR = attention.NEG_INF / 2


class KernelConfig(NamedTuple):
  """What is fixed when a fast path is compiled."""

  block_q: int
  block_kv: int
  window: int | None  # as in `attention.visible`
  soft_cap: float | None  # as in `attention.dense_attention`
  interpret: bool = False  # run Pallas without a TPU

  @classmethod
  def of(
    cls,
    schedule: block_map.BlockSchedule,
    soft_cap: float | None,
    *,
    interpret: bool = False,
  ) -> "KernelConfig":
    """Returns the config for a schedule's blocks."""
    sizes = schedule.block_q, schedule.block_kv, schedule.window
    return cls(*sizes, soft_cap, interpret)


def run_in_blocks(
  run: Callable,
  config: KernelConfig,
  places: attention.Places,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  order: tuple[int, ...],
) -> jax.Array:
  """Runs a fast path on whole blocks of tokens, query heads by key/value head.

  Args:
    run: (query places, key places, q, k, v) -> out, shaped like its q; places
      are int32 [B, 4, T], q has its axes in `order`, k and v are [B, K, T, H],
      and T is a multiple of the block's size.
    config: the sizes of the blocks.
    places: fields int32 [B, T].
    q: [B, T, N, H].
    k, v: [B, T, K, H].
    order: of the axes of [B, T, K, N/K, H] that `run` wants.

  Returns:
    [B, T, N, H], in q's dtype.
  """
  pad = block_map.pad_to_multiple
  stacked = jnp.stack(places, axis=1)
  grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
  tokens = order.index(1)
  out = run(
    pad(stacked, config.block_q),
    pad(stacked, config.block_kv),
    pad(grouped.transpose(order), config.block_q, axis=tokens),
    pad(k.swapaxes(1, 2), config.block_kv, axis=2),
    pad(v.swapaxes(1, 2), config.block_kv, axis=2),
  )
  out = jax.lax.slice_in_dim(out, 0, q.shape[1], axis=tokens)
  return out.transpose(np.argsort(order)).reshape(q.shape)
