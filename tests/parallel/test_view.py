"""What a person sees of jobs that run side by side."""

import io

import pytest
from rich.console import Console

from prefixrl_jax.parallel.jobs import Job
from prefixrl_jax.parallel.view import View
from prefixrl_jax.storage.metrics import Progress


@pytest.fixture
def jobs(tmp_path):
  data = Job("data seed 0", [], tmp_path / "data.log")
  return [data, Job("rl seed 0", [], tmp_path / "rl.log", needs=[data])]


def _end(view, job, error="", seconds=0.0):
  job.is_done, job.error, job.seconds = True, error, seconds
  view.ended(job)


def test_without_a_terminal_a_line_now_and_then(jobs, monkeypatch):
  console = Console(file=io.StringIO(), width=80)
  with View(console, jobs) as view:
    view.started(jobs[1])
    jobs[1].log.write_text("rl seed 0  step 1  FLOPs 3\n[odd]  \n*****\n\n")
    view.looked()  # not yet
    monkeypatch.setattr(Progress, "seconds_between_lines", 0.0)
    view.looked()
    _end(view, jobs[1], seconds=61.4)
    view.looked()  # it does not run any more
  assert console.file.getvalue().splitlines() == [
    "rl seed 0  begins",
    "rl seed 0  [odd]",
    "rl seed 0  done in 61 s  [1 of 2]",
  ]


def test_on_a_terminal_a_line_of_each_that_runs(jobs):
  console = Console(file=io.StringIO(), width=60, force_terminal=True)
  with View(console, jobs) as view:
    view.started(jobs[1])
    jobs[1].log.write_text("rl seed 0  step 1  " + "x" * 80)
    view.looked()
  text = console.file.getvalue()
  assert "rl seed 0      0 s  step 1 xxx" in text
  assert "x…" in text
  assert "begins" not in text


def test_a_failure_and_what_comes_of_it(jobs):
  console = Console(file=io.StringIO(), width=20)
  with View(console, jobs) as view:
    view.started(jobs[0])
    _end(view, jobs[0], "no trace [at all] was found (data.log)")
    _end(view, jobs[1], jobs[0].error)
  assert console.file.getvalue().splitlines()[1:] == [
    "data seed 0  failed: no trace [at all] was found (data.log)  [1 of 2]",
    "rl seed 0  not begun, since data seed 0 failed  [2 of 2]",
  ]
