"""Processes that make one part of a run after another.

Starting one costs seconds of imports, and compiled programs are found sooner in
memory than on disk: a worker that has succeeded takes the next job.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

from prefixrl_jax.parallel.jobs import Job, Process, spawn

_DONE = b"."


class Pool:
  """Workers, each on its share of the cores; they end with the pool."""

  def __init__(self, argv: Sequence[str]):
    """Starts none yet.

    Args:
      argv: a worker's command line.
    """
    self._argv = argv
    self._workers: list[subprocess.Popen] = []
    self._idle: dict[tuple[int, ...], list[subprocess.Popen]] = {}

  def start(self, job: Job, cores: Sequence[int]) -> Process:
    """Gives a job to an idle worker of these cores, or to a new one.

    Args:
      job: its argv are the names that `tasks` yields.
      cores: that it may run on; empty: all.
    """
    idle = self._idle.setdefault(tuple(cores), [])
    worker = None
    while idle and worker is None:
      if (found := idle.pop()).poll() is None:
        worker = found
    if worker is None:
      worker = spawn(
        self._argv,
        job.log,
        cores,
        # At once, as if it were we: whoever goes on in our workdir must not
        # meet one there.
        at_our_end=signal.SIGKILL,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
      )
      self._workers.append(worker)
    task = json.dumps({"log": os.path.abspath(job.log), "names": job.argv})
    assert worker.stdin
    worker.stdin.write(f"{task}\n".encode())
    worker.stdin.flush()
    return _Task(worker, idle)

  def __enter__(self) -> "Pool":
    return self

  def __exit__(self, *_) -> None:
    for worker in self._workers:
      assert worker.stdin
      worker.stdin.close()  # an idle one then ends
    for worker in self._workers:
      worker.wait()
      assert worker.stdout
      worker.stdout.close()


class _Task:
  """What one worker does at present, as if it were a process of its own."""

  def __init__(
    self, worker: subprocess.Popen, idle: list[subprocess.Popen]
  ) -> None:
    self._worker, self._idle = worker, idle
    self._has_answered = False
    self.terminate, self.kill = worker.terminate, worker.kill
    self.wait = worker.wait

  def poll(self) -> int | None:
    """Returns 0 once it has succeeded, the exit code if the worker ended."""
    if self._has_answered:
      return 0
    answers = self._worker.stdout
    assert answers
    if select.select([answers], [], [], 0)[0]:
      self._has_answered = os.read(answers.fileno(), 1) == _DONE
    if self._has_answered:
      self._idle.append(self._worker)
      return 0
    code = self._worker.poll()
    return 1 if code == 0 else code  # it had to answer


def tasks() -> Iterator[list[str]]:
  """Yields what a worker is to make: names; the one before is then done.

  Standard output and error are the job's log.
  """
  answers = os.dup(1)
  for line in iter(sys.stdin.readline, ""):
    task = json.loads(line)
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number in (1, 2):
      os.dup2(log, number)
    os.close(log)
    yield task["names"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(answers, _DONE)
