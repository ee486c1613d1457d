"""What the programs would cost on a TPU pod, compiled here without one.

  pip install -e '.[tpu]'
  python -m benchmarks.tpu_aot --topology=v5e:4x4,v6e:4x4

Compiles the attention kernel, a layer of the prefill, the decode loop and the
update at the shape of Qwen3-4B ahead of time, and sets what the compiler says
beside the memory plan and a count by hand. Compiled estimates, not
measurements.

The compiler counts the body of a loop once, so FLOPs and bytes are those of
unrolled programs of one and two layers, whose difference is a layer, and of
one block of keys a layer in the decode loop.

What a program takes is at most the compiler's peak of live memory, by which it
refuses one that a device cannot hold, but which counts memory on the chip too;
and at most its arguments, results and temporaries, whose sum can be far more
(libtpu 0.0.42 compiles an update of 21 GiB, thus counted, for chips of 15.75).
The table shows the lesser.
"""

import dataclasses
import functools
import importlib.metadata
import os
import time
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from jax.experimental import topologies

from benchmarks import measuring, ours
from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner.packing import Lane, Layout, Tree, pack
from prefixrl_jax.models import (
  attention,
  attention_kernel,
  block_map,
  parameters,
)
from prefixrl_jax.models.flops import attention_flops, flops_per_token
from prefixrl_jax.models.transformer import TransformerConfig
from prefixrl_jax.run import memory_plan

_TOPOLOGIES = flags.DEFINE_list(
  "topology", ["v5e:4x4", "v6e:4x4"], "Chips and how they are joined."
)
_TENSOR = flags.DEFINE_integer("tensor", 4, "Devices that share a layer.")
_LAYERS = flags.DEFINE_integer("layers", 36, "Layers; fewer compile sooner.")
_PROGRAMS = measuring.define_choices(
  "programs", ("prefill layer", "decode", "update"), "What is compiled"
)
_TREES = flags.DEFINE_integer("trees", 2, "Trees of a packed row.")
_JSON = flags.DEFINE_string("json", "", "Stem of files for the figures.")

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


def lower_programs(
  config: TransformerConfig, mesh
) -> dict[str, jax.stages.Lowered]:
  """Lowers prefill and decode loop, two rows a shard, and the update, one."""
  sampler = ours.make_sampler(
    config,
    mesh,
    rows=2 * sharding.num_row_shards(mesh),
    lanes=LANES,
    trunk_length=TRUNK,
    completion_length=LANE,
    steps_per_dispatch=128,
  )
  params = parameters.abstract_params(config, mesh)
  lowered = sampler.programs.lower(params) | {
    "update": ours.lower_update(config, mesh, row_length(), num_microbatches=2)
  }
  return {name: lowered[name] for name in _PROGRAMS.value}


def cost_by_program(
  config: TransformerConfig, mesh
) -> dict[str, dict[str, float]]:
  """Returns the compiler's FLOPs and bytes of a device for the whole depth."""
  one, two = (
    {
      name: compiled(program)[0].cost_analysis()
      for name, program in lower_programs(
        dataclasses.replace(config, num_layers=n, scan_unroll=n), mesh
      ).items()
    }
    for n in (1, 2)
  )
  more = lambda name: 0 if name == "prefill layer" else config.num_layers - 1
  return {
    name: {
      key: one[name][key] + more(name) * (two[name][key] - one[name][key])
      for key in ("flops", "bytes accessed")
    }
    for name in one
  }


def count_by_hand(
  config: TransformerConfig, mesh
) -> dict[str, dict[str, float]]:
  """Returns the FLOPs of matrix products and the least bytes of a device.

  Least bytes: a weight is read once a pass and everything that a layer keeps
  is written once and read once; a decode step reads one block of keys a layer.
  """
  c, size = config, jnp.dtype(config.dtype).itemsize
  shards, tensor = sharding.num_row_shards(mesh), mesh.shape["tensor"]
  matmul = functools.partial(flops_per_token, config)
  num_params = parameters.num_params(config)
  weights = size * num_params / tensor
  a_layer = size * matmul(head=False) / 2 / c.num_layers / tensor
  kv = 2 * size * c.num_kv_heads * c.head_dim / tensor
  block = backends.BACKENDS["tpu"].key_block
  kept = memory_plan.bytes_kept(config) / tensor
  head = 2 * c.width * c.vocab_size
  return {
    "prefill layer": {
      "flops": 2 * shards * TRUNK * matmul(head=False) / c.num_layers,
      "bytes accessed": a_layer
      + 2 * TRUNK * (2 * size * c.width + 2 * size * c.width / tensor + kv),
    },
    "decode": {
      "flops": 2 * shards * LANES * matmul(head=True),
      "bytes accessed": weights + 2 * (1 + LANES) * block * kv * c.num_layers,
    },
    "update": {
      "flops": shards
      * (
        4 * row_length() * matmul(head=False)
        + 4 * _TREES.value * LANES * LANE * head
      ),
      # Forward twice and backward; AdamW reads four numbers, writes three.
      "bytes accessed": 3 * weights
      + 7 * 4 * num_params / mesh.size
      + 2 * 2 * row_length() * c.num_layers * kept,
    },
  }


def _count(program, instruction: str) -> int | str:
  """Returns how often an instruction is there, if the program can be read."""
  try:
    return program.as_text().count(instruction)
  except jax.errors.JaxRuntimeError:
    return "unreadable"  # some collectives of v6e are too new for the reader


def _most_bytes(sizes: Any) -> int:
  """Returns the lesser of two bounds on what a program takes, arguments too."""
  s = sizes
  results = s.output_size_in_bytes - s.alias_size_in_bytes
  return min(
    s.peak_memory_in_bytes,
    s.argument_size_in_bytes + results + s.temp_size_in_bytes,
  )


def describe_programs(topology: str, config: TransformerConfig) -> list[dict]:
  """Compiles prefill, decode loop and update for a pod; one row of each."""
  devices = topologies.get_topology_desc(
    platform="tpu", topology_name=topology
  ).devices
  mesh = make_mesh(data=1, fsdp=-1, tensor=_TENSOR.value, devices=devices)
  cost = cost_by_program(config, mesh)
  counted = count_by_hand(config, mesh)
  planned = ours.planned_bytes(
    config,
    mesh,
    rows=2 * sharding.num_row_shards(mesh),
    lanes=LANES,
    trunk_length=TRUNK,
    completion_length=LANE,
    row_length=row_length(),
  )
  rows = []
  for name, program in lower_programs(config, mesh).items():
    done, seconds = compiled(program)
    sizes = done.memory_analysis()
    logging.info("%s %s compiled in %.0f s", topology, name, seconds)
    # The prefill runs layer by layer, on a layer's share of what decoding has.
    is_layer = name == "prefill layer"
    share = config.num_layers if is_layer else 1
    parts = ours.PLANNED["decode" if is_layer else name]
    rows.append(
      {
        "topology": topology,
        "program": name,
        "compile s": seconds,
        "arguments GiB": sizes.argument_size_in_bytes / 2**30,
        "at most GiB": _most_bytes(sizes) / 2**30,
        "planned GiB": sum(planned[x] for x in parts) / share / 2**30,
        "temporaries / caches": (
          sizes.temp_size_in_bytes / planned["kv caches"]
          if name == "decode"
          else ""
        ),
        "TFLOP a device": cost[name]["flops"] / 1e12,
        "by hand": counted[name]["flops"] / mesh.size / 1e12,
        "GB a device": cost[name]["bytes accessed"] / 1e9,
        "at least": counted[name]["bytes accessed"] / 1e9,
        "all-to-all": _count(done, "all-to-all("),
      }
    )
  return rows


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
  """Compiles for every topology; prints two tables."""
  config = dataclasses.replace(QWEN3_4B, num_layers=_LAYERS.value)
  file = lambda what: f"{_JSON.value}_{what}.json" if _JSON.value else ""
  measuring.show(
    "attention kernel, forward and backward, one device",
    [describe_kernel(t, config) for t in _TOPOLOGIES.value],
    file("kernel"),
    timed=False,
  )
  libtpu = importlib.metadata.version("libtpu")
  measuring.show(
    f"programs, {config.num_layers} layers, tensor {_TENSOR.value},"
    f" libtpu {libtpu}",
    [r for t in _TOPOLOGIES.value for r in describe_programs(t, config)],
    file("programs"),
    timed=False,
  )


if __name__ == "__main__":
  measuring.run(main)
