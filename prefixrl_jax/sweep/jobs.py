"""Jobs in processes of their own, a few at a time; none stops another."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

_PAUSE_SECONDS = 0.2  # between two looks
# PR_SET_PDEATHSIG: SIGTERM comes if the sweep is killed; a run then saves.
_ENDS_WITH_US = (
  "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15);"
  " os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclasses.dataclass(eq=False)
class Job:
  """A process to be run, once others have succeeded.

  Attributes:
    name: for people.
    argv: its command line.
    log: the file that its output is appended to.
    needs: jobs whose failure is its own.
    prepare: called before it starts.
    error: why it has failed, in one line; empty: it has not.
    is_done: whether it has ended, or never will begin.
    seconds: that it took.
  """

  name: str
  argv: list[str]
  log: pathlib.Path
  needs: Sequence["Job"] = ()
  prepare: Callable[[], None] = lambda: None
  error: str = ""
  is_done: bool = False
  seconds: float = 0.0


class Process(Protocol):
  """What is asked of a process; subprocess.Popen has it."""

  def poll(self) -> int | None:
    """Returns its exit code, None while it runs."""
    ...

  def terminate(self) -> None:
    """Asks it to end."""
    ...

  def wait(self) -> int:
    """Waits until it has ended."""
    ...


def start(job: Job, cores: Sequence[int]) -> Process:
  """Starts a job's process.

  Args:
    job: to be started.
    cores: that it may run on; empty: all.
  """
  job.log.parent.mkdir(parents=True, exist_ok=True)
  ours = os.sched_getaffinity(0)
  with job.log.open("ab") as log:
    try:
      # Inherited: a child that runs code of ours first (preexec_fn) is forked
      # with the locks that JAX's threads hold.
      os.sched_setaffinity(0, cores or ours)
      return subprocess.Popen(
        [sys.executable, "-c", _ENDS_WITH_US, *job.argv],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
      )
    finally:
      os.sched_setaffinity(0, ours)


def run(
  jobs: Sequence[Job],
  *,
  most: int,
  on_end: Callable[[Job], None],
  on_start: Callable[[Job], None] = lambda job: None,
  starter: Callable[[Job, Sequence[int]], Process] = start,
) -> None:
  """Runs all jobs; whatever ends this ends those that run, and waits for them.

  Several at a time share the cores out evenly: two processes on the same ones
  would each wait for the other's threads.

  Args:
    jobs: those that another one needs come before it.
    most: at a time.
    on_end: called with each job that has ended, or never will begin.
    on_start: called with each one as it starts.
    starter: starts a process: see `start`.
  """
  cores = sorted(os.sched_getaffinity(0))
  size = len(cores) // most if most > 1 else 0
  free = list(range(most))
  waiting = list(jobs)
  running: list[tuple[Job, Process, int, float]] = []
  try:
    while waiting or running:
      for job in list(waiting):
        failed = [need for need in job.needs if need.error]
        if failed:
          job.error, job.is_done = failed[0].error, True
        elif not free or not all(need.is_done for need in job.needs):
          continue
        waiting.remove(job)
        if not job.is_done:
          try:
            job.prepare()
            place = free.pop(0)
            own = cores[place * size : (place + 1) * size]
            on_start(job)
            running.append((job, starter(job, own), place, time.monotonic()))
            continue
          except OSError as e:
            job.error, job.is_done = f"{type(e).__name__}: {e}", True
        on_end(job)
      for entry in list(running):
        job, process, place, began = entry
        code = process.poll()
        if code is None:
          continue
        running.remove(entry)
        free.append(place)
        job.is_done, job.seconds = True, time.monotonic() - began
        job.error = "" if code == 0 else why(job, code)
        on_end(job)
      if running:
        time.sleep(_PAUSE_SECONDS)
  finally:
    for _, process, _, _ in running:
      process.terminate()
    for _, process, _, _ in running:
      process.wait()


def why(job: Job, code: int) -> str:
  """Returns in one line why a job has failed: the last error in its log.

  Args:
    job: that has ended.
    code: its exit code; negative: the signal that ended it.
  """
  lines = []
  if job.log.exists():
    with job.log.open("rb") as log:
      log.seek(max(0, job.log.stat().st_size - 20_000))
      lines = log.read().decode(errors="replace").splitlines()
  lines = [" ".join(line.split()) for line in lines if line.strip()]
  errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
  said = f"exit code {code}"
  if errors:  # with the lines that belong to it
    said = " ".join(lines[errors[-1] :]).removeprefix("error: ")
  elif lines:
    said += f", after: {lines[-1]}"
  return f"{said[:400]} ({job.log})"
