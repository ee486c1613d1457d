"""How long a new process takes until its first GRPO step is done.

  python -m benchmarks.startup --peer=trl

The step is that of `benchmarks.grpo_step`. `cold` starts with an empty cache
of compiled programs, `cached` with what `cold` left there. One core: put
`taskset -c 0` before it.
"""

import os
import subprocess
import sys
import tempfile
import time

from absl import flags

from benchmarks import measuring
from benchmarks.grpo_step import FIRST_STEP_DONE

_REPEATS = flags.DEFINE_integer("startup_repeats", 3, "Processes of each.", 1)


def seconds_to_first_step(side: str, cache: str) -> float:
  """Starts a process; returns how long it took to its first step.

  Args:
    side: a value of grpo_step's --first_step.
    cache: folder of compiled programs.
  """
  command = [sys.executable, "-m", "benchmarks.grpo_step"]
  command += [f"--first_step={side}", f"--model={flags.FLAGS.model}"]
  started = time.perf_counter()
  done = subprocess.run(
    command,
    env=dict(os.environ, JAX_COMPILATION_CACHE_DIR=cache),
    capture_output=True,
    text=True,
  )
  if FIRST_STEP_DONE not in done.stdout:
    sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
  return time.perf_counter() - started


def main() -> None:
  """Starts the processes in turn and prints the table."""
  seconds: dict[str, list[float]] = {}
  for _ in range(_REPEATS.value):
    with tempfile.TemporaryDirectory() as cache:
      for name in ("cold", "cached"):
        took = seconds_to_first_step("prefixrl_jax", cache)
        seconds.setdefault(f"prefixrl_jax, {name}", []).append(took)
      if flags.FLAGS.peer == "trl":
        took = seconds_to_first_step("trl", cache)
        seconds.setdefault("trl", []).append(took)
  measuring.show(
    f"Process start to first step, {flags.FLAGS.model},"
    f" {len(os.sched_getaffinity(0))} cores",
    [
      {"by": name, **measuring.spread(times)} for name, times in seconds.items()
    ],
    flags.FLAGS.json,
  )


if __name__ == "__main__":
  measuring.run(main)
