"""What a run's programs take, as a table for people."""

import math
import re
import string
from typing import Any

from prefixrl_jax.distributed import collectives

_GIB = 2**30
# The settings that help, by program.
_REMEDIES = {
  "decode": "fewer rows and lanes (config.train, screen, collect, evals), a"
  " shorter config.rollouts.max_completion_length, more devices in"
  " config.mesh.fsdp",
  "update": "model.remat=full, learner.rows_per_microbatch=1, a shorter"
  " learner.row_length or learner.logits_chunk_length, more devices in"
  " config.mesh.fsdp or tensor",
}
# What programs should reach at the least: of what, how much.
_BARS = {
  "update": ("mfu", 0.4, "peak FLOP/s, without what is recomputed"),
  "decode": ("bandwidth", 0.5, "memory bandwidth"),
}
_REMEDY = (
  "shorter config.rollouts lengths, fewer rows (config.train, screen, collect,"
  " evals), more devices in config.mesh"
)


def table(summary: dict[str, Any]) -> str:
  """Returns the summary for people, as Markdown.

  Args:
    summary: what `compile_ahead.run` writes.
  """
  lines = [
    "| program | of | arguments | temporaries | at most (plan) | in all |"
    " TFLOP by hand (XLA) | GB by hand (XLA) | received, GB | compiled in, s |"
    " at least, ms | bound by | MFU, of bandwidth |",
    "|" + "---|" * 13,
    *map(_line, summary["programs"]),
  ]
  have = summary["device_bytes"]
  notes = [
    f"GiB, FLOPs and bytes of one device ({summary['device']}"
    + (f", which has {_gib(have)} GiB" if have else "")
    + "). In all: with what else the memory plan has there. XLA counts a loop's"
    " body once. MFU, without what is recomputed, and the share of the memory's"
    " bandwidth are at most these.",
  ]
  notes += filter(None, map(_missed, summary["programs"]))
  for arm, step in summary["steps"].items():
    parts = ", ".join(
      f"{name} {seconds:.3g}"
      for name, seconds in step.items()
      if name not in ("step", "mfu", "tokens_per_second_per_chip")
    )
    notes.append(
      f"{arm}: a step takes at least {step['step']:.3g} s ({parts}),"
      f" {step['tokens_per_second_per_chip']:.3g} tokens/s a chip, MFU at most"
      f" {step['mfu']:.0%}, if every length is half of what it may be."
    )
  if hours := summary["chip_hours"]:
    parts = ", ".join(f"{stage} {x:.3g}" for stage, x in hours.items())
    notes.append(
      f"The run takes {sum(hours.values()):.3g} chip-hours ({parts}), likewise,"
      " if every problem is hard and collection takes all of its attempts."
    )
  return "\n".join([*lines, "", *notes])


def _missed(program: dict[str, Any]) -> str:
  """Returns which bar a program misses by the estimate; empty: none."""
  share, least, what = _BARS.get(program["name"], ("", 0.0, ""))
  if program.get(share, 1.0) >= least:
    return ""
  return (
    f"{program['name']} ({program['of'][0]}) reaches at most"
    f" {program[share]:.0%} of the chip's {what}; {least:.0%} are wanted."
  )


def _line(program: dict[str, Any]) -> str:
  p = program
  name = p["name"] + (f", {p['rows']} rows" if p["rows"] else "")
  parts = sorted({place.rpartition(", ")[2] for place in p["of"]})
  cells = [name, ", ".join(parts)]
  planned = f" ({_gib(p['planned'])})" if "planned" in p else ""
  if "memory" not in p:
    taken = _wanted(p["error"])
    cells += ["", "", f"**{taken}, does not fit**{planned}", *[""] * 4]
    return _row([*cells, f"{p['compile_seconds']:.0f}", "", "", ""])
  memory, xla, hand = p["memory"], p["by_xla"], p["by_hand"]
  both = lambda what, unit: (
    f"{hand[what] / unit:.3g} ({xla[what] / unit:.3g})"
    if hand
    else f"({xla[what] / unit:.3g})"
  )
  cells += [
    _gib(memory["arguments"]),
    _gib(memory["temporaries"]),
    _gib(memory["peak"]) + planned,
    _in_all(p),
    both("flops", 1e12),
    both("bytes", 1e9),
    _of_collectives(p["collectives"]),
    f"{p['compile_seconds']:.3g}",
  ]
  if "seconds" not in p:
    return _row([*cells, "", "", ""])
  bound = max(p["seconds"], key=p["seconds"].get)
  shares = f"{p['mfu']:.0%}, {p['bandwidth']:.0%}"
  return _row([*cells, f"{1e3 * p['at_least']:.3g}", bound, shares])


def _in_all(program: dict[str, Any]) -> str:
  if "in_all" not in program:
    return ""
  taken = _gib(program["in_all"])
  return f"**{taken}, does not fit**" if program["error"] else taken


def _row(cells: list[str]) -> str:
  return f"| {' | '.join(cells)} |"


def _of_collectives(found: dict[str, dict[str, Any]] | None) -> str:
  if found is None:
    return "unreadable"
  cells = []
  for kind in filter(found.__contains__, collectives.KINDS):
    sent = found[kind]
    axes = ", ".join(
      f"{axes or 'none'} {moved / 1e9:.3g}"
      for axes, moved in sorted(sent["by_axes"].items())
    )
    share = sent["overlapped"] / sent["bytes"] if sent["bytes"] else 0.0
    hidden = f"; {share:.0%} overlaps" if share else ""
    cells.append(f"{kind} {sent['bytes'] / 1e9:.3g} ({axes}{hidden})")
  return ", ".join(cells)


def _gib(num_bytes: float) -> str:
  return f"{num_bytes / _GIB:.3g}"


def _wanted(error: str) -> str:
  """Returns what libtpu says that a program takes."""
  found = re.search(r"(?:Used |\()([\d.]+[KMGT])\b", error)
  return found[1] if found else "too much"


# One of those that libtpu lists, the largest first.
_BUFFER = re.compile(
  r"^ *\d+\. Size: (\S+)\n"
  r"(?: *Operator: op_name=\"([^\"]*)\".*\n)?"
  r" *Shape: (\w+\[[\d,]*\])",
  re.MULTILINE,
)


# What an operation makes, before devices share it.
_MADE = re.compile(
  r"= \"?stablehlo\.(\w+)\b.*tensor<((?:\d+x)+)([a-z]+\d+)>"
  r"(?: loc\(.*\))?$",
  re.MULTILINE,
)


def largest_buffers(error: str, lowered: str, most: int = 3) -> list[str]:
  """Returns what takes most: size, shape and where from.

  libtpu lists it if it is allocated; a program that is refused before has no
  list, and what its operations make, on all devices together, has to do.

  Args:
    error: of a program that does not fit.
    lowered: its text, as it was given to the compiler.
    most: how many.
  """
  found = []
  for size, operator, shape in _BUFFER.findall(error):
    # The last parts of the path say what it is.
    where = "/".join(operator.split("/")[-2:])
    found.append(f"{size} {shape}" + (f" of {where}" if where else ""))
  if not found:
    made = {
      (
        _num_bytes(dims, dtype),
        f"{dtype}[{','.join(dims.split('x')[:-1])}]",
        operation,
      )
      for operation, dims, dtype in _MADE.findall(lowered)
    }
    found = [
      f"{_gib(size)}G {shape} of {operation} on all devices"
      for size, shape, operation in sorted(made, reverse=True)
    ]
  return [*dict.fromkeys(found)][:most]


def _num_bytes(dims: str, dtype: str) -> float:
  bits = max(8, int(dtype.lstrip(string.ascii_letters)))
  return math.prod(int(n) for n in dims.split("x") if n) * bits / 8


def too_large(failed: list[dict[str, Any]]) -> str:
  """Returns what does not fit, how much it takes and what would help.

  Args:
    failed: the summary's programs that have an error.
  """
  said = []
  for p in failed:
    of, buffers = p["of"][0], p["largest"]
    largest = f" (the largest: {', '.join(buffers)})" if buffers else ""
    limit = re.search(r"(?:of |HBM \()([\d.]+[KMGT])\b", p["error"])
    said.append(
      f"{p['name']} ({of}) takes {_wanted(p['error'])} of"
      f" {limit[1] if limit else 'the memory'} on each device{largest}: "
      + _REMEDIES.get(p["name"], _REMEDY)
    )
  return "not every program fits. " + "; ".join(said) + "."
