"""How fast a device is, how fast we are on it, and what would be faster."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring, ours
from benchmarks.device_work import (
  Decoding,
  Recorder,
  Updating,
  decodings,
  swept,
  updates,
)
from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner.packing import pack
from prefixrl_jax.models import parameters
from prefixrl_jax.models.transformer import TransformerConfig
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.types import one_line


def _seconds(run: Callable[[], Any], repeats: int = 5) -> float:
  """Returns the median of some calls, after one that warms up."""
  jax.block_until_ready(run())
  return statistics.median(measuring.seconds_of(run) for _ in range(repeats))


def _gib(num_bytes: float) -> float:
  return num_bytes / 2**30


def _memory(name: str) -> float | None:
  """Returns GiB by the device's own count; None: it does not count."""
  stats = jax.devices()[0].memory_stats() or {}
  return _gib(stats[name]) if name in stats else None


def roofline(small: bool) -> measuring.Roofline:
  """Measures a bfloat16 product and a copy, bytes read and written."""
  size, length = (256, 2**16) if small else (8192, 2**27)
  matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
  matrix /= size**0.5  # so that products of products stay as large
  product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
  vector = jnp.ones(length)

  def ten(one, x):
    """No call waits for the host."""
    return functools.reduce(lambda x, _: one(x), range(10), x)

  products = _seconds(lambda: ten(lambda x: product(x, matrix), matrix))
  copies = _seconds(lambda: ten(copy, vector))
  return measuring.Roofline(
    10 * 2 * size**3 / products, 10 * 2 * vector.nbytes / copies
  )


def machine(record: Recorder, small: bool) -> None:
  """Records what the card does at its best, and what float32 means on it."""
  device = jax.devices()[0]
  here = roofline(small)
  record(
    jax=jax.__version__,
    device=device.device_kind,
    platform=device.platform,
    memory_limit_gib=_memory("bytes_limit"),
    bf16_tflops=here.flops_per_second / 1e12,
    copy_gb_per_second=here.bytes_per_second / 1e9,
  )
  size = 256 if small else 4096
  keys = jax.random.split(jax.random.key(1))
  a, b = (jax.random.normal(key, (size, size)) for key in keys)
  exact = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
  for precision in ("default", "highest"):
    with jax.default_matmul_precision(precision):
      product = jax.jit(jnp.matmul)
      error = np.linalg.norm(product(a, b) - exact) / np.linalg.norm(exact)
      seconds = _seconds(functools.partial(product, a, b))
    record(
      name=f"float32 product, {precision} precision",
      relative_error=float(error),
      tflops=2 * size**3 / seconds / 1e12,
    )
  # Each product needs the one before, and none can be fused with it.
  count, little = 1000, jax.random.normal(keys[0], (256, 256)) / 16
  straight = jax.jit(
    lambda x, y: functools.reduce(lambda x, _: x @ y, range(100), x)
  )
  # How long the loop is, is known on the device alone, as in decoding.
  looped = jax.jit(
    lambda n, x, y: jax.lax.while_loop(
      lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] @ y), (0, x)
    )
  )
  call = jax.jit(lambda x: x + 1)
  turns = _seconds(lambda: looped(count, little, little)) / count
  record(
    name="launches",
    us_a_call=1e6 * _seconds(lambda: call(little), 50),
    us_a_small_product=1e6 * _seconds(lambda: straight(little, little)) / 100,
    us_a_turn_of_a_loop_of_one=1e6 * turns,
  )


@contextlib.contextmanager
def _backend(**fields: Any) -> Iterator[None]:
  """Runs with other constants of this device's backend."""
  platform = jax.devices()[0].platform
  shipped = backends.BACKENDS[platform]
  backends.BACKENDS[platform] = dataclasses.replace(shipped, **fields)
  try:
    yield
  finally:
    backends.BACKENDS[platform] = shipped


def _mesh():
  return make_mesh(data=1, devices=jax.devices()[:1])


def _random_params(config: TransformerConfig, mesh) -> dict:
  """Draws parameters where they belong."""
  where = jax.tree.map(
    lambda x: x.sharding, parameters.abstract_params(config, mesh)
  )
  draw = functools.partial(parameters.init, config)
  with jax.set_mesh(mesh):
    return jax.jit(draw, out_shardings=where)(jax.random.key(0))


def _sampling(config: TransformerConfig, work: Decoding):
  """Returns a function that samples a number of tokens per lane, timed."""
  mesh = _mesh()
  sampler = ours.make_sampler(
    config, mesh, **work.shape, steps_per_dispatch=work.steps_per_dispatch
  )
  sampler.load(_random_params(config, mesh))
  calls = itertools.count()

  def run(tokens: int) -> float:
    # New ones each time: a trunk that is still in a cache is not run again.
    trunks = work.trunks(config, next(calls))
    requests = [
      Request(trunk, work.lanes, 0, i, max_tokens=tokens)
      for i, trunk in enumerate(trunks)
    ]
    started = time.perf_counter()
    sampler.sample(requests, purpose="sampling", seed=0)
    return time.perf_counter() - started

  return run


def _decode(config: TransformerConfig, work: Decoding):
  """Returns a call's time by its tokens, and the figures of two such calls."""
  run = _sampling(config, work)
  compiled = run(work.long)
  short, long = (min(run(n) for _ in range(2)) for n in (work.short, work.long))
  return run, {
    **work.figures(short, long),
    "seconds_to_compile": compiled - long,
  }


def decode(record: Recorder, small: bool) -> None:
  """Records the decode loop of whole models, and its kernels."""
  here = roofline(small)
  for name, config, work in decodings(small):
    run, figures = _decode(config, work)
    read = work.bytes_a_step(config)
    seconds = figures["ms_a_step"] / 1e3
    flops = ours.flops_of_step(config, work.rows * work.lanes)
    plan = ours.planned_bytes(config, _mesh(), **work.shape, row_length=8)
    record(
      name=name,
      by="prefixrl_jax",
      dtype=config.dtype,
      **work.shape,
      **figures,
      gb_per_second=read / seconds / 1e9,
      share_of_copy=read / here.bytes_per_second / seconds,
      share_of_product=flops / here.flops_per_second / seconds,
      peak_gib=_memory("peak_bytes_in_use"),
      # The learner's weights, which the sampler's are made from, go with them.
      plan_gib=_gib(
        sum(plan[x] for x in ("parameters", *ours.PLANNED["decode"]))
      ),
    )
    del run
  for name, config, work in decodings(small):
    _record_kernels(record, name, _sampling(config, work), work)


def _record_kernels(record: Recorder, name: str, run, work: Decoding) -> None:
  """Records what a decode step launches: the difference of two profiles."""
  few, many = work.short, work.short + 8
  run(many)
  first, second = (_kernels(functools.partial(run, n)) for n in (few, many))
  names = sorted(second, key=lambda k: first.get(k, (0, 0))[1] - second[k][1])
  each = {
    k: [(b - a) / (many - few) for a, b in zip(first.get(k, (0, 0)), second[k])]
    for k in names
  }
  record(
    name=f"{name}, kernels of a decode step",
    launches=sum(count for count, _ in each.values()),
    busy_ms=sum(ms for _, ms in each.values()),
    longest={k: [round(x, 4) for x in each[k]] for k in names[:12]},
  )


def _kernels(run: Callable[[], Any]) -> dict[str, tuple[int, float]]:
  """Profiles a call; kernels of one name (numbers left out) -> count, ms."""
  found: dict[str, tuple[int, float]] = {}
  with tempfile.TemporaryDirectory() as folder:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = options.host_tracer_level = 0
    with jax.profiler.trace(folder, profiler_options=options):
      run()
    for file in pathlib.Path(folder).rglob("*.xplane.pb"):
      for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        lines = list(plane.lines)
        print("profiled:", plane.name, [line.name for line in lines])
        if not plane.name.startswith("/device:GPU"):
          continue
        for line in lines:
          if not (line.name or "").startswith("Stream"):
            continue  # our programs and operations, not kernels
          for event in line.events:
            name = re.sub(r"[._]?\d+", "", event.name)[:60]
            count, ms = found.get(name, (0, 0.0))
            found[name] = count + 1, ms + event.duration_ns / 1e6
  return found


def _update(config: TransformerConfig, work: Updating, here):
  """Returns what calls an update, and its figures."""
  mesh = _mesh()
  trees = work.trees(config)
  layout = ours.layout_of(trees)
  with jax.set_mesh(mesh):
    step, state, init = ours.make_update(config, mesh)
    batch = sharding.put_rows(mesh, pack(trees, layout), axis=1)
    held = [init(_random_params(config, mesh))]
    started = time.perf_counter()
    program = step.lower(state, batch, None).compile()
    compiled = time.perf_counter() - started

  def run():
    held[0], metrics = program(held[0], batch, None)
    return metrics

  seconds = _seconds(run, 3)
  least = ours.least_seconds(config, trees, here)
  sizes = program.memory_analysis()
  taken = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
  one = dict(rows=1, lanes=1, trunk_length=8, completion_length=8)
  plan = ours.planned_bytes(config, mesh, **one, row_length=layout.row_length)
  return run, {
    "row_length": layout.row_length,
    "seconds": seconds,
    "tokens_per_second": trees[0].num_tokens / seconds,
    "tflops": least * here.flops_per_second / seconds / 1e12,
    "share_of_product": least / seconds,
    "seconds_to_compile": compiled,
    "peak_gib": _memory("peak_bytes_in_use"),
    "compiler_gib": _gib(taken),
    "plan_gib": _gib(sum(plan[x] for x in ours.PLANNED["update"])),
  }


def update(record: Recorder, small: bool) -> None:
  """Records an AdamW step of whole models, and its kernels."""
  here = dataclasses.replace(roofline(small), bytes_per_second=np.inf)
  run: Callable[[], Any] = int
  for name, config, work in updates(small):
    run = int  # the other model's arrays go first
    run, figures = _update(config, work, here)
    record(name=name, by="prefixrl_jax", dtype=config.dtype, **figures)
  # Of the last, the largest: there may be hundreds of thousands.
  kernels = _kernels(run)
  names = sorted(kernels, key=lambda k: -kernels[k][1])
  record(
    name=f"{name}, kernels of an update",
    launches=sum(count for count, _ in kernels.values()),
    busy_ms=sum(ms for _, ms in kernels.values()),
    longest={k: kernels[k] for k in names[:12]},
  )


# Loops whose length the device knows as graphs that it runs by itself.
_GRAPHS = {
  "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,"
  "DYNAMIC_SLICE_FUSION,WHILE,CONDITIONAL",
  "xla_gpu_graph_min_graph_size": 1,
}
# Constants of `Backend`, one away from what is shipped at a time.
_DECODE_VARIANTS: dict[str, dict[str, Any]] = {
  "as shipped": {},
  "graphs": {"options": _GRAPHS},
  "key_block 2048": {"key_block": 2048},
  "key_block 1024": {"key_block": 1024},
  "key_block 256": {"key_block": 256},
}
_UPDATE_VARIANTS: dict[str, dict[str, Any]] = {
  "as shipped": {},
  "graphs": {"options": _GRAPHS},
  "one visit a turn": {"visits_a_turn": 1},
  "blocks of 1024": {"attention_blocks": (1024, 1024)},
  "blocks of 256": {"attention_blocks": (256, 256)},
  "dense": {"attention_blocks": (2**20, 2**20)},
}


def decode_sweep(record: Recorder, small: bool) -> None:
  """Records the decode loop by constants, and what a synchronisation costs."""
  config, work, _ = swept(small)
  shipped = 0.0
  for name, fields in _DECODE_VARIANTS.items():
    with _reported(record, name), _backend(**fields):
      _, figures = _decode(config, work)
      record(name=name, **figures)
    shipped = shipped or figures["ms_a_step"]
    if name == "as shipped":
      with _reported(record, "a synchronisation"):
        often = dataclasses.replace(work, steps_per_dispatch=8)
        _, figures = _decode(config, often)
        more = 1 / 8 - 1 / work.steps_per_dispatch  # a step
        cost = (figures["ms_a_step"] - shipped) / max(more, 1 / 64)
        record(
          name="a synchronisation",
          ms=cost,
          decode_steps=cost / shipped,
          **figures,
        )


def update_sweep(record: Recorder, small: bool) -> None:
  """Records an update by constants."""
  config, _, work = swept(small)
  here = dataclasses.replace(roofline(small), bytes_per_second=np.inf)
  for name, fields in _UPDATE_VARIANTS.items():
    with _reported(record, name), _backend(**fields):
      _, figures = _update(config, work, here)
      record(name=name, **figures)


def with_flags(record: Recorder, small: bool) -> None:
  """Records both as they are shipped, under the flags in force."""
  config, decoding, updating = swept(small)
  here = dataclasses.replace(roofline(small), bytes_per_second=np.inf)
  said = os.environ.get("XLA_FLAGS", "")
  with _reported(record, "decode"):
    record(name="decode", flags=said, **_decode(config, decoding)[1])
  with _reported(record, "update"):
    record(name="update", flags=said, **_update(config, updating, here)[1])


@contextlib.contextmanager
def _reported(record: Recorder, name: str) -> Iterator[None]:
  """Records an error as the result of what is tried, and goes on."""
  try:
    yield
  except Exception as e:
    record(name=name, error=one_line(e))
