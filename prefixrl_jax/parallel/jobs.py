"""Jobs in processes of their own, a few at a time; none stops another."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

_PAUSE_SECONDS = 0.2  # between two looks
# Ctrl-C reaches every process of a terminal; a job gets SIGTERM from us
# instead, at which a run saves. PR_SET_PDEATHSIG: what comes if we are killed.
_ENDS_WITH_US = (
  "import ctypes, os, signal, sys;"
  " signal.signal(signal.SIGINT, signal.SIG_IGN);"
  " ctypes.CDLL(None).prctl(1, int(sys.argv[1]));"
  " os.execv(sys.argv[2], sys.argv[2:])"
)
_KILLED = "killed by SIGKILL, as by the system if no memory is left"


@dataclasses.dataclass(eq=False)
class Job:
  """A process to be run, once others have succeeded.

  Attributes:
    name: for people.
    argv: its command line, or whatever its starter takes.
    log: the file that its output is appended to.
    needs: jobs whose failure is its own.
    prepare: called before it starts.
    error: why it has failed, in one line; empty: it has not.
    is_done: whether it has ended, or never will begin.
    seconds: that it took.
    logged: bytes of its log that are from before it started.
  """

  name: str
  argv: list[str]
  log: pathlib.Path
  needs: Sequence["Job"] = ()
  prepare: Callable[[], None] = lambda: None
  error: str = ""
  is_done: bool = False
  seconds: float = 0.0
  logged: int = 0


class Process(Protocol):
  """What is asked of a process; subprocess.Popen has it."""

  def poll(self) -> int | None:
    """Returns its exit code, None while it runs."""
    ...

  def terminate(self) -> None:
    """Asks it to end."""
    ...

  def kill(self) -> None:
    """Ends it."""
    ...

  def wait(self) -> int:
    """Waits until it has ended."""
    ...


def start(job: Job, cores: Sequence[int]) -> Process:
  """Starts a job's process; SIGTERM comes to it if ours is killed.

  Args:
    job: to be started.
    cores: that it may run on; empty: all.
  """
  return spawn(job.argv, job.log, cores, at_our_end=signal.SIGTERM)


def spawn(
  argv: Sequence[str],
  log: pathlib.Path,
  cores: Sequence[int],
  *,
  at_our_end: signal.Signals,
  **pipes: int,
) -> subprocess.Popen:
  """Starts a process that does not outlive ours.

  Args:
    argv: its command line.
    log: the file that its output is appended to.
    cores: that it may run on; empty: all.
    at_our_end: the signal that it then gets.
    **pipes: stdin and stdout, if they are not /dev/null and the log.
  """
  log.parent.mkdir(parents=True, exist_ok=True)
  ours = os.sched_getaffinity(0)
  with log.open("ab") as output:
    streams: dict[str, Any] = dict(
      stdin=subprocess.DEVNULL, stdout=output, stderr=output
    )
    try:
      # Inherited: a child that runs code of ours first (preexec_fn) is forked
      # with the locks that JAX's threads hold.
      os.sched_setaffinity(0, cores or ours)
      return subprocess.Popen(
        [sys.executable, "-c", _ENDS_WITH_US, str(int(at_our_end)), *argv],
        **(streams | pipes),
      )
    finally:
      os.sched_setaffinity(0, ours)


def run(
  jobs: Sequence[Job],
  *,
  most: int,
  on_end: Callable[[Job], None],
  on_start: Callable[[Job], None] = lambda job: None,
  on_look: Callable[[], None] = lambda: None,
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
    on_look: called a few times a second.
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
            own = cores[free[0] * size : (free[0] + 1) * size]
            job.logged = job.log.stat().st_size if job.log.exists() else 0
            on_start(job)
            process = starter(job, own)
            running.append((job, process, free.pop(0), time.monotonic()))
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
      on_look()
      if running:
        time.sleep(_PAUSE_SECONDS)
  finally:
    _end([process for _, process, _, _ in running])


def _end(processes: Sequence[Process]) -> None:
  """Ends processes in good order, or at once if we are interrupted again."""
  try:
    for process in processes:
      process.terminate()
    for process in processes:
      process.wait()
  except BaseException:
    for process in processes:
      process.kill()
    raise


def why(job: Job, code: int) -> str:
  """Returns in one line why a job has failed: the last error that it logged.

  Args:
    job: that has ended.
    code: its exit code; negative: the signal that ended it.
  """
  lines = logged(job, 20_000)
  errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
  said = _KILLED if code == -signal.SIGKILL else f"exit code {code}"
  if errors:  # with the lines that belong to it
    said = " ".join(lines[errors[-1] :]).removeprefix("error: ")
  elif lines:
    said += f", after: {lines[-1]}"
  return f"{said[:400]} ({job.log})"


def logged(job: Job, most: int) -> list[str]:
  """Returns the last lines that a job has logged since it started.

  Args:
    job: that has started.
    most: bytes to read.
  """
  if not job.log.exists():
    return []
  with job.log.open("rb") as log:
    log.seek(max(job.logged, job.log.stat().st_size - most))
    lines = log.read().decode(errors="replace").splitlines()
  return [" ".join(line.split()) for line in lines if line.strip()]
