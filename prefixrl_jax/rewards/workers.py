"""Worker processes that can be killed: one bad input costs its own limit."""

import contextlib
import multiprocessing
import multiprocessing.connection
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

TIMED_OUT = object()  # the job ran into its time limit
DIED = object()  # the worker did not survive the job


class WorkerPool:
  """Runs jobs in processes of its own, and kills what takes too long.

  The function must be importable (workers are spawned) and must not import
  jax: a worker that does may seize the accelerator.
  """

  def __init__(
    self,
    function: Callable[[Any], Any],
    *,
    num_workers: int,
    timeout_seconds: float,
    prepare: Callable[[], Any] | None = None,
    memory_bytes: int | None = None,
  ):
    """Starts nothing yet.

    Args:
      function: of one picklable argument.
      num_workers: processes.
      timeout_seconds: a job's limit, from when a worker takes it up.
      prepare: called in a new worker first; no job's time limit runs then.
      memory_bytes: address space of a worker; None: all there is.
    """
    self._function, self._timeout = function, timeout_seconds
    self._prepare, self._memory = prepare, memory_bytes
    self._context = multiprocessing.get_context("spawn")
    self._workers: list[_Worker | None] = [None] * num_workers
    self._lock = threading.Lock()

  def map(self, arguments: Sequence[Any]) -> list[Any]:
    """Returns each argument's result, TIMED_OUT, DIED or an exception."""
    results: list[Any] = [None] * len(arguments)
    pending = list(range(len(arguments)))[::-1]
    with self._lock:
      while pending or any(w and w.job is not None for w in self._workers):
        for i, worker in enumerate(self._workers):
          if not pending:
            break
          if worker is None:
            worker = self._workers[i] = _Worker(
              self._context, self._memory, self._prepare, self._function
            )
          if worker.job is None:
            worker.take(pending.pop(), arguments)
        self._collect(results)
    return results

  def _collect(self, results) -> None:
    """Waits for an answer or the next time limit."""
    busy = [w for w in self._workers if w and w.job is not None]
    now = time.monotonic()
    # Until a worker has said that it is up, its job has not begun.
    patience = min(
      (w.started + self._timeout - now for w in busy if w.is_ready),
      default=1.0,
    )
    multiprocessing.connection.wait(
      [w.pipe for w in busy], timeout=min(max(patience, 0.0), 1.0)
    )
    for i, worker in enumerate(self._workers):
      if worker is None or worker.job is None:
        continue
      try:
        while worker.job is not None and worker.pipe.poll():
          message = worker.pipe.recv()
          if not worker.is_ready:
            worker.is_ready, worker.started = True, time.monotonic()
          else:
            results[worker.job], worker.job = message, None
        if worker.job is None:
          continue
      except (EOFError, OSError):
        results[worker.job] = DIED
        self._replace(i)
        continue
      if worker.is_ready and time.monotonic() > worker.started + self._timeout:
        results[worker.job] = TIMED_OUT
        self._replace(i)

  def close(self) -> None:
    """Ends the processes."""
    for i in range(len(self._workers)):
      self._replace(i)

  def _replace(self, i: int) -> None:
    """Kills a worker; another takes its place when there is work."""
    worker, self._workers[i] = self._workers[i], None
    if worker:
      worker.kill()

  def __enter__(self) -> "WorkerPool":
    return self

  def __exit__(self, *_) -> None:
    self.close()


class _Worker:
  """One process and the job it has."""

  def __init__(self, context, memory, prepare, function):
    self.pipe, theirs = context.Pipe()
    self._process = context.Process(
      target=_work, args=(theirs, memory, prepare, function), daemon=True
    )
    self._process.start()
    theirs.close()
    self.job: int | None = None
    self.is_ready = False
    self.started = time.monotonic()

  def take(self, job: int, arguments) -> None:
    self.job, self.started = job, time.monotonic()
    with contextlib.suppress(OSError):  # it died; reading will tell
      self.pipe.send(arguments[job])

  def kill(self) -> None:
    self._process.kill()
    self._process.join()
    self.pipe.close()


def _work(pipe, memory, prepare, function) -> None:
  # Ctrl-C is the parent's to handle; it kills what it no longer needs.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  if memory is not None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
      memory = min(memory, most)
    resource.setrlimit(resource.RLIMIT_AS, (memory, most))
  if prepare:
    prepare()
  pipe.send("ready")
  while True:
    try:
      argument = pipe.recv()
    except EOFError:
      return
    try:
      result = function(argument)
    except Exception as e:  # it is the caller's to judge
      result = e
    pipe.send(result)
