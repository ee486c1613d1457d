"""What attention's kernel would cost on a TPU, compiled here without one.

  pip install -e '.[tpu]'
  python -m benchmarks.tpu_aot --topology=v5e:4x4,v6e:4x4

Compiled for one device's share of the heads of Qwen3-4B, and the blocks that it
visits counted. Compiled estimates, not measurements. What a run's programs take
is told by `--stage=compile` (docs/pods.md).
"""

import importlib.metadata
import os
import time
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import topologies

from benchmarks import measuring
from prefixrl_jax.distributed import backends
from prefixrl_jax.learner.packing import Lane, Layout, Tree, pack
from prefixrl_jax.models import (
  attention,
  attention_kernel,
  block_map,
)
from prefixrl_jax.models.flops import attention_flops
from prefixrl_jax.models.transformer import TransformerConfig

_TOPOLOGIES = flags.DEFINE_list(
  "topology", ["v5e:4x4", "v6e:4x4"], "Chips and how they are joined."
)
_TENSOR = flags.DEFINE_integer("tensor", 4, "Devices that share a layer.")
_TREES = flags.DEFINE_integer("trees", 2, "Trees of a packed row.")
_JSON = measuring.define_json()

QWEN3_4B = TransformerConfig(
  num_layers=36,
  width=2560,
  num_heads=32,
  num_kv_heads=8,
  head_dim=128,
  mlp_width=9728,
  vocab_size=151_936,
  rope_base=1e6,
  tied_head=True,
  dtype="bfloat16",
  param_dtype="float32",
  remat="full",
)
# A tree of 18,432 tokens: a trunk and eight lanes of 2,048 each.
TRUNK, LANES, LANE = 2048, 8, 2048


def row_length() -> int:
  """Returns how many tokens a packed row has."""
  return _TREES.value * (TRUNK + LANES * LANE)


def trees() -> list[Tree]:
  """Returns the trees of one packed row."""
  nothing = lambda n, dtype: np.zeros(n, dtype)
  lane = Lane(
    TRUNK,
    nothing(LANE, np.int32),
    nothing(LANE, np.float32),
    nothing(LANE, np.float32),
  )
  return [
    Tree(np.full(TRUNK, i, np.int32), [lane] * LANES, False)
    for i in range(_TREES.value)
  ]


def visible_pairs() -> int:
  """Returns how many pairs of tokens of such a row see each other."""
  triangle = lambda n: n * (n + 1) // 2
  return _TREES.value * (
    triangle(TRUNK) + LANES * (TRUNK * LANE + triangle(LANE))
  )


def compiled(lowered) -> tuple[Any, float]:
  """Compiles; returns how many seconds that took."""
  started = time.perf_counter()
  program = lowered.compile()
  return program, time.perf_counter() - started


def describe_kernel(topology: str, config: TransformerConfig) -> dict:
  """Compiles the kernel for one device's heads of one row."""
  chips = topologies.get_topology_desc(
    platform="tpu", topology_name=topology
  ).devices
  chip = jax.sharding.SingleDeviceSharding(chips[0])
  block_q, block_kv = backends.BACKENDS["tpu"].attention_blocks

  def loss(q, k, v, places):
    schedule = block_map.make_block_schedule(
      *places, block_q=block_q, block_kv=block_kv, window=None
    )
    out = attention_kernel.tree_flash_attention(places, schedule, q, k, v)
    return jnp.sum(out.astype(jnp.float32) ** 2)

  shape = lambda dtype, *x: jax.ShapeDtypeStruct(
    (1, row_length(), *x), dtype, sharding=chip
  )
  heads = lambda n: shape(config.dtype, n // _TENSOR.value, config.head_dim)
  q, kv = heads(config.num_heads), heads(config.num_kv_heads)
  place: Any = shape(jnp.int32)
  places = attention.Places(place, place, place, place)
  done, seconds = compiled(
    jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(
      q, kv, kv, places
    )
  )
  sizes = done.memory_analysis()
  batch = pack(trees(), Layout(row_length(), 1, 1))
  with jax.default_device(jax.devices("cpu")[0]):
    visits = block_map.make_block_schedule(
      *attention.places_of(jax.tree.map(lambda x: jnp.asarray(x[0]), batch)),
      block_q=block_q,
      block_kv=block_kv,
      window=None,
    ).by_query.count.sum()
  blocks = (row_length() // block_q) * (row_length() // block_kv)
  pairs = float(visits) * block_q * block_kv
  return {
    "topology": topology,
    "tokens": row_length(),
    "compile s": seconds,
    "temporaries GiB": sizes.temp_size_in_bytes / 2**30,
    "scores dense GiB": 4
    * row_length() ** 2
    * config.num_heads
    / _TENSOR.value
    / 2**30,
    "blocks skipped": 1 - float(visits) / blocks,
    "pairs computed / visible": pairs / visible_pairs(),
    "forward TFLOP, all layers": attention_flops(config, pairs)
    / _TENSOR.value
    / 1e12,
  }


def main() -> None:
  """Compiles for every topology; prints a table."""
  libtpu = importlib.metadata.version("libtpu")
  measuring.show(
    "attention kernel, forward and backward, one device,"
    f" {_TENSOR.value} share a layer, libtpu {libtpu}",
    [describe_kernel(t, QWEN3_4B) for t in _TOPOLOGIES.value],
    _JSON.value,
    timed=False,
  )


if __name__ == "__main__":
  measuring.run(main)
