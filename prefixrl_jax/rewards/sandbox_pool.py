"""Model-written code in separate interpreters, each for one run.

A sandbox serves one job and is destroyed; the pool starts the next ones
meanwhile, so that nobody waits for a start.
"""

import collections
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from prefixrl_jax.rewards import isolation, seccomp
from prefixrl_jax.rewards.sandbox import OUTPUT_BYTES, Died, OutOfTime, Sandbox
from prefixrl_jax.types import UserError

_MAX_PROCESSES = 64  # threads count; a solution starts no process
_PATIENCE = 5  # wall-clock limit of a test, in its CPU limits
_START_SECONDS = 60.0
_PAUSE_SECONDS = 0.5  # between two attempts to start
_GRACE_SECONDS = 5.0  # for what is not the program's doing: starting, sending


class Run(NamedTuple):
  """The result of running a program once."""

  status: str  # "ok", "error", "crash", or the "... limit" it ran into
  stdout: str
  stderr: str  # its tail
  seconds: float
  cpu_seconds: float


class SandboxPool:
  """Sandboxes started before they are needed, and threads to use them."""

  def __init__(
    self,
    *,
    num_workers: int,
    timeout_seconds: float,
    total_seconds: float,
    memory_mb: int,
    sandbox: str,
  ):
    """Tries out one sandbox.

    Args:
      num_workers: number of concurrent jobs.
      timeout_seconds: CPU seconds of one test; its wall-clock limit is five
        times as long.
      total_seconds: wall clock of a job.
      memory_mb: address space of one process.
      sandbox: "bubblewrap", or "unsafe_subprocess": an ordinary process with
        limits, which can read what this one can.

    Raises:
      UserError: bubblewrap is missing or does not work here; says what to do.
    """
    self._timeout, self._total = timeout_seconds, total_seconds
    self._memory = memory_mb
    self._num_workers = num_workers
    self._spare: collections.deque[Sandbox] = collections.deque()
    self._threads: concurrent.futures.ThreadPoolExecutor | None = None
    kinds = {"bubblewrap": _bubblewraps, "unsafe_subprocess": _subprocess}
    if sandbox not in kinds:
      raise UserError(
        f"config.rewards.sandbox = {sandbox!r} is none of {', '.join(kinds)}."
      )
    self._how: isolation.Bubblewrap | isolation.Subprocess
    self._first_that_works(kinds[sandbox]())

  def _first_that_works(self, ways):
    for self._how in ways:
      try:
        with Sandbox(self._how) as sandbox:
          deadline = time.monotonic() + _START_SECONDS
          sandbox.wait_until_ready(deadline)
          sandbox.ask(self.job("hello"), deadline)
          return
      except (OSError, Died, OutOfTime) as e:
        said = str(e)
    raise isolation.failure(said)

  def map(self, function: Callable, *arguments: Sequence) -> list[Any]:
    """Returns function(...) of the arguments, `num_workers` at a time."""
    if self._threads is None:
      # Kept alive: a sandbox dies with the thread that started it.
      self._threads = concurrent.futures.ThreadPoolExecutor(self._num_workers)
    futures = [self._submit(function, *a) for a in zip(*arguments)]
    try:
      return [future.result() for future in futures]
    finally:
      for future in futures:
        future.cancel()
      concurrent.futures.wait(futures)  # none continues once one has failed

  def _submit(self, function, *arguments) -> concurrent.futures.Future:
    deadline = time.monotonic() + _START_SECONDS
    assert self._threads is not None
    while True:
      try:
        return self._threads.submit(function, *arguments)
      except RuntimeError as e:  # no new thread can be started
        if time.monotonic() + _PAUSE_SECONDS > deadline:
          raise _no_start(e) from e
      time.sleep(_PAUSE_SECONDS)

  @contextlib.contextmanager
  def take(self) -> Iterator[Sandbox]:
    """Yields a sandbox that waits for its job; destroys it afterwards.

    A failed start is not the job's fault: it is retried for a minute, and then
    is an error of the run.

    Raises:
      UserError: none can be started; says why.
    """
    sandbox = self._ready_one()
    try:
      self._start_spare()
      yield sandbox
    finally:
      sandbox.close()

  def _ready_one(self) -> Sandbox:
    deadline = time.monotonic() + _START_SECONDS
    while True:
      sandbox = None
      try:
        with contextlib.suppress(IndexError):
          sandbox = self._spare.popleft()
          if not sandbox.is_alive():  # it may have been ready, once
            sandbox.close()
            sandbox = None
        sandbox = sandbox or Sandbox(self._how)
        sandbox.wait_until_ready(deadline)
        return sandbox
      except BaseException as e:
        if sandbox is not None:
          sandbox.close()
        # Too many processes or files, too little memory: may be temporary.
        if not isinstance(e, (OSError, Died, OutOfTime)):
          raise
        if time.monotonic() + _PAUSE_SECONDS > deadline:
          raise _no_start(e) from e
      time.sleep(_PAUSE_SECONDS)

  def _start_spare(self):
    # Not by a thread that may end first: the sandbox would die with it.
    if self._threads is not None and len(self._spare) < self._num_workers:
      with contextlib.suppress(OSError):  # the next job will try again
        self._spare.append(Sandbox(self._how))

  def job(self, kind: str, **fields: Any) -> dict[str, Any]:
    """Returns the message that begins a job, including the limits."""
    return {
      "kind": kind,
      "timeout_seconds": self._timeout,
      "patience_seconds": _PATIENCE * self._timeout,
      "total_seconds": self._total,
      "memory_mb": self._memory,
      "file_mb": isolation.TMP_MB,
      "max_processes": _MAX_PROCESSES if self._how.counts_processes else None,
      "output_bytes": OUTPUT_BYTES,
      "private_tmp": self._how.private_tmp,
      "filters": self._how.filters,
      "mapping_calls": seccomp.mapping_calls(),
      **fields,
    }

  def deadline(self) -> float:
    """Returns the deadline of a job that begins now."""
    return time.monotonic() + self._total

  def patience(self, deadline: float) -> float:
    """Returns the deadline of a test that begins now."""
    wall = _PATIENCE * self._timeout + _GRACE_SECONDS
    return min(deadline, time.monotonic() + wall)

  def run(
    self, code: str, stdins: Sequence[str], *, entry_point: str | None = None
  ) -> Iterator[Run]:
    """Runs a program on one input after another, in one sandbox.

    Args:
      code: Python.
      stdins: its standard input, once per run.
      entry_point: a function of the code, or a method of its `Solution`: it is
        called, with arguments that are `plain.encode`d as JSON in `stdins`,
        and `stdout` is the reply (see inside/serving.py), as JSON.

    Yields:
      A Run per input.

    Raises:
      OutOfTime: total_seconds ran out.
      Died: the sandbox crashed, which programs should not be able to cause.
    """
    with self.take() as sandbox:
      deadline = self.deadline()
      job = self.job("programs", code=code, entry_point=entry_point)
      sandbox.send(job, deadline)
      for stdin in stdins:
        reply = sandbox.ask({"input": stdin}, self.patience(deadline))
        yield Run(**reply)

  def close(self) -> None:
    """Ends the waiting sandboxes and the threads."""
    # In this order: sandboxes die with their thread, but unobserved.
    while self._spare:
      self._spare.pop().close()
    if self._threads is not None:
      self._threads.shutdown()
      self._threads = None


def _no_start(error: BaseException) -> UserError:
  return UserError(
    "a sandbox no longer starts, so nothing can be judged:"
    f" {str(error).strip()}\nIf memory, processes (ulimit -u) or open files"
    " (ulimit -n) are short, end other programs or lower"
    " config.rewards.num_workers."
  )


def _bubblewraps() -> Iterator[isolation.Bubblewrap]:
  if isolation.is_root_of_the_machine():
    yield isolation.Bubblewrap(as_root=True)
  yield isolation.Bubblewrap(as_root=False)


def _subprocess() -> Iterator[isolation.Subprocess]:
  logging.getLogger(__name__).warning(
    "config.rewards.sandbox = 'unsafe_subprocess': model-written code can read"
    " every file that this process can, and is kept from the network and from"
    " other processes by a filter of system calls alone."
  )
  yield isolation.Subprocess()
