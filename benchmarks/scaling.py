"""How cost grows with the work: completions and updates of the tiny model.

  python -m benchmarks.scaling --figure=docs/scaling

Sampled tokens a second over lanes, trunk length, completion length, group
size (64 lanes in all) and host devices; seconds of an update over its packed
tokens, which should lie on a line but for attention. Host devices share the
machine's cores: their row shows what sharding costs, not what it gains.
"""

import functools
import os
from unittest import mock

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from benchmarks import measuring, ours
from benchmarks.ours import Unit
from prefixrl_jax import huge_pages
from prefixrl_jax.learner.packing import Lane, Tree

_FIGURE = flags.DEFINE_string("figure", "", "Stem of the figure, PNG and SVG.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed calls of each.", 3)
_JSON = flags.DEFINE_string("json", "", "File for the figures.")

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
  """Returns a tree of so many tokens, an eighth of them its trunk."""
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
  """The speed of one unit in a process that has so many host devices."""
  devices = f"--xla_force_host_platform_device_count={count}"
  with mock.patch.dict(os.environ, XLA_FLAGS=devices):
    return tokens_per_second(ONE_UNIT)


def _draw(figures: dict[str, dict[int, float]], stem: str) -> None:
  """One panel for each thing that grows."""
  figure = Figure(figsize=(10, 6), layout="constrained")
  for axes, (name, points) in zip(figure.subplots(2, 3).flat, figures.items()):
    axes.plot(list(points), list(points.values()), "o-", color="#0072b2")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(points), [str(n) for n in points])
    axes.set_xlabel(name)
    axes.set_ylabel("seconds" if "packed" in name else "tokens/s")
    axes.grid(color="#e6e6e6")
    if "packed" in name:
      axes.set_yscale("log", base=2)
    else:
      axes.set_ylim(bottom=0)
  for kind in ("png", "svg"):
    figure.savefig(f"{stem}.{kind}", dpi=120)


def main(argv) -> None:
  """Measures every point; prints a table and draws the figure."""
  del argv
  figures = {
    name: {n: tokens_per_second(unit) for n, unit in units.items()}
    for name, units in SAMPLING.items()
  }
  figures["host devices"] = {n: _on_devices(n) for n in DEVICES}
  figures["packed tokens of an update"] = {
    n: _seconds(ours.updating, [tree_of(n)]) for n in PACKED
  }
  measuring.show(
    f"{_MODEL} model, {len(os.sched_getaffinity(0))} cores",
    [
      {"what grows": name, "to": n, "tokens/s, or seconds of an update": value}
      for name, points in figures.items()
      for n, value in points.items()
    ],
    _JSON.value,
  )
  if _FIGURE.value:
    _draw(figures, _FIGURE.value)


if __name__ == "__main__":
  huge_pages.ensure()
  app.run(main)
