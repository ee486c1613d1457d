"""Jobs: in order, a few at a time, and none for another's failure."""

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


class _Process:
  """Ends after some looks, with a code."""

  def __init__(self, looks, code):
    self.looks, self.code, self.is_terminated = looks, code, False

  def poll(self):
    self.looks -= 1
    return None if self.looks > 0 else self.code

  def terminate(self):
    self.is_terminated = True

  def wait(self):
    return 0


@pytest.fixture
def world(tmp_path, monkeypatch):
  """A starter of made-up processes, and what it has been asked for."""
  monkeypatch.setattr(jobs, "_PAUSE_SECONDS", 0)

  class World:
    def __init__(self):
      self.events, self.cores, self.codes, self.processes = [], [], {}, []
      self.logs = {}  # what a job logs

    def job(self, name, *needs, code=0, **how):
      self.codes[name] = code
      return Job(name, [], tmp_path / f"{name}.log", needs=needs, **how)

    def start(self, job, cores):
      self.events.append(f"+{job.name}")
      self.cores.append(list(cores))
      with job.log.open("a") as log:
        log.write(self.logs.get(job.name, ""))
      self.processes.append(_Process(2, self.codes[job.name]))
      return self.processes[-1]

    def run(self, some, most=1):
      jobs.run(
        some,
        most=most,
        starter=self.start,
        on_end=lambda job: self.events.append(f"-{job.name}"),
      )
      return self.events

  return World()


def test_what_a_job_needs_comes_before_it(world):
  data = world.job("data")
  some = [data, world.job("a", data), world.job("b")]
  assert world.run(some, most=2) == ["+data", "+b", "-data", "-b", "+a", "-a"]


def test_no_more_run_at_a_time(world):
  some = [world.job(name) for name in "abc"]
  assert world.run(some) == ["+a", "-a", "+b", "-b", "+c", "-c"]


def test_a_failure_is_that_of_those_that_need_it_and_no_other(world):
  bad = world.job("bad", code=3)
  some = [bad, world.job("a", bad), world.job("b")]
  some.append(world.job("c", some[1]))
  world.logs["bad"] = "fine\nerror: it broke\n  at x: 1\n"
  world.run(some)
  assert [job.error for job in some] == [
    *[f"it broke at x: 1 ({bad.log})"] * 2,
    "",
    f"it broke at x: 1 ({bad.log})",
  ]
  assert all(job.is_done for job in some)
  assert "+a" not in world.events
  assert "+c" not in world.events
  assert {"-a", "-b", "-c"} <= set(world.events)


def test_what_cannot_be_prepared_fails_alone(world):
  def full():
    raise OSError("disk full")

  some = [world.job("a", prepare=full), world.job("b")]
  world.run(some)
  assert some[0].error == "OSError: disk full"
  assert some[1].error == ""


def test_what_cannot_be_started_fails_alone(world):
  def start(job, cores):
    if job.name == "a":
      raise OSError("no more processes")
    return world.start(job, cores)

  some = [world.job("a"), world.job("b")]
  jobs.run(some, most=1, starter=start, on_end=lambda job: None)
  assert some[0].error == "OSError: no more processes"
  assert (some[1].is_done, some[1].error) == (True, "")


def test_processes_share_the_cores_out(world, monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6, 8})
  world.run([world.job(name) for name in "abc"], most=2)
  assert world.cores == [[0, 2], [4, 6], [0, 2]]
  world.cores.clear()
  world.run([world.job("a")], most=1)
  assert world.cores == [[]]  # all


def test_an_interruption_ends_those_that_run(world):
  def interrupt(job):
    raise KeyboardInterrupt

  some = [world.job("a"), world.job("b", code=0)]
  world.codes["a"] = 0
  with pytest.raises(KeyboardInterrupt):
    jobs.run(some, most=2, starter=world.start, on_end=interrupt)
  assert [p.is_terminated for p in world.processes] == [False, True]


@pytest.mark.parametrize(
  ("log", "said"),
  [
    (None, "exit code 1"),
    ("", "exit code 1"),
    ("one\n\ntwo\n", "exit code 1, after: two"),
    ("error: a\nerror: b\n", "b"),
  ],
)
def test_a_failure_is_said_in_a_line(tmp_path, log, said):
  job = Job("a", [], tmp_path / "a.log")
  if log is not None:
    job.log.write_text(log)
  assert jobs.why(job, 1) == f"{said} ({job.log})"


def test_processes_are_real_and_end_with_us(tmp_path):
  """On their cores, with their output in the log; SIGTERM ends them."""
  ours = os.sched_getaffinity(0)
  core = min(ours)
  code = "import os; print(os.sched_getaffinity(0), flush=True); os._exit(4)"
  job = Job("a", [sys.executable, "-c", code], tmp_path / "logs/a.log")
  process = jobs.start(job, [core])
  assert process.wait() == 4
  assert job.log.read_text() == f"{{{core}}}\n"
  assert os.sched_getaffinity(0) == ours
  job.argv = [
    sys.executable,
    "-c",
    "import time; print('x', flush=True); time.sleep(60)",
  ]
  process = jobs.start(job, [])
  while "x" not in job.log.read_text():
    time.sleep(0.01)
  process.terminate()
  assert process.wait() == -signal.SIGTERM
  assert isinstance(job.log, pathlib.Path)


def test_a_job_does_not_outlive_a_sweep_that_is_killed(tmp_path):
  job = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
  sweep = (
    "import pathlib, sys, time\n"
    "from prefixrl_jax.parallel import jobs\n"
    f"argv = [sys.executable, '-c', {job!r}]\n"
    f"log = pathlib.Path({str(tmp_path)!r}) / 'a'\n"
    "jobs.start(jobs.Job('a', argv, log), [])\n"
    "time.sleep(60)\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", sweep], cwd=pathlib.Path(__file__).parents[2]
  )
  log = tmp_path / "a"
  while not (log.exists() and log.read_text().endswith("\n")):
    time.sleep(0.01)
  process.kill()
  process.wait()
  pid = int(log.read_text())
  assert ends_soon(pid)
