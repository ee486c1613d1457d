"""How a step's work scales over devices, and what they send each other.

  python -m benchmarks.sharded --devices=1,2,4,8 --figure=docs/sharded

Weight hand-over, prefill, decode loop and update of one model, on ever more
devices along one axis of the mesh at a time. Strong scaling: the same rows on
however many devices; weak: this many rows per device. Seconds are measured; the
bytes that reach a device are read off the compiled programs. On a CPU the
devices are the host's, which share its cores: their seconds show what sharding
costs, not what it gains. On a slice each process is started with this command.
"""

import collections
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks import measuring, ours, shapes
from prefixrl_jax import startup
from prefixrl_jax.distributed import ahead, compilation, places, sharding
from prefixrl_jax.distributed.mesh import MESH_AXES, make_mesh
from prefixrl_jax.learner.packing import Layout, pack
from prefixrl_jax.models import parameters
from prefixrl_jax.models.transformer import TransformerConfig
from prefixrl_jax.run import estimates

PHASES = ("weight hand-over", "prefill", "decode", "update")


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of a row: the sampler's trunk and lanes, and the learner's packed row.

  Attributes:
    lanes: of a trunk.
    trunk_length: tokens.
    steps: that are decoded.
    row_length: tokens of a packed row, one tree of a trunk and seven lanes.
  """

  lanes: int
  trunk_length: int
  steps: int
  row_length: int


class Work:
  """What a step of RL runs on a mesh, phase by phase, on a number of rows."""

  def __init__(
    self,
    config: TransformerConfig,
    mesh: jax.sharding.Mesh,
    rows: int,
    sizes: Sizes,
  ):
    """Sets up the programs; compiles nothing yet.

    Args:
      config: of the model.
      mesh: the devices.
      rows: of the sampler, and packed ones of the learner.
      sizes: of a row.
    """
    self.config, self.mesh, self.rows, self.sizes = config, mesh, rows, sizes
    s = sizes
    self.programs = ours.make_sampler(
      config,
      mesh,
      rows=rows,
      lanes=s.lanes,
      trunk_length=s.trunk_length,
      completion_length=s.steps,
      steps_per_dispatch=s.steps,
    ).programs
    self.update, self.abstract_state, self.init = ours.make_update(config, mesh)
    shards = sharding.num_row_shards(mesh)
    self.microbatches = rows // shards
    part = s.row_length // 8
    self.batch = pack(
      ours.make_trees(config, (part, (part,), 7, part, rows)),
      Layout(s.row_length, shards, self.microbatches),
    )

  @property
  def turns(self) -> dict[str, int]:
    """How often the loops turn whose length only the device knows."""
    return {"decode": self.sizes.steps, "update": self.microbatches}

  def step(
    self,
    run: Callable[[str, Callable[[], Any]], Any],
    params: Any,
    state: Any,
    batch: Any,
  ) -> Any:
    """Runs the phases once; the learner's state is used up.

    Args:
      run: (phase, what it does) -> what that returns.
      params: of the policy, arrays or shapes, as the batch.
      state: of the learner.
      batch: on the mesh.

    Returns:
      The learner's next state.
    """
    p, s, grid = self.programs, self.sizes, (self.rows, self.sizes.lanes)
    weights = run("weight hand-over", lambda: p.unstack(params))
    trunks = np.random.default_rng(0).integers(
      0, self.config.vocab_size, (self.rows, s.trunk_length), np.int32
    )
    at = np.arange(self.rows, dtype=np.int32)
    empty = p.init()
    filled = run(
      "prefill", lambda: p.admit(weights, empty, row_ids=at, trunks=trunks)
    )
    begun = p.start(
      state=filled,
      lanes=np.ones(grid, bool),
      fork=np.full(grid, s.trunk_length, np.int32),
      limit=np.full(grid, s.steps, np.int32),
      seed=np.uint32(0),
      key_ids=np.zeros((*grid, 4), np.uint32),
    )
    run(
      "decode",
      lambda: p.decode(weights, state=begun, patience=np.int32(2**31 - 1)),
    )
    return run("update", lambda: self.update(state, batch, None))[0]


class _Counter(ahead.Compiler):
  """Compiles programs, and counts how often a phase calls each."""

  def __init__(self):
    super().__init__()
    self.times: collections.Counter[tuple[str, str]] = collections.Counter()

  def call(self, program: ahead.Program, args: tuple, kwargs: dict) -> Any:
    for phase in self.of:
      self.times[phase, program.name] += 1
    return super().call(program, args, kwargs)


def received(work: Work) -> dict[str, dict[str, float] | None]:
  """Returns the bytes that reach a device in each phase, by kind.

  Args:
    work: compiled, not run.

  Returns:
    {phase: {kind of collective: bytes}}; None: a program of it cannot be read.
  """
  counter = _Counter()

  def run(phase, do):
    with ahead.part(phase):
      return do()

  with jax.set_mesh(work.mesh), ahead.compiling(counter):
    work.step(
      run,
      parameters.abstract_params(work.config, work.mesh),
      work.abstract_state,
      sharding.abstract_rows(work.mesh, work.batch, axis=1),
    )
  found: dict[str, dict[str, float] | None] = {phase: {} for phase in PHASES}
  for done in counter.compiled:
    for phase in filter(None, done.of):
      sent = estimates.traffic_of(done, work.turns.get(phase, 1))
      so_far = found[phase]
      if sent is None or so_far is None:
        found[phase] = None
        continue
      for kind, traffic in sent.items():
        moved = traffic.bytes * counter.times[phase, done.name]
        so_far[kind] = so_far.get(kind, 0.0) + moved
  return found


def seconds(work: Work, params: dict, repeats: int) -> dict[str, list[float]]:
  """Returns what each phase takes, a call that warms up left out.

  Args:
    work: to be done.
    params: of the model, on the host.
    repeats: timed calls.
  """
  taken: dict[str, list[float]] = {phase: [] for phase in PHASES}

  def run(phase, do):
    started = time.perf_counter()
    result = jax.block_until_ready(do())
    taken[phase].append(time.perf_counter() - started)
    return result

  with jax.set_mesh(work.mesh):
    on_mesh = parameters.put_params(work.config, work.mesh, params)
    batch = sharding.put_rows(work.mesh, work.batch, axis=1)
    state = work.init(on_mesh)
    for _ in range(1 + repeats):
      state = work.step(run, on_mesh, state, batch)
  return {phase: spent[1:] for phase, spent in taken.items()}


def measure(
  config: TransformerConfig,
  axes: Sequence[str],
  counts: Sequence[int],
  sizes: Sizes,
  *,
  rows: int,
  repeats: int,
) -> list[dict[str, Any]]:
  """Returns a row for each axis, scaling, number of devices and phase.

  A process that has none of a mesh's devices leaves it out.

  Args:
    config: of the model.
    axes: of the mesh, one at a time.
    counts: numbers of devices; each divides the largest.
    sizes: of a row.
    rows: of a device in weak scaling; in strong scaling, as many in all as the
      most devices then have.
    repeats: timed calls.
  """
  params = shapes.random_params(config)

  @functools.cache  # one device is the same on every axis
  def at(num_rows: int, **shape: int) -> list[dict[str, Any]]:
    count = max(shape.values(), default=1)
    chosen = jax.devices()[:count]
    if jax.process_index() not in {d.process_index for d in chosen}:
      return []
    mesh = make_mesh(**{"data": 1, **shape}, devices=chosen)
    work = Work(config, mesh, num_rows, sizes)
    reaches, took = received(work), seconds(work, params, repeats)
    return [
      {
        "phase": phase,
        "MiB a device": _in_all(reaches[phase]),
        **measuring.spread(took[phase]),
        "by kind": reaches[phase],
      }
      for phase in PHASES
    ]

  return [
    {"axis": axis, "scaling": scaling, "devices": n, "rows": num_rows, **row}
    for axis in axes
    for scaling in ("strong", "weak")
    for n in counts
    for num_rows in [rows * (n if scaling == "weak" else max(counts))]
    for row in at(num_rows, **({axis: n} if n > 1 else {}))
  ]


def _in_all(by_kind: dict[str, float] | None) -> float:
  return np.nan if by_kind is None else sum(by_kind.values()) / 2**20


_COLORS = dict(zip(MESH_AXES, ("#0072b2", "#009e73", "#d55e00", "#cc79a7")))
_LINES = {"strong": "o-", "weak": "s--"}
# Other work only slows a call: the quickest says most.
_UNITS = {
  "least": "seconds of the quickest call",
  "MiB a device": "MiB that reach a device",
}


def draw(rows: Sequence[dict[str, Any]], title: str, stem: str) -> None:
  """Draws seconds above bytes, a column a phase, over the number of devices.

  Args:
    rows: of `measure`.
    title: names the machine.
    stem: of the files, PNG and SVG.
  """
  figure = Figure(figsize=(13, 6), layout="constrained")
  figure.suptitle(title, fontsize="medium")
  axes_of = sorted({r["axis"] for r in rows}, key=MESH_AXES.index)
  counts = sorted({r["devices"] for r in rows})
  panels = figure.subplots(len(_UNITS), len(PHASES), squeeze=False)
  for of_value, (value, unit) in zip(panels, _UNITS.items()):
    for panel, phase in zip(of_value, PHASES):
      for axis in axes_of:
        for scaling, line in _LINES.items():
          points = {
            r["devices"]: r[value]
            for r in rows
            if (r["phase"], r["axis"], r["scaling"]) == (phase, axis, scaling)
          }
          panel.plot(
            list(points), list(points.values()), line, color=_COLORS[axis]
          )
      panel.set_xscale("log", base=2)
      panel.set_xticks(counts, [str(n) for n in counts])
      panel.set_ylim(bottom=0)
      panel.grid(color="#e6e6e6")
      if value == "least":
        panel.set_title(phase)
      else:
        panel.set_xlabel("devices")
    of_value[0].set_ylabel(unit)
  figure.legend(
    handles=[
      Line2D([], [], color=_COLORS[axis], marker=line[0], ls=line[1:], label=x)
      for axis in axes_of
      for scaling, line in _LINES.items()
      for x in [f"{axis}, {scaling} scaling"]
    ],
    loc="outside lower center",
    ncols=4,
  )
  for kind in ("png", "svg"):
    figure.savefig(f"{stem}.{kind}", dpi=120)


_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "How many.")
_AXES = measuring.define_choices(
  "axes",
  MESH_AXES,
  "Axes of the mesh along which they are, one at a time",
  default=("fsdp", "tensor"),
)
_MODEL = flags.DEFINE_enum("model", "eight", list(shapes.MODELS), "Its shape.")
_ROWS = flags.DEFINE_integer("rows", 1, "Rows a device, in weak scaling.", 1)
_LANES = flags.DEFINE_integer("lanes", 8, "Completions of a trunk.", 1)
_TRUNK = flags.DEFINE_integer("trunk_length", 64, "Tokens of a trunk.", 8)
_STEPS = flags.DEFINE_integer("steps", 16, "Tokens decoded in each lane.", 1)
_ROW_LENGTH = flags.DEFINE_integer(
  "row_length", 256, "Tokens of a packed row.", 128
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed calls of each.", 3)
_FIGURE = flags.DEFINE_string("figure", "", "Stem of the figure, PNG and SVG.")
_JSON = measuring.define_json()


def _counts() -> list[int]:
  """Returns --devices, which must be whole parts of the largest."""
  if not all(x.strip().isdigit() and int(x) for x in _DEVICES.value):
    sys.exit(f"--devices={','.join(_DEVICES.value)}: numbers, as 1,2,4,8.")
  counts = sorted({int(x) for x in _DEVICES.value})
  if any(counts[-1] % n for n in counts):
    sys.exit(f"--devices: each must divide the largest, {counts[-1]}.")
  return counts


def _start(count: int) -> None:
  """Makes host devices if a CPU is all there is, and joins other processes."""
  if "--xla_force_host_platform_device_count" not in os.environ.get(
    "XLA_FLAGS", ""
  ):
    jax.config.update("jax_num_cpu_devices", count)
  compilation.keep_compiled_programs()
  place = places.find(has_tpu=startup.has_tpu)
  if place:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
      place.coordinator,
      place.size,
      place.index,
      local_device_ids=place.devices,
      cluster_detection_method="deactivate",
    )
  if count > jax.device_count():
    sys.exit(f"--devices: there are {jax.device_count()}, not {count}.")


def main() -> None:
  """Measures every point; prints a table and draws the figure."""
  counts = _counts()
  _start(counts[-1])
  sizes = Sizes(_LANES.value, _TRUNK.value, _STEPS.value, _ROW_LENGTH.value)
  rows = measure(
    shapes.MODELS[_MODEL.value],
    _AXES.value,
    counts,
    sizes,
    rows=_ROWS.value,
    repeats=_REPEATS.value,
  )
  if jax.process_index():
    return
  title = f"model {_MODEL.value}, {measuring.machine()}"
  measuring.show(title, rows, _JSON.value)
  if _FIGURE.value:
    draw(rows, title, _FIGURE.value)


if __name__ == "__main__":
  measuring.run(main)
