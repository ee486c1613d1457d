"""Is it right on this GPU, and how fast? One command, under eight minutes.

  python -m benchmarks.device_check --out=device.jsonl

Needs this repository, a Python with JAX for CUDA and what setup.cfg asks for;
the package need not be installed. With torch and transformers beside them, the
same work is timed with these as well. Parts, the most telling first:

  machine         the card: products, copies, launches; what float32 means there
  exact_bfloat16, exact_float32, exact_tf32  attention, sampler and update
                  against dense float32 on the CPU
  demo            the tiny demo from start to report
  demo_tf32       the same with float32 products in TF32, JAX's default
  decode, update  SmolLM2-135M's and Qwen3-0.6B's shapes in bfloat16: tokens/s,
                  shares of memory bandwidth and of a product, kernels, memory
  decode_peer, update_peer  the same work by transformers
  decode_sweep, update_sweep  constants of distributed/backends.py, one by one
  no_graphs, no_triton  both with other flags of XLA's

Each part is a process with a time limit of its own, so that one that fails or
hangs costs none of the others anything, and each result is written at once: a
JSON line in --out. What the processes print is in a file beside it, `.log`.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import app, flags

_ROOT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Part:
  """What is measured by a process of its own.

  Attributes:
    run: "module:function", which takes `record` and whether to try it small.
    limit: seconds after which the process is ended.
    together: parts of one name run at the same time, since nothing is timed.
    env: of the process, beside what there is.
  """

  run: str
  limit: float
  together: str = ""
  env: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _beside(**env: str) -> dict[str, str]:
  """Parts that run at the same time share the card's memory."""
  return {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".18", **env}


_EXACT, _SPEED = "benchmarks.device_exact", "benchmarks.device_speed"
_PEER = "benchmarks.device_peer"
PARTS = {
  "machine": Part(f"{_SPEED}:machine", 45),
  "exact_bfloat16": Part(f"{_EXACT}:exact_bfloat16", 100, "untimed", _beside()),
  "exact_float32": Part(f"{_EXACT}:exact_float32", 100, "untimed", _beside()),
  "exact_tf32": Part(f"{_EXACT}:exact_tf32", 100, "untimed", _beside()),
  "demo": Part(f"{_EXACT}:demo", 150, "untimed", _beside()),
  "demo_tf32": Part(
    f"{_EXACT}:demo",
    150,
    "untimed",
    _beside(JAX_DEFAULT_MATMUL_PRECISION="tensorfloat32"),
  ),
  "decode": Part(f"{_SPEED}:decode", 90),
  "update": Part(f"{_SPEED}:update", 90),
  # Which take their work from our code, and must leave the card to torch.
  "decode_peer": Part(f"{_PEER}:decode", 60, env={"JAX_PLATFORMS": "cpu"}),
  "update_peer": Part(f"{_PEER}:update", 60, env={"JAX_PLATFORMS": "cpu"}),
  "decode_sweep": Part(f"{_SPEED}:decode_sweep", 75),
  "update_sweep": Part(f"{_SPEED}:update_sweep", 75),
  "no_graphs": Part(
    f"{_SPEED}:with_flags",
    50,
    env={"XLA_FLAGS": "--xla_gpu_enable_command_buffer="},
  ),
  "no_triton": Part(
    f"{_SPEED}:with_flags",
    50,
    env={"XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false"},
  ),
}

flags.disclaim_key_flags()
_NAMES = flags.DEFINE_list("parts", list(PARTS), "Which, in this order.")
flags.register_validator(
  "parts",
  lambda names: bool(names) and set(names) <= set(PARTS),
  message=f"known: {', '.join(PARTS)}; several are separated by commas",
)
_OUT = flags.DEFINE_string("out", "device.jsonl", "File for the figures.")
_BUDGET = flags.DEFINE_float(
  "budget",
  470.0,
  "Seconds for all parts; what is left when they are over"
  " is not started, or ended.",
)
_SMALL = flags.DEFINE_bool(
  "small", False, "Try every part on small shapes, on whatever device."
)
_PART = flags.DEFINE_enum(
  "part", None, list(PARTS), "Run this part in this very process."
)


def record(out: pathlib.Path, part: str, /, **figures: Any) -> None:
  """Appends a line of figures at once; other processes may do so too.

  Args:
    out: file of JSON lines.
    part: whose they are.
    **figures: JSON values; floats are cut to five digits.
  """
  short = {
    name: float(f"{x:.5g}") if isinstance(x, float) else x
    for name, x in figures.items()
  }
  line = json.dumps({"part": part, **short})
  with out.open("a") as f:
    f.write(line + "\n")


@dataclasses.dataclass
class _Running:
  """The process of a part."""

  name: str
  process: subprocess.Popen
  started: float
  limit: float
  ended: str = ""

  def look(self) -> bool:
    """Ends the process at its limit; returns whether it has ended."""
    if (code := self.process.poll()) is not None:
      self.ended = "well" if code == 0 else f"with exit code {code}"
    elif time.monotonic() - self.started > self.limit:
      self.end()
      self.ended = f"at its limit of {self.limit:.0f} s"
    return bool(self.ended)

  def end(self) -> None:
    """Ends the process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, signal.SIGKILL)
    self.process.wait()


def run_together(
  commands: Mapping[str, tuple[Sequence[str], Mapping[str, str], float]],
  out: pathlib.Path,
  log: pathlib.Path,
) -> None:
  """Runs processes at the same time, and records how each of them ended.

  Args:
    commands: name -> command, environment, and seconds until it is ended.
    out: file of JSON lines.
    log: file for what they print.
  """
  running = []
  try:
    with log.open("ab") as f:
      for name, (command, env, limit) in commands.items():
        process = subprocess.Popen(
          command,
          env={**os.environ, **env},
          cwd=_ROOT,
          stdin=subprocess.DEVNULL,
          stdout=f,
          stderr=subprocess.STDOUT,
          start_new_session=True,
        )
        running.append(_Running(name, process, time.monotonic(), limit))
    left = running
    while left:
      time.sleep(0.05)
      for each in [x for x in left if x.look()]:
        seconds = time.monotonic() - each.started
        record(out, each.name, ended=each.ended, seconds=seconds)
      left = [x for x in left if not x.ended]
  finally:
    for each in running:
      each.end()


def _groups(names: Sequence[str]) -> Iterator[list[str]]:
  """Yields parts that run at the same time, in the order of the first."""
  groups = collections.defaultdict(list)
  for name in names:
    groups[PARTS[name].together or name].append(name)
  yield from groups.values()


def _check(out: pathlib.Path) -> None:
  """Runs all parts asked for, within the budget."""
  until = time.monotonic() + _BUDGET.value
  log = out.with_suffix(".log")
  here = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
  with tempfile.TemporaryDirectory() as cache:
    for names in _groups(_NAMES.value):
      left = until - time.monotonic()
      if left < 10:
        for name in names:
          record(out, name, ended="before it began: no time was left")
        continue
      commands = {}
      for name in names:
        command = [sys.executable, "-m", "benchmarks.device_check"]
        command += [f"--part={name}", f"--out={out}"]
        env = {
          "PYTHONPATH": os.pathsep.join(here),
          "PYTHONUNBUFFERED": "1",
          # Programs of other parts need not be compiled again.
          "JAX_COMPILATION_CACHE_DIR": cache,
          "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
          **PARTS[name].env,
        }
        said = os.environ.get("XLA_FLAGS", "")
        env["XLA_FLAGS"] = f"{said} {env.get('XLA_FLAGS', '')}".strip()
        small = ["--small"] if _SMALL.value else []
        limit = min(PARTS[name].limit, left)
        commands[name] = ([*command, *small], env, limit)
      shown = out.stat().st_size
      run_together(commands, out, log)
      print(out.read_text()[shown:], end="", flush=True)


def _run_part(name: str, record_own: Callable[..., None]) -> None:
  try:
    run = pkgutil.resolve_name(PARTS[name].run)
    run(record_own, _SMALL.value)
  except Exception as e:
    record_own(error=" ".join(f"{type(e).__name__}: {e}".split())[:500])
    raise  # its stack trace belongs in the log


def _main(argv: list[str]) -> None:
  if len(argv) > 1:
    sys.exit(f"what is {argv[1]!r}? Flags start with --; see --help.")
  out = pathlib.Path(_OUT.value).absolute()
  if _PART.value:
    _run_part(_PART.value, functools.partial(record, out, _PART.value))
    return
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text("")
  # As Ctrl-C: what runs is ended.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  _check(out)


if __name__ == "__main__":
  app.run(_main)
