"""How cost grows with the work: completions and updates of the tiny model.

  python -m benchmarks.scaling --figure=docs/scaling

Sampled tokens a second over lanes, trunk length, completion length, group
size (64 lanes in all) and host devices; seconds of an update over its packed
tokens, which should lie on a line but for attention; and the memory of the
decode loop and of the update, by the compiler beside the memory plan. Host
devices share the machine's cores: their row shows what sharding costs, not
what it gains.
"""

import functools
import os
from unittest import mock

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from benchmarks import measuring, ours, shapes
from benchmarks.ours import Unit
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner.packing import Lane, Tree
from prefixrl_jax.models import parameters

_FIGURE = flags.DEFINE_string("figure", "", "Stem of the figure, PNG and SVG.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed calls of each.", 3)
_JSON = measuring.define_json()

_MODEL = "tiny"
# What grows -> {how much: what is sampled}
SAMPLING = {
  "lanes a row": {n: Unit(8, n, 64, (64,) * 8 * n) for n in (1, 2, 4, 8, 16)},
  "trunk length": {
    n: Unit(8, 4, n, (64,) * 32) for n in (64, 128, 256, 512, 1024)
  },
  "completion length": {
    n: Unit(8, 4, 64, (n,) * 32) for n in (32, 64, 128, 256, 512)
  },
  "group size, 64 lanes": {
    n: Unit(64 // n, n, 256, (64,) * 64) for n in (1, 2, 4, 8, 16)
  },
}
ONE_UNIT = Unit(8, 4, 64, (64,) * 32)
DEVICES = (1, 2, 4, 8)
PACKED = (1024, 2048, 4096, 8192)


def tree_of(tokens: int) -> Tree:
  """Returns a tree of that many tokens, an eighth of them its trunk."""
  trunk = tokens // 8
  lane = Lane(
    trunk,
    np.zeros(trunk, np.int32),
    np.zeros(trunk, np.float32),
    np.ones(trunk, np.float32),
  )
  return Tree(np.ones(trunk, np.int32), [lane] * 7, False)


def tokens_per_second(unit: Unit) -> float:
  """Returns how fast a unit is sampled."""
  return sum(unit.lengths) / _seconds(ours.sampling, unit)


def _seconds(make, work) -> float:
  """Returns the median time of what is made of some work."""
  maker = functools.partial(make, _MODEL, work)
  return measuring.alternate({"": maker}, _REPEATS.value)[""].median


def _on_devices(count: int) -> float:
  """The speed of one unit in a process that has that many host devices."""
  devices = f"--xla_force_host_platform_device_count={count}"
  with mock.patch.dict(os.environ, XLA_FLAGS=devices):
    return tokens_per_second(ONE_UNIT)


def decode_bytes(unit: Unit) -> dict[str, float]:
  """Returns what the decode loop takes, and by the plan."""
  config, mesh = shapes.MODELS[_MODEL], make_mesh(data=-1, fsdp=1, tensor=1)
  sizes = dict(
    rows=unit.rows,
    lanes=unit.lanes,
    trunk_length=unit.trunk_length,
    completion_length=max(unit.lengths),
  )
  sampler = ours.make_sampler(config, mesh, **sizes, steps_per_dispatch=32)
  params = parameters.abstract_params(config, mesh)
  program = ours.compiled(sampler, params)["decode"]
  plan = ours.planned_bytes(config, mesh, **sizes, row_length=1)
  return _beside_plan(program, plan, "decode")


def update_bytes(tokens: int) -> dict[str, float]:
  """Returns what an update of one row takes, and by the plan."""
  config, mesh = shapes.MODELS[_MODEL], make_mesh(data=-1, fsdp=1, tensor=1)
  lowered = ours.lower_update(config, mesh, tokens, num_microbatches=1)
  one = dict(rows=1, lanes=1, trunk_length=1, completion_length=1)
  plan = ours.planned_bytes(config, mesh, **one, row_length=tokens)
  return _beside_plan(lowered.compile(), plan, "update")


def _beside_plan(program, plan, name: str) -> dict[str, float]:
  sizes = program.memory_analysis()
  taken = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
  planned = sum(plan[part] for part in ours.PLANNED[name])
  return {"compiler": taken, "plan": planned}


# How far something has grown -> what is measured of it then, by whom.
Series = dict[int, dict[str, float]]
_COLORS = ("#0072b2", "#d55e00")


def _draw(panels: dict[tuple[str, str], Series], stem: str) -> None:
  """One panel for each thing that grows and what is measured of it."""
  figure = Figure(figsize=(13, 6), layout="constrained")
  for axes, ((name, unit), points) in zip(
    figure.subplots(2, 4).flat, panels.items()
  ):
    for color, series in zip(_COLORS, next(iter(points.values()))):
      values = [point[series] for point in points.values()]
      axes.plot(list(points), values, "o-", color=color, label=series)
    if len(axes.lines) > 1:
      axes.legend()
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(points), [str(n) for n in points])
    axes.set_xlabel(name)
    axes.set_ylabel(unit)
    axes.grid(color="#e6e6e6")
    if unit == "tokens/s":
      axes.set_ylim(bottom=0)
    else:
      axes.set_yscale("log", base=2)
  for kind in ("png", "svg"):
    figure.savefig(f"{stem}.{kind}", dpi=120)


def main() -> None:
  """Measures every point; prints a table and draws the figure."""
  panels: dict[tuple[str, str], Series] = {
    (name, "tokens/s"): {
      n: {"measured": tokens_per_second(unit)} for n, unit in units.items()
    }
    for name, units in SAMPLING.items()
  }
  panels["host devices", "tokens/s"] = {
    n: {"measured": _on_devices(n)} for n in DEVICES
  }
  packed = "packed tokens of an update"
  panels[packed, "seconds"] = {
    n: {"measured": _seconds(ours.updating, [tree_of(n)])} for n in PACKED
  }
  mib = lambda found: {name: x / 2**20 for name, x in found.items()}
  lanes = "lanes a row"
  panels[lanes, "MiB of the decode loop"] = {
    n: mib(decode_bytes(unit)) for n, unit in SAMPLING[lanes].items()
  }
  panels[packed, "MiB"] = {n: mib(update_bytes(n)) for n in PACKED}
  measuring.show(
    f"{_MODEL} model, {len(os.sched_getaffinity(0))} cores",
    [
      {"what grows": name, "to": n, "by": series, "": value, "unit": unit}
      for (name, unit), points in panels.items()
      for n, point in points.items()
      for series, value in point.items()
    ],
    _JSON.value,
  )
  if _FIGURE.value:
    _draw(panels, _FIGURE.value)


if __name__ == "__main__":
  measuring.run(main)
