"""Many processes do what one does, through `main`, from screening to report.

  python -m benchmarks.processes --processes=2 --devices=4

Runs a few steps of the tiny demo on CPU devices: in one process; in several
over loopback; and in several of which one is killed in training, then one told
to end, before the run goes on. Prints what differs by more than 1e-5, which is
to be nothing, and how the processes ended.
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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

_ROOT = pathlib.Path(__file__).parents[1]
_MAIN = (sys.executable, "-m", "prefixrl_jax.main")
_DEMO = (
  "--config=configs/demo.py:tiny=true,arms=prefixrl",
  "--config.train.max_steps=20",
)
_TOLERANCE = 1e-5
# What differs between any two runs, or is a digest of what differs.
_OWN = (
  *("time/", "per_second", "seconds", "compilations", "finished", "sha256"),
  *("files", "made_from", "execution", "versions"),
)
_HEARTBEAT = 20.0
_LONGEST = 1200.0  # seconds of a run


def start(
  argv: Sequence[str],
  processes: int,
  environment: Mapping[str, str],
  of_last: Sequence[str] = (),
) -> list[subprocess.Popen]:
  """Starts the command in that many processes over loopback.

  Args:
    argv: flags of `main`.
    processes: how many; one is alone.
    environment: variables of each.
    of_last: further flags, of the last process alone.
  """
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    address = f"localhost:{probe.getsockname()[1]}"
  places = [
    (
      f"--coordinator={address}",
      f"--num_processes={processes}",
      f"--process_id={i}",
      f"--heartbeat={_HEARTBEAT}",
    )
    for i in range(processes)
  ]
  return [
    subprocess.Popen(
      [*_MAIN, *argv, *(place if processes > 1 else ()), *more],
      cwd=_ROOT,
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for place, more in zip(places, [()] * (processes - 1) + [of_last])
  ]


def ended(started: Sequence[subprocess.Popen]) -> list[tuple[int, str]]:
  """Returns exit codes, and the last line that each process has said."""
  try:
    said = [p.communicate(timeout=_LONGEST)[1].splitlines() for p in started]
  finally:
    for process in started:
      process.kill()
  return [(p.returncode, (s or [""])[-1]) for p, s in zip(started, said)]


def wait_for_step(
  workdir: pathlib.Path, step: int, started: Sequence[subprocess.Popen]
) -> None:
  """Waits until training has made a step, or a process has ended."""
  while all(process.poll() is None for process in started):
    for path in workdir.glob("train/*/*/metrics.jsonl"):
      if len(path.read_bytes().splitlines()) >= step:
        return
    time.sleep(0.05)


def differences(ours: pathlib.Path, theirs: pathlib.Path) -> Iterator[str]:
  """Yields what differs between two workdirs by more than the tolerance."""
  a, b = _records(ours), _records(theirs)
  yield from (f"only in one: {name}" for name in sorted(a ^ b))
  for name in sorted(a & b):
    yield from _differ(_read(ours / name), _read(theirs / name), name)


def _records(folder: pathlib.Path) -> set[str]:
  """Returns the names of a workdir's files of results."""
  return {
    str(path.relative_to(folder))
    for path in folder.rglob("*")
    if path.suffix in (".json", ".jsonl", ".parquet")
    and "checkpoints" not in path.parts
    and path.name != "run_config.json"
  }


def _read(path: pathlib.Path) -> Any:
  if path.suffix == ".parquet":
    return pq.read_table(path).to_pylist()
  if path.suffix == ".jsonl":
    return [json.loads(line) for line in path.read_text().splitlines()]
  return json.loads(path.read_text())


def _differ(a: Any, b: Any, name: str) -> Iterator[str]:
  if isinstance(a, dict) and isinstance(b, dict):
    for key in sorted(a.keys() | b.keys()):
      if not any(own in key for own in _OWN):
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
  """Runs everything; exits with 1 if anything is not as it is to be."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--devices", type=int, default=4)
  parser.add_argument("--workdir", type=pathlib.Path)
  options = parser.parse_args()
  folder = options.workdir or pathlib.Path(tempfile.mkdtemp())
  processes, devices = options.processes, options.devices
  failed = False

  def show(name: str, started_at: float, ends: list, *expected: int) -> None:
    nonlocal failed
    failed |= tuple(code for code, _ in ends) != expected
    seconds = time.monotonic() - started_at
    print(f"{name} ({seconds:.0f} s):", *ends, sep="\n  ", flush=True)

  def begin(name: str, count: int) -> list[subprocess.Popen]:
    split = f"--xla_force_host_platform_device_count={devices // count}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {split}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return start([*_DEMO, f"--workdir={folder / name}"], count, environment)

  def run(name: str, count: int) -> None:
    nonlocal failed
    at = time.monotonic()
    ends = ended(begin(name, count))
    show(f"{name}, of {count}", at, ends, *[0] * count)
    if any(code for code, _ in ends):
      sys.exit(1)  # there is nothing to compare
    if name != "one":
      found = list(differences(folder / "one", folder / name))
      failed |= bool(found)
      print(f"{len(found)} differences", *found[:20], sep="\n  ", flush=True)

  run("one", 1)
  run("together", processes)
  for number, who, step, codes in (
    (signal.SIGKILL, 1, 3, [1, -9, *[1] * (processes - 2)]),
    (signal.SIGTERM, 0, 6, [143] * processes),
  ):
    started = begin("ended", processes)
    wait_for_step(folder / "ended", step, started)
    started[who].send_signal(number)
    at = time.monotonic()
    show(f"{number.name} to {who}", at, ended(started), *codes)
  run("ended", processes)
  sys.exit(int(failed))


if __name__ == "__main__":
  main()
