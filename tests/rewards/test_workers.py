"""Workers: answers in order, and a bad job costs only itself."""

import contextlib
import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from prefixrl_jax.rewards import workers
from prefixrl_jax.rewards.workers import DIED, TIMED_OUT, WorkerPool
from prefixrl_jax.types import UserError


class _Odd(Exception):
  """Pickles, and does not unpickle."""

  def __init__(self, one, two):
    super().__init__(one)


class _Mute(Exception):
  def __str__(self):
    raise ValueError

  def __reduce__(self):
    raise ValueError


class _Bomb:
  """A result that pickles, and does not unpickle."""

  def __reduce__(self):
    return int, ("x",)


def _job(x):
  if x == "hang":
    while True:
      time.sleep(1)
  if x == "die":
    os._exit(3)
  if x == "raise":
    raise ValueError("no")
  if x == "odd":
    raise _Odd("one", "two")
  if x == "mute":
    raise _Mute
  if x == "lambda":
    return lambda: 0
  if x == "bomb":
    return _Bomb()
  return x * 2


def test_bad_jobs_cost_only_themselves():
  jobs = [1, "hang", 2, "die", 3, "raise", 4, 5]
  with WorkerPool(_job, num_workers=2, timeout_seconds=3.0) as pool:
    results = pool.map(jobs)
    assert pool.map([6]) == [12]
  assert results[1] is TIMED_OUT
  assert results[3] is DIED
  assert isinstance(results[5], ValueError)
  assert [results[i] for i in (0, 2, 4, 6, 7)] == [2, 4, 6, 8, 10]


def test_what_does_not_pickle_is_the_jobs_own_error():
  jobs = ["odd", "mute", "lambda", "bomb", "\ud800", 1]
  with WorkerPool(_job, num_workers=1, timeout_seconds=60.0) as pool:
    *bad, surrogate, two = pool.map(jobs)
  assert [str(e)[:5] for e in bad[:2]] == ["_Odd:", "_Mute"]
  assert all(isinstance(result, Exception) for result in bad)
  assert (surrogate, two) == ("\ud800" * 2, 2)


def test_no_jobs_start_no_process():
  with WorkerPool(_job, num_workers=2, timeout_seconds=60.0) as pool:
    assert pool.map([]) == []
    assert pool._workers == []
    assert pool.map([1]) == [2]
    assert len(pool._workers) == 1


_prepared = []


def _prepare():
  _prepared.append(os.getpid())


def _who(x):
  if x == "die":
    os._exit(3)
  return _prepared, os.getpid()


def test_a_killed_one_is_replaced_without_preparing_again():
  with WorkerPool(
    _who, num_workers=1, timeout_seconds=60.0, prepare=_prepare
  ) as pool:
    results = pool.map([1, "die", 2, "die", 3])
  prepared = [nursery for r in results[::2] for nursery in r[0]]
  assert len(prepared) == 3
  assert len(set(prepared)) == 1
  assert len({pid for _, pid in results[::2]}) == 3


def test_workers_end_with_their_pool():
  with WorkerPool(_who, num_workers=2, timeout_seconds=60.0) as pool:
    before = len(os.listdir("/proc/self/fd"))
    pids = {pid for _, pid in pool.map([1, 2, 3, 4])}
    pool.close()
    assert len(os.listdir("/proc/self/fd")) == before
  until = time.monotonic() + 60
  while any(os.path.exists(f"/proc/{pid}") for pid in pids):
    assert time.monotonic() < until
    time.sleep(0.01)


def _terminated(x):
  """As where a scheduler ends all processes of a job."""
  for pid in (os.getpid(), os.getppid()):
    os.kill(pid, signal.SIGTERM)
  return x


def test_sigterm_costs_no_verdict():
  with WorkerPool(_terminated, num_workers=2, timeout_seconds=60.0) as pool:
    assert pool.map([1, 2, 3, 4]) == [1, 2, 3, 4]
    assert pool.map([5]) == [5]


def test_a_pool_that_nobody_closed_keeps_no_process_from_ending(tmp_path):
  script = tmp_path / "script.py"
  script.write_text(
    """
from prefixrl_jax.rewards.workers import WorkerPool
if __name__ == "__main__":
  pool = WorkerPool(abs, num_workers=1, timeout_seconds=60.0)
  print(pool.map([-1]))
"""
  )
  root = str(pathlib.Path(__file__).parents[2])
  done = subprocess.run(
    [sys.executable, str(script)],
    env=dict(os.environ, PYTHONPATH=root),
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  assert done.stdout == "[1]\n"


_EAGAIN = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def _let_forks_fail(which):
  """Has the calls of os.fork fail whose number `which` is true of."""
  fork, calls = os.fork, []

  def failing():
    calls.append(None)
    if which(len(calls)):
      raise _EAGAIN
    return fork()

  os.fork = failing  # in the nursery: a process of its own


def _some_forks_fail():
  _let_forks_fail(lambda number: number in (1, 3, 4))


def _forks_fail():
  _let_forks_fail(lambda number: True)


def test_failed_forks_lose_no_result(monkeypatch):
  monkeypatch.setattr(workers, "_PAUSE_SECONDS", 0.01)
  pool = WorkerPool(
    _job, num_workers=2, timeout_seconds=60.0, prepare=_some_forks_fail
  )
  start, tries = pool._context.Process.start, []

  def failing(process):
    tries.append(process)
    if len(tries) < 3:
      raise _EAGAIN
    start(process)

  monkeypatch.setattr(pool._context.Process, "start", failing)
  with pool:
    assert pool.map([1, "die", 2, 3, "die", 4]) == [2, DIED, 4, 6, DIED, 8]
  assert len(tries) == 3


def _fails():
  raise ImportError("no module of that name")


def _dies():
  os._exit(7)


def _hangs():
  time.sleep(600)


@pytest.mark.parametrize(
  ("prepare", "why"),
  [
    (_fails, "ImportError: no module of that name"),
    (_dies, "exit code 7"),
    (_hangs, "did not start within"),
    (_forks_fail, "temporarily unavailable"),
  ],
)
def test_a_worker_that_does_not_start_is_an_error(monkeypatch, prepare, why):
  """Were it the job's, what cannot be judged would be wrong answers."""
  monkeypatch.setattr(workers, "_PAUSE_SECONDS", 0.01)
  monkeypatch.setattr(workers, "_START_ATTEMPTS", 2)
  if prepare is _hangs:
    monkeypatch.setattr(workers, "_START_SECONDS", 0.5)
  with (
    WorkerPool(
      _job, num_workers=1, timeout_seconds=60.0, prepare=prepare
    ) as pool,
    pytest.raises(UserError, match=why),
  ):
    pool.map([1, 2])


def test_no_process_at_all_is_an_error(monkeypatch):
  monkeypatch.setattr(workers, "_PAUSE_SECONDS", 0.01)
  pool = WorkerPool(_job, num_workers=2, timeout_seconds=60.0)

  def failing(process):
    raise _EAGAIN

  monkeypatch.setattr(pool._context.Process, "start", failing)
  before = len(os.listdir("/proc/self/fd"))
  with pool, pytest.raises(UserError, match=r"temporarily unavailable\n.*ulim"):
    pool.map([1])
  assert len(os.listdir("/proc/self/fd")) == before


def test_an_interrupted_batch_leaves_no_results_to_the_next(monkeypatch):
  with WorkerPool(_job, num_workers=1, timeout_seconds=60.0) as pool:
    assert pool.map([1]) == [2]

    def interrupted(results):
      raise KeyboardInterrupt

    with monkeypatch.context() as patch:
      patch.setattr(pool, "_collect", interrupted)
      with pytest.raises(KeyboardInterrupt):
        pool.map([7])
    assert pool.map([2]) == [4]


def test_one_that_died_in_waiting_costs_no_job():
  with WorkerPool(_job, num_workers=1, timeout_seconds=60.0) as pool:
    assert pool.map([1]) == [2]
    signal.pidfd_send_signal(pool._workers[0].process, signal.SIGKILL)
    with contextlib.suppress(EOFError):
      pool._workers[0].pipe.recv_bytes()
    assert pool.map([3]) == [6]


def test_one_whose_nursery_has_died_is_replaced():
  with WorkerPool(_job, num_workers=1, timeout_seconds=60.0) as pool:
    assert pool.map([1]) == [2]
    pool._nursery._process.kill()
    pool._nursery._process.join()
    with contextlib.suppress(EOFError):  # it goes along
      pool._workers[0].pipe.recv_bytes()
    assert pool.map([2, 3]) == [4, 6]


def _allocate(num_bytes):
  return len(bytearray(num_bytes))


def test_a_worker_has_no_more_memory_than_it_may():
  with WorkerPool(
    _allocate, num_workers=1, timeout_seconds=60.0, memory_bytes=2**30
  ) as pool:
    results = pool.map([2**20, 2**32, 2**20])
  assert [results[0], results[2]] == [2**20] * 2
  assert isinstance(results[1], MemoryError)


def test_an_interrupted_call_leaves_nothing_to_the_next(monkeypatch):
  """Its results are nobody's: a worker that had them ends with it."""
  with WorkerPool(_job, num_workers=1, timeout_seconds=60.0) as pool:
    assert pool.map([1]) == [2]
    hand_out = pool._hand_out

    def interrupted(*args):
      hand_out(*args)
      raise KeyboardInterrupt

    with monkeypatch.context() as patch:
      patch.setattr(pool, "_hand_out", interrupted)
      with pytest.raises(KeyboardInterrupt):
        pool.map([20])
    assert not pool._busy()
    assert pool.map([300, 4000]) == [600, 8000]
