"""Worker processes that can be killed: one bad input costs its own limit.

Workers are forked by a separate process, the nursery, which has imported what
they need: that takes seconds, a fork only milliseconds. A job is given only to
a worker that has reported ready. So starting processes affects no verdict: it
succeeds, or is an error of the run.
"""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import multiprocessing.reduction
import multiprocessing.util
import os
import pickle
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from prefixrl_jax.types import UserError

TIMED_OUT = object()  # the job ran into its time limit
DIED = object()  # the worker did not survive the job

_START_SECONDS = 120.0  # for imports, on a busy machine
_START_ATTEMPTS = 5  # consecutive, while no worker is ready
_PAUSE_SECONDS = 0.5  # between two attempts


class WorkerPool:
  """Runs jobs in separate processes, and kills those that take too long.

  The function must be importable (the nursery is spawned) and must not import
  jax: a process that does may seize the accelerator.
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
      function: takes one picklable argument.
      num_workers: number of concurrent jobs.
      timeout_seconds: a job's limit, from when a worker begins it.
      prepare: called first in the nursery; not part of any job's time.
      memory_bytes: address space of a worker; None: unlimited.
    """
    self._num_workers, self._timeout = num_workers, timeout_seconds
    self._setup = memory_bytes, pickle.dumps((prepare, function))
    self._context = multiprocessing.get_context("spawn")
    self._nursery: _Nursery | None = None
    self._workers: list[_Worker] = []
    self._failures, self._next_start = 0, 0.0
    self._lock = threading.Lock()

  def map(self, arguments: Sequence[Any]) -> list[Any]:
    """Returns each argument's result, TIMED_OUT, DIED or an exception.

    Raises:
      UserError: no worker can be started; says why.
    """
    results: list[Any] = [None] * len(arguments)
    pending = list(range(len(arguments)))[::-1]
    with self._lock:
      try:
        while pending or self._busy():
          self._start(len(pending))
          self._hand_out(pending, arguments)
          self._collect(results)
      except BaseException:
        self._drop(*self._busy())  # nobody will ask for their results
        raise
    return results

  def close(self) -> None:
    """Ends the processes."""
    self._drop(*self._workers)
    self._end_nursery()

  def _busy(self) -> "list[_Worker]":
    return [w for w in self._workers if w.job is not None]

  def _start(self, num_pending: int) -> None:
    """Starts as many workers as there is work for, if the system allows it."""
    wanted = min(len(self._busy()) + num_pending, self._num_workers)
    try:
      while len(self._workers) < wanted and time.monotonic() > self._next_start:
        if self._nursery is None:
          self._nursery = _Nursery(self._context, *self._setup)
        if not self._nursery.is_ready:
          return
        self._workers.append(self._nursery.new_worker(self._context))
    except OSError as e:  # too many processes or files, too little memory
      if isinstance(e, ConnectionError):  # the nursery is gone
        self._end_nursery()
      self._failed_to_start(str(e))

  def _failed_to_start(self, why: str) -> None:
    """Schedules another attempt; an error if there is no worker to wait for."""
    self._failures += 1
    self._next_start = time.monotonic() + _PAUSE_SECONDS
    if self._failures >= _START_ATTEMPTS and not self._workers:
      self._failures = 0
      raise UserError(
        "a verifier's process does not start, so nothing can be judged:"
        f" {why.strip()}\nIf memory, processes (ulimit -u) or open files"
        " (ulimit -n) are short, end other programs or lower"
        " config.rewards.num_workers."
      )

  def _hand_out(self, pending: list[int], arguments) -> None:
    for worker in list(self._workers):
      if not pending or not worker.is_ready or worker.job is not None:
        continue
      data = pickle.dumps(arguments[pending[-1]])
      try:
        worker.pipe.send_bytes(data)
      except OSError:  # it has died in waiting
        self._drop(worker)
        continue
      worker.job, worker.started = pending.pop(), time.monotonic()

  def _collect(self, results: list[Any]) -> None:
    """Waits for a reply or the next time limit."""
    now = time.monotonic()
    limits = [w.started + self._timeout for w in self._busy()]
    pipes = [w.pipe for w in self._workers]
    if self._nursery and not self._nursery.is_ready:
      pipes.append(self._nursery.pipe)
    patience = min([*limits, now + _PAUSE_SECONDS]) - now
    multiprocessing.connection.wait(pipes, timeout=max(0.0, patience))
    self._look_after_nursery()
    for worker in list(self._workers):
      try:
        while worker.pipe.poll():
          self._hear(worker, results)
      except (EOFError, OSError):
        self._drop(worker)
        if worker.job is not None:
          results[worker.job] = DIED
        elif not worker.is_ready:
          self._failed_to_start(worker.why or "it ended as soon as it was born")
      else:
        if worker.job is not None and (
          time.monotonic() > worker.started + self._timeout
        ):
          results[worker.job] = TIMED_OUT
          self._drop(worker)

  def _look_after_nursery(self) -> None:
    """Checks whether a worker is ready, or never will be."""
    nursery = self._nursery
    if nursery is None or nursery.is_ready:
      return
    try:
      if nursery.pipe.poll():
        nursery.hear()
      elif time.monotonic() > nursery.started + _START_SECONDS:
        nursery.why = f"it did not start within {_START_SECONDS:.0f} seconds"
      else:
        return
    except (EOFError, OSError):
      nursery.why = nursery.last_words()
    if not nursery.is_ready:
      self._end_nursery()
      self._failed_to_start(nursery.why)

  def _end_nursery(self) -> None:
    nursery, self._nursery = self._nursery, None
    if nursery:
      nursery.kill()

  def _hear(self, worker: "_Worker", results: list[Any]) -> None:
    message = _unpickle(worker.pipe.recv_bytes())
    if worker.job is not None:
      results[worker.job], worker.job = message, None
    elif isinstance(message, str):
      worker.why = message  # and now it ends
    else:
      worker.process = os.pidfd_open(message)
      self._failures = 0

  def _drop(self, *workers: "_Worker") -> None:
    """Kills workers; others replace them when there is work."""
    for worker in workers:
      self._workers.remove(worker)
      worker.kill()

  def __enter__(self) -> "WorkerPool":
    return self

  def __exit__(self, *_) -> None:
    self.close()


class _Nursery:
  """The process that forks workers."""

  def __init__(self, context, memory: int | None, job: bytes):
    self.pipe, theirs = context.Pipe()
    try:
      self._process = context.Process(
        target=_nurse, args=(theirs, memory, job), daemon=True
      )
      self._process.start()
    except BaseException:
      self.pipe.close()
      raise
    finally:
      theirs.close()
    # At exit multiprocessing would send SIGTERM, and wait.
    multiprocessing.util.Finalize(self, self._process.kill, exitpriority=0)
    self.is_ready = False
    self.why = ""  # it cannot get ready
    self.started = time.monotonic()

  def hear(self) -> None:
    """Receives its message: that it is ready, or why not."""
    self.why = self.pipe.recv_bytes().decode()
    self.is_ready = not self.why

  def last_words(self) -> str:
    """Returns how it ended."""
    self._process.join(1.0)
    return f"it ended with exit code {self._process.exitcode}"

  def new_worker(self, context) -> "_Worker":
    """Requests a forked worker, which reports when it is ready.

    Raises:
      OSError: no pipe is available, or the nursery is gone.
    """
    ours, theirs = context.Pipe()
    try:
      multiprocessing.reduction.send_handle(self.pipe, theirs.fileno(), None)
    except BaseException:
      ours.close()
      raise
    finally:
      theirs.close()
    return _Worker(ours)

  def kill(self) -> None:
    """Ends the process, and its children with it."""
    self._process.kill()
    self._process.join()
    self.pipe.close()


class _Worker:
  """One process and the job it has."""

  def __init__(self, pipe: multiprocessing.connection.Connection):
    self.pipe = pipe
    self.process = -1  # its file descriptor, once it is ready
    self.why = ""  # it is not
    self.job: int | None = None
    self.started = 0.0  # the job

  @property
  def is_ready(self) -> bool:
    return self.process >= 0

  def kill(self) -> None:
    """Ends the process."""
    self.pipe.close()
    if self.is_ready:
      with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(self.process, signal.SIGKILL)
      os.close(self.process)


def _nurse(pipe, memory: int | None, job: bytes) -> None:
  """Prepares, and forks a worker for each pipe that comes in."""
  # Ctrl-C and SIGTERM, which may be sent to all processes of a job, are for the
  # parent to handle: it ends its step, and kills what it no longer needs.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  # numpy's threads would not survive the fork.
  os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
  try:
    if memory is not None:
      _, most = resource.getrlimit(resource.RLIMIT_AS)
      if most != resource.RLIM_INFINITY:
        memory = min(memory, most)
      resource.setrlimit(resource.RLIMIT_AS, (memory, most))
    prepare, function = pickle.loads(job)
    if prepare:
      prepare()
  except BaseException:
    pipe.send_bytes(traceback.format_exc()[-2000:].encode(errors="replace"))
    return
  signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
  prctl = ctypes.CDLL(None).prctl
  pipe.send_bytes(b"")  # ready
  while True:
    try:
      handle = multiprocessing.reduction.recv_handle(pipe)
    except (EOFError, OSError):
      return
    with multiprocessing.connection.Connection(handle) as worker_pipe:
      try:
        pid = os.fork()
      except OSError as e:
        worker_pipe.send_bytes(pickle.dumps(str(e)))
        continue
      if pid == 0:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: to die with the nursery
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pipe.close()
        try:
          _work(worker_pipe, function)
        finally:
          os._exit(1)


def _work(pipe, function) -> None:
  """Does one job after another, until the pipe is closed."""
  pipe.send_bytes(pickle.dumps(os.getpid()))
  while True:
    try:
      argument = pickle.loads(pipe.recv_bytes())
    except (EOFError, OSError):
      return
    try:
      result = pickle.dumps(function(argument))
    except Exception as e:  # the caller decides what it means
      result = _pickle_exception(e)
    pipe.send_bytes(result)


def _pickle_exception(error: Exception) -> bytes:
  """Pickles an exception, or its text if it cannot be unpickled."""
  with contextlib.suppress(Exception):
    data = pickle.dumps(error)
    if isinstance(pickle.loads(data), Exception):
      return data
  text = type(error).__name__
  with contextlib.suppress(Exception):
    text += f": {error}"[:2000]
  return pickle.dumps(RuntimeError(text))


def _unpickle(data: bytes) -> Any:
  try:
    return pickle.loads(data)
  except Exception as e:  # also for the caller to decide
    return RuntimeError(f"a result that does not unpickle: {e}")
