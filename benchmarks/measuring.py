"""Timing that can be trusted: warm, alternating, next to a roofline."""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Roofline:
  """What this machine does at its best, measured on the spot in float32."""

  flops_per_second: float
  bytes_per_second: float

  def seconds(self, flops: float, bytes_moved: float = 0.0) -> float:
    """Returns the least time that a step of this size can take."""
    return max(
      flops / self.flops_per_second, bytes_moved / self.bytes_per_second
    )

  def best(self, other: "Roofline") -> "Roofline":
    """Returns the better of two measurements: others' work only slows one."""
    return Roofline(
      max(self.flops_per_second, other.flops_per_second),
      max(self.bytes_per_second, other.bytes_per_second),
    )


def measure_roofline() -> Roofline:
  """Measures square matrix products and a read that no cache holds."""
  product = jax.jit(lambda a: a @ a)
  speeds = []
  for size in (512, 1024, 2048):
    matrix = jnp.ones((size, size), jnp.float32)
    seconds = _best(functools.partial(product, matrix))
    speeds.append(2 * size**3 / seconds)
  vector = np.ones(2**27, np.float32)  # 512 MiB
  # XLA:CPU's own reductions read more slowly than memory can be read.
  read = _best(lambda: np.dot(vector, vector))
  return Roofline(max(speeds), vector.nbytes / read)


def _best(run: Callable[[], Any], repeats: int = 5) -> float:
  jax.block_until_ready(run())
  return min(seconds_of(run) for _ in range(repeats))


def seconds_of(run: Callable[[], Any]) -> float:
  """Returns the wall-clock of one call, results on the device included."""
  started = time.perf_counter()
  jax.block_until_ready(run())
  return time.perf_counter() - started


def alternate(
  runs: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
  """Times every run `repeats` times, in turn, after one call that warms up.

  Args:
    runs: name -> what to time. Turns spread the machine's moods over all.
    repeats: at least 3.

  Returns:
    name -> seconds of each call.
  """
  for run in runs.values():
    jax.block_until_ready(run())
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      seconds[name].append(seconds_of(run))
  return seconds


def median(seconds: list[float]) -> float:
  """Returns the median of a run's times."""
  return statistics.median(seconds)


def show(title: str, rows: list[dict[str, Any]], file: str) -> None:
  """Prints rows as a table and writes them as JSON.

  Args:
    title: above the table.
    rows: all with the same keys, the table's columns.
    file: of the JSON; empty: none.
  """
  table = Table(title=title)
  for name in rows[0]:
    table.add_column(name)
  for row in rows:
    table.add_row(
      *(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
    )
  Console().print(table)
  if file:
    path = epath.Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=2))
