"""Timing that can be trusted: warm, alternating, next to a roofline."""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from etils import epath
from rich.console import Console
from rich.table import Table

from prefixrl_jax.distributed import huge_pages, processor
from prefixrl_jax.storage.artifacts import Artifact, artifacts_of
from prefixrl_jax.types import UserError

flags.disclaim_key_flags()  # --help shows them as those of who asks for them


def run(main: Callable[[], None]) -> None:
  """Runs a benchmark in huge pages; its arguments are flags alone."""
  huge_pages.ensure()

  def checked(argv):
    if len(argv) > 1:
      sys.exit(f"what is {argv[1]!r}? Flags start with --; see --help.")
    try:
      main()
    except UserError as e:
      sys.exit(f"error: {e}")

  app.run(checked)


def finished(workdir: str, stage: str) -> list[tuple[Artifact, dict[str, Any]]]:
  """Returns what a stage left of each run in which it is complete.

  Args:
    workdir: of the flag.
    stage: train or evaluate.

  Raises:
    UserError: there is none.
  """
  folder = epath.Path(workdir)
  if not (folder / "run_config.json").exists():
    raise UserError(f"--workdir={workdir}: no run is there.")
  there = [each for each in artifacts_of(folder, stage) if each[0].has_finished]
  if not there:
    raise UserError(
      f"--workdir={workdir}: --stage={stage} has not ended there."
    )
  return there


@functools.cache  # tests import several benchmarks
def define_json() -> flags.FlagHolder[str]:
  """Defines the flag --json, a file for what `show` shows."""
  return flags.DEFINE_string("json", "", "File for the figures.")


def define_choices(
  name: str, known: Collection[str], what: str, default: Collection[str] = ()
) -> flags.FlagHolder[list[str]]:
  """Defines a flag that takes some of what is known; by default all of it."""
  names = ", ".join(known)
  holder = flags.DEFINE_list(
    name, list(default or known), f"{what}, of {names}."
  )
  flags.register_validator(
    name,
    lambda asked: bool(asked) and set(asked) <= set(known),
    message=f"known: {names}; several are separated by commas",
  )
  return holder


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


def spread(seconds: list[float]) -> dict[str, float]:
  """Returns a table's columns of what several calls took."""
  return {
    "seconds": statistics.median(seconds),
    "least": min(seconds),
    "most": max(seconds),
  }


@dataclasses.dataclass
class Timed:
  """What the calls of one run took."""

  seconds: list[float] = dataclasses.field(default_factory=list)
  peak_gib: float = 0.0  # of its process

  @property
  def median(self) -> float:
    """The call in the middle."""
    return statistics.median(self.seconds)

  def row(self) -> dict[str, float]:
    """Returns columns of a table."""
    return {**spread(self.seconds), "peak GiB": self.peak_gib}


Maker = Callable[[], Callable[[], Any]]


def alternate(makers: Mapping[str, Maker], repeats: int) -> dict[str, Timed]:
  """Times every run `repeats` times, in turn, after one call that warms up.

  Each run is made and called in a process of its own, where nothing that
  another allocates or sets can slow it, and its memory can be told.

  Args:
    makers: name -> what makes what is timed; it can be pickled. Turns spread
      the machine's moods over all.
    repeats: at least 3.

  Raises:
    SystemExit: if a process failed.
  """
  timed = {name: Timed() for name in makers}
  with contextlib.ExitStack() as stack:
    runs = {
      name: stack.enter_context(contextlib.closing(_Process(name, make)))
      for name, make in makers.items()
    }
    for run in runs.values():
      run()
    for _ in range(repeats):
      for name, run in runs.items():
        seconds, timed[name].peak_gib = run()
        timed[name].seconds.append(seconds)
  return timed


class _Process:
  """A run in a process of its own; a call returns its seconds and peak GiB."""

  def __init__(self, name: str, make: Maker):
    spawn = multiprocessing.get_context("spawn")
    self._name = name
    self._connection, theirs = spawn.Pipe()
    self._process = spawn.Process(target=_serve, args=(theirs, make))
    self._process.start()
    theirs.close()

  def __call__(self) -> tuple[float, float]:
    try:
      self._connection.send("go")
      return self._connection.recv()
    except (EOFError, OSError):
      sys.exit(f"The process of {self._name} failed; its error is above.")

  def close(self) -> None:
    self._connection.close()
    self._process.join()


def _serve(connection, make: Maker) -> None:
  """Calls a run whenever it is asked to, until nobody asks any more."""
  run = make()
  with contextlib.suppress(EOFError):
    while connection.recv():
      seconds = seconds_of(run)
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
      connection.send((seconds, peak))
  os._exit(0)  # a trainer's thread may wait for its next turn


_VECTORS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}


def machine() -> str:
  """Names what is measured: speeds are those of one kind of processor."""
  device = jax.devices()[0]
  if device.platform != "cpu":
    return f"{jax.device_count()} x {device.device_kind}"
  names = processor.features()
  vectors = [shown for name, shown in _VECTORS.items() if name in names]
  cores = len(os.sched_getaffinity(0))
  return ", ".join(
    [
      processor.facts().get("model name", platform.machine()),
      *vectors,
      f"{cores} core{'s' if cores > 1 else ''}",
    ]
  )


def show(
  title: str, rows: list[dict[str, Any]], file: str, *, timed: bool = True
) -> None:
  """Prints rows as a table and writes them as JSON.

  Args:
    title: above the table.
    rows: all with the same keys, the table's columns.
    file: of the JSON; empty: none.
    timed: they depend on this machine, which is named.
  """
  here = machine() if timed else ""
  table = Table(title=title, caption=here)
  for name in rows[0]:
    table.add_column(name)
  for row in rows:
    table.add_row(
      *(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
    )
  # A file or a pipe is no narrower than the table.
  console = Console()
  if not console.is_terminal:
    console.width = 200
  console.print(table)
  if file:
    path = epath.Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if timed:
      rows = [{**row, "machine": here} for row in rows]
    path.write_text(json.dumps(rows, indent=2))
