"""Many processes do what one does, through `main`, from screening to report.

  python -m benchmarks.processes --processes=2 --devices=4

Runs the tiny demo on CPU devices: in one process; in several over loopback; and
in several of which one is killed in training, then one told to end, before the
run goes on. Prints what differs by more than 1e-5, which is to be nothing.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

_ROOT = pathlib.Path(__file__).parents[1]
_CONFIG = "configs/demo.py:tiny=true,arms=prefixrl"
_TOLERANCE = 1e-5
# What differs between any two runs, or tells where a file is.
_OWN = ("time/", "per_second", "compilations", "finished", "sha256", "files")
_OWN_PARTS = (*_OWN, "made_from", "execution", "versions")
_HEARTBEAT = 20.0


def _start(
  workdir: pathlib.Path, processes: int, devices: int
) -> list[subprocess.Popen]:
  """Starts the demo in so many processes, with so many devices in all."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    address = f"localhost:{probe.getsockname()[1]}"
  count = f"--xla_force_host_platform_device_count={devices // processes}"
  flags = f"{os.environ.get('XLA_FLAGS', '')} {count}"
  places = [
    (
      f"--coordinator={address}",
      f"--num_processes={processes}",
      f"--process_id={i}",
      f"--heartbeat={_HEARTBEAT}",
    )
    for i in range(processes)
  ]
  command = [sys.executable, "-m", "prefixrl_jax.main", f"--config={_CONFIG}"]
  return [
    subprocess.Popen(
      [*command, f"--workdir={workdir}", *(place if processes > 1 else ())],
      cwd=_ROOT,
      env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for place in places
  ]


def _wait(started: list[subprocess.Popen]) -> list[tuple[int, str]]:
  """Returns exit codes, and the last line that each has said."""
  said = [process.communicate()[1].splitlines() for process in started]
  return [(p.returncode, (s or [""])[-1]) for p, s in zip(started, said)]


def _wait_for_step(workdir: pathlib.Path, step: int) -> None:
  """Waits until training has made a step."""
  while True:
    for path in workdir.glob("train/*/*/metrics.jsonl"):
      if len(path.read_bytes().splitlines()) >= step:
        return
    time.sleep(0.05)


def differences(ours: pathlib.Path, theirs: pathlib.Path) -> Iterator[str]:
  """Yields what differs between two workdirs by more than the tolerance."""
  names = lambda folder: {
    str(p.relative_to(folder))
    for p in folder.rglob("*")
    if p.suffix in (".json", ".jsonl", ".parquet")
    and "checkpoints" not in p.parts
    and not p.name.startswith("run_config")
  }
  a, b = names(ours), names(theirs)
  yield from (f"only in one: {name}" for name in sorted(a ^ b))
  for name in sorted(a & b):
    yield from _differ(_read(ours / name), _read(theirs / name), name)


def _read(path: pathlib.Path) -> Any:
  if path.suffix == ".parquet":
    return pq.read_table(path).to_pylist()
  if path.suffix == ".jsonl":
    return [json.loads(line) for line in path.read_text().splitlines()]
  return json.loads(path.read_text())


def _differ(a: Any, b: Any, name: str) -> Iterator[str]:
  if isinstance(a, dict) and isinstance(b, dict):
    for key in sorted(a.keys() | b.keys()):
      if not any(own in key for own in _OWN_PARTS):
        yield from _differ(a.get(key), b.get(key), f"{name}.{key}")
  elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
    for i, (x, y) in enumerate(zip(a, b)):
      yield from _differ(x, y, f"{name}[{i}]")
  elif isinstance(a, float) and isinstance(b, int | float):
    if abs(a - b) > _TOLERANCE * max(1.0, abs(a)):
      yield f"{name}: {a} and {b}"
  elif a != b:
    yield f"{name}: {str(a)[:60]} and {str(b)[:60]}"


def main() -> None:
  """Runs everything; exits with 1 if anything differs."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--devices", type=int, default=4)
  parser.add_argument("--workdir", type=pathlib.Path)
  options = parser.parse_args()
  folder = options.workdir or pathlib.Path(tempfile.mkdtemp())
  size = options.processes, options.devices
  failed = False

  def compared(name: str) -> None:
    nonlocal failed
    found = list(differences(folder / "one", folder / name))
    failed |= bool(found)
    print(f"{name}: {len(found)} differences", *found[:20], sep="\n  ")

  print("one:", *_wait(_start(folder / "one", 1, options.devices)))
  print("together:", *_wait(_start(folder / "together", *size)))
  compared("together")
  for number, who in ((signal.SIGKILL, 1), (signal.SIGTERM, 0)):
    started = _start(folder / "ended", *size)
    _wait_for_step(folder / "ended", 3 if number == signal.SIGKILL else 6)
    started[who].send_signal(number)
    at = time.monotonic()
    ends = _wait(started)
    seconds = time.monotonic() - at
    print(f"{number.name} to {who}, {seconds:.1f} s:", *ends, sep="\n  ")
    codes = [code for i, (code, _) in enumerate(ends) if i != who]
    expected = 143 if number == signal.SIGTERM else 1
    failed |= any(code != expected for code in codes)
  print("went on:", *_wait(_start(folder / "ended", *size)))
  compared("ended")
  sys.exit(int(failed))


if __name__ == "__main__":
  main()
