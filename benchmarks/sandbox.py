"""Runs model-like programs in the sandbox; says how fast, and what is left.

  python -m benchmarks.sandbox --runs=10000

One run in twenty is hostile: loops, forks, fills memory, disk and output,
leaves threads, kills, aborts. The others are short programs that read and
print. Afterwards there must be no process, open file, temporary file or
memory left that was not there before; else the exit status is 1.

  python -m benchmarks.sandbox --parts

says instead where a run's CPU time goes.
"""

import contextlib
import gc
import os
import resource
import subprocess
import sys
import tempfile
import time

from absl import flags

from benchmarks import measuring
from prefixrl_jax.rewards import isolation
from prefixrl_jax.rewards.isolation import INSIDE
from prefixrl_jax.rewards.sandbox import OutOfTime
from prefixrl_jax.rewards.sandbox_pool import Run, SandboxPool

_RUNS = flags.DEFINE_integer("runs", 10_000, "Programs to run.", 1)
_WORKERS = flags.DEFINE_integer("workers", 2, "At a time.", 1)
_HOSTILE_EVERY = flags.DEFINE_integer(
  "hostile_every", 20, "One run in this many is hostile; 0: none.", 0
)
_SANDBOX = flags.DEFINE_string("sandbox", "bubblewrap", "Kind of sandbox.")
_PARTS = flags.DEFINE_bool("parts", False, "CPU time of a run's parts.")
_JSON = flags.DEFINE_string("sandbox_json", "", "File to write the rows to.")

_PROGRAMS = (
  "print(sum(map(int, input().split())))",
  "n = int(input().split()[0])\nprint(*[i * i for i in range(n)])",
  "import collections\nprint(collections.Counter(input()).most_common(2))",
  "import math, re\nprint(math.prod(map(int, re.findall('[0-9]+', input()))))",
)
_HOSTILE = (
  "while True: pass",
  "import os\nwhile True: os.fork()",
  "x = []\nwhile True: x.append(bytearray(2**20))",
  "while True: print('x' * 10**6)",
  "n = 0\nwhile True:\n  n += 1\n  open(f'/tmp/{n}', 'wb').write(bytes(2**23))",
  "n = 0\nwhile True: n += 1; open(f'/tmp/{n}', 'w')",
  "import threading, time\nwhile True:\n"
  "  threading.Thread(target=time.sleep, args=(99,)).start()",
  "import os\nos.kill(-1, 9)",
  "import os\nos.abort()",
  "def f(): return f()\nimport sys; sys.setrecursionlimit(10**9)\nf()",
)


def main() -> None:
  """Runs the load and prints two tables, or the one of parts."""
  if _PARTS.value:
    measuring.show("CPU time of a run's parts, ms", _parts(), _JSON.value)
    return
  with contextlib.closing(_pool()) as pool:
    _load(pool, range(min(50, _RUNS.value)))  # what a first use leaves, stays
  before = _state()
  with contextlib.closing(_pool()) as pool:
    started = time.perf_counter()
    statuses = _load(pool, range(_RUNS.value))
    seconds = time.perf_counter() - started
  gc.collect()
  left = {name: value - before[name] for name, value in _state().items()}
  hostile = [s for i, s in statuses if _is_hostile(i)]
  benign = [s for i, s in statuses if not _is_hostile(i)]
  measuring.show(
    f"{_RUNS.value} runs, {_WORKERS.value} workers,"
    f" {len(os.sched_getaffinity(0))} cores",
    [
      {
        "seconds": seconds,
        "runs/s": _RUNS.value / seconds,
        "benign, ok": f"{benign.count('ok')} of {len(benign)}",
        "hostile, ok": f"{hostile.count('ok')} of {len(hostile)}",
      }
    ],
    _JSON.value,
  )
  measuring.show("Left behind", [left], "")
  if (
    benign.count("ok") != len(benign)
    or hostile.count("ok")
    or any(v for name, v in left.items() if name != "memory, MB")
    or left["memory, MB"] > 50
  ):
    sys.exit("something is wrong or was left behind")


def _parts():
  """Returns rows: least, median and most of nine means of ten runs each."""
  start = [sys._base_executable, *isolation.OPTIONS]  # type: ignore[attr-defined]
  path = f"import sys; sys.path.append({str(INSIDE.parent)!r})"
  running = lambda code: lambda: subprocess.run([*start, code], check=True)
  with contextlib.closing(_pool()) as pool:

    def sandbox():  # what is killed inside counts for nobody
      next(pool.run("", [""]))

    def test():
      (run,) = pool.run("print(input())", ["x"])
      return run.cpu_seconds

    measured = {
      "bubblewrap": _spent(sandbox),
      "interpreter": _spent(running("")),
      "interpreter and its imports": _spent(
        running(f"{path}; import inside.running")
      ),
      "each test": [[1000 * test() for _ in range(10)] for _ in range(9)],
    }
  rows = []
  for name, times in measured.items():
    means = sorted(sum(some) / len(some) for some in times)
    rows.append(
      {"part": name, **dict(zip(("least", "median", "most"), means[::4]))}
    )
  return rows


def _spent(function):
  """Returns the CPU time of the processes that a function runs, nine tens."""
  times = []
  for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(10):
      function()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    times.append([1000 * used / 10])
  return times


def _pool():
  return SandboxPool(
    num_workers=_WORKERS.value,
    timeout_seconds=1.0,
    total_seconds=60.0,
    memory_mb=256,
    sandbox=_SANDBOX.value,
  )


def _is_hostile(i):
  return _HOSTILE_EVERY.value and i % _HOSTILE_EVERY.value == 0


def _load(pool, numbers):
  def run(i) -> tuple[int, str]:
    if _is_hostile(i):
      code = _HOSTILE[i // _HOSTILE_EVERY.value % len(_HOSTILE)]
    else:
      code = _PROGRAMS[i % len(_PROGRAMS)]
    try:
      (result,) = pool.run(code, [f"{i % 50} {i}"])
    except OutOfTime:
      result = Run("out of time", "", "", 0.0, 0.0)
    return i, result.status

  return pool.map(run, numbers)


def _state():
  """What there is on this machine that a sandbox could leave."""
  commands = []
  for name in filter(str.isdigit, os.listdir("/proc")):
    with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline") as f:
      commands.append(f.read())
  with open("/proc/self/statm") as f:
    resident = int(f.read().split()[1])
  with open("/proc/self/mounts") as f:
    mounts = len(f.readlines())
  return {
    "processes": sum(str(INSIDE.parent) in c for c in commands),
    "open files": len(os.listdir("/proc/self/fd")),
    "temporary files": sum(
      "unsafe_subprocess" in n for n in os.listdir(tempfile.gettempdir())
    ),
    "mounts": mounts,
    "memory, MB": resident * resource.getpagesize() / 2**20,
  }


if __name__ == "__main__":
  measuring.run(main)
