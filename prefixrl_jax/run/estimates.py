"""What a compiled program does and takes, beside what is counted by hand."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding

from prefixrl_jax.distributed import collectives
from prefixrl_jax.distributed.ahead import Compiled
from prefixrl_jax.distributed.chips import Chip
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run import by_hand
from prefixrl_jax.run.session import Engine


def work_of(done: Compiled, engine: Engine) -> by_hand.Work | None:
  """Returns what a program does; None: too little to be counted.

  Args:
    done: compiled, for a sampler, or for a learner or scorer within a part
      whose object is `trees_of` its arm.
    engine: of the run.
  """
  model, mesh, subject = engine.model, engine.mesh, done.subjects[-1]
  if not done.executable:
    return None
  with jax.set_mesh(mesh):
    if isinstance(subject, Sampler):
      if done.name == "decode":
        return by_hand.decode(subject.programs, model, mesh)
      if done.name.startswith("prefill"):
        rows, is_last = rows_of(done), done.name != "prefill a layer"
        return by_hand.prefill(
          subject.programs, rows, model, mesh, is_last=is_last
        )
      if done.name.startswith("hand over"):
        sizes = memory_of(done)
        return by_hand.Work(0.0, sizes["arguments"] + sizes["results"])
    elif done.name in ("update", "score"):
      trees = done.subjects[0][done.of[0].rpartition(", ")[2]]
      count = by_hand.update if done.name == "update" else by_hand.score
      return count(subject, trees, model, mesh)
  return None


def rows_of(done: Compiled) -> int | None:
  """Returns how many rows a prefill fills; None: it is no prefill.

  Args:
    done: compiled.
  """
  if done.name.startswith("prefill"):
    (_, x, *_), _ = done.lowered.args_info
    return x.shape[0]
  return None


def memory_of(done: Compiled) -> dict[str, float]:
  """Returns a device's bytes, as the compiler has them.

  What a program takes is at most arguments, results and temporaries; and on a
  TPU at most the peak of its live memory, by which libtpu refuses one that a
  chip cannot hold, and which may be far less than their sum.

  Args:
    done: compiled.

  Returns:
    arguments; results, those not written over arguments; temporaries; and
    peak, the least of these bounds.
  """
  assert done.executable
  sizes: Any = done.executable.memory_analysis()
  results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
  whole = sizes.argument_size_in_bytes + results + sizes.temp_size_in_bytes
  [first, *_] = _shardings(done)
  is_tpu = next(iter(first.device_set)).platform == "tpu"
  peak = sizes.peak_memory_in_bytes if is_tpu else 0
  return {
    "arguments": float(sizes.argument_size_in_bytes),
    "results": float(results),
    "temporaries": float(sizes.temp_size_in_bytes),
    "peak": float(min(peak, whole) if peak else whole),
  }


def costs_of(done: Compiled) -> dict[str, float]:
  """Returns a device's FLOPs and bytes as XLA counts, a loop's body once.

  Args:
    done: compiled.
  """
  assert done.executable
  found: Any = done.executable.cost_analysis() or {}
  return {
    "flops": float(found.get("flops", 0.0)),
    "bytes": float(found.get("bytes accessed", 0.0)),
  }


def traffic_of(
  done: Compiled, turns: float
) -> dict[str, collectives.Traffic] | None:
  """Returns a program's collectives by kind; None: its text cannot be read.

  Args:
    done: compiled.
    turns: of the loop whose length only the device knows.
  """
  assert done.executable
  try:
    text = done.executable.as_text()
  except jax.errors.JaxRuntimeError:  # libtpu has some that XLA cannot print
    return None
  if text is None:
    return None
  mesh = next(
    (x.mesh.shape for x in _shardings(done) if isinstance(x, NamedSharding)),
    None,
  )
  return collectives.traffic(text, turns, mesh)


def _shardings(done: Compiled) -> list[Any]:
  """Returns those of a program's arguments and results."""
  assert done.executable
  return jax.tree.leaves(
    (done.executable.input_shardings, done.executable.output_shardings)
  )


def seconds_of(
  chip: Chip, traffic: Mapping[str, collectives.Traffic]
) -> tuple[float, float]:
  """Returns the seconds of collectives, and those while the device computes.

  Args:
    chip: that receives them.
    traffic: by kind.
  """

  def seconds(moved: float, by_axes: Mapping[str, float]) -> float:
    between = by_axes.get(collectives.SLICES, 0.0)
    within = (moved - between) / chip.interconnect
    return within + (between / chip.network if between else 0.0)

  every = traffic.values()
  return (
    sum(seconds(sent.bytes, sent.by_axes) for sent in every),
    sum(seconds(sent.overlapped, sent.overlapped_by_axes) for sent in every),
  )


def roofline(
  chip: Chip, least: by_hand.Work, waited: float, overlapped: float
) -> dict[str, Any]:
  """Returns the seconds that a program takes at the least.

  Args:
    chip: that it runs on.
    least: what the program does.
    waited: seconds of collectives that nothing overlaps.
    overlapped: seconds of those that run while the device computes.

  Returns:
    seconds: that each of the chip's resources needs; at_least: of the program;
    mfu: the share of the chip's peak that is not recomputed, at most;
    bandwidth: that of its memory's peak, at most.
  """
  seconds = {
    "compute": least.flops / chip.flops,
    "memory": least.bytes / chip.bandwidth,
    "interconnect": waited + overlapped,
  }
  busy = max(seconds["compute"], seconds["memory"], overlapped)
  at_least = busy + waited
  useful = (least.flops - least.recomputed) / chip.flops
  return {
    "seconds": seconds,
    "at_least": at_least,
    "mfu": useful / at_least,
    "bandwidth": seconds["memory"] / at_least,
  }
