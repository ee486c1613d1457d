"""Workers take one job after another, and end with the process they serve."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from watching import ends_soon

from prefixrl_jax.parallel import jobs
from prefixrl_jax.parallel.jobs import Job
from prefixrl_jax.parallel.workers import Pool

_ROOT = pathlib.Path(__file__).parents[2]
# Prints its pid and what it is to make; "fail", "leave" and "wait" are orders.
_WORKER = """
import os, sys, time
from prefixrl_jax.parallel import workers
for names in workers.tasks():
  print(os.getpid(), *names, flush=True)
  if "fail" in names:
    sys.exit("error: it broke")
  if "leave" in names:
    sys.exit(0)
  if "wait" in names:
    time.sleep(60)
print("no more", flush=True)
"""
_ARGV = [sys.executable, "-c", _WORKER]


@pytest.fixture
def pool(monkeypatch):
  monkeypatch.setenv("PYTHONPATH", str(_ROOT))
  monkeypatch.setattr(jobs, "_PAUSE_SECONDS", 0.01)
  with Pool(_ARGV) as pool:
    yield pool


def _run(pool, some, most=1):
  jobs.run(some, most=most, on_end=lambda job: None, starter=pool.start)
  return [job.log.read_text().splitlines() for job in some]


def test_a_worker_that_has_succeeded_takes_the_next_job(tmp_path, pool):
  some = [Job(x, [x, "y"], tmp_path / f"logs/{x}.log") for x in "ab"]
  [[first], [second]] = _run(pool, some)
  pid = first.split()[0]
  assert first == f"{pid} a y"
  assert second == f"{pid} b y"
  assert [job.error for job in some] == ["", ""]
  pool.__exit__()
  # It ends in good order, where it last wrote.
  assert some[1].log.read_text().endswith("b y\nno more\n")


def test_after_a_failure_another_worker_takes_the_next_job(tmp_path, pool):
  some = [Job(x, [x], tmp_path / x) for x in ("fail", "leave", "a")]
  [bad, left, good] = _run(pool, some)
  assert bad[1] == "error: it broke"
  assert len({lines[0].split()[0] for lines in (bad, left, good)}) == 3
  assert [job.error for job in some] == [
    f"it broke ({some[0].log})",
    # Whatever it said with its exit code, it has not answered.
    f"exit code 1, after: {left[0]} ({some[1].log})",
    "",
  ]


def test_a_worker_that_was_killed_while_it_was_idle_is_replaced(tmp_path, pool):
  [[line]] = _run(pool, [Job("a", ["a"], tmp_path / "a")])
  os.kill(int(line.split()[0]), signal.SIGKILL)
  pool._workers[0].wait()
  again = Job("b", ["b"], tmp_path / "b")
  assert _run(pool, [again])[0][0].endswith(" b")
  assert not again.error


def test_each_share_of_the_cores_has_its_own_worker(tmp_path, pool):
  cores = sorted(os.sched_getaffinity(0))
  some = [Job(x, [x], tmp_path / x) for x in "ab"]
  tasks = [pool.start(some[0], cores), pool.start(some[1], cores[:1])]
  while any(task.poll() is None for task in tasks):
    time.sleep(0.01)
  assert len(pool._workers) == 2
  shares = [os.sched_getaffinity(worker.pid) for worker in pool._workers]
  assert shares == [set(cores), {cores[0]}]
  again = Job("c", ["c"], tmp_path / "c")
  pool.start(again, cores)
  assert len(pool._workers) == 2


def test_ctrl_c_is_not_the_workers(tmp_path, pool):
  """It reaches all processes of a terminal; ours then ends them by SIGTERM."""
  task = pool.start(Job("wait", ["wait"], tmp_path / "a"), [])
  pid = _pid(tmp_path / "a")
  os.kill(pid, signal.SIGINT)
  time.sleep(0.1)
  assert task.poll() is None
  task.terminate()
  assert task.wait() == -signal.SIGTERM


_SERVED = """
import json, pathlib, sys, time
from prefixrl_jax.parallel.jobs import Job
from prefixrl_jax.parallel.workers import Pool
argv, log = json.loads(sys.argv[1])
Pool(argv).start(Job("a", ["wait"], pathlib.Path(log)), [])
time.sleep(60)
"""


def test_a_worker_does_not_outlive_the_process_it_serves(tmp_path):
  """Not even to save: whoever goes on in the workdir must not meet it."""
  log = tmp_path / "a"
  process = subprocess.Popen(
    [sys.executable, "-c", _SERVED, json.dumps([_ARGV, str(log)])],
    env=dict(os.environ, PYTHONPATH=str(_ROOT)),
  )
  pid = _pid(log)
  process.kill()
  process.wait()
  assert ends_soon(pid)


def _pid(log):
  """The worker that has begun to write the log."""
  while not (log.exists() and log.read_text().endswith("\n")):
    time.sleep(0.01)
  return int(log.read_text().split()[0])
