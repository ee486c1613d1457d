"""Workers: answers in order, and a bad job costs only itself."""

import os
import time

from prefixrl_jax.rewards.workers import DIED, TIMED_OUT, WorkerPool


def _job(x):
  if x == "hang":
    while True:
      time.sleep(1)
  if x == "die":
    os._exit(3)
  if x == "raise":
    raise ValueError("no")
  return x * 2


def test_bad_jobs_cost_only_themselves():
  jobs = [1, "hang", 2, "die", 3, "raise", 4, 5]
  with WorkerPool(_job, num_workers=2, timeout_seconds=0.5) as pool:
    results = pool.map(jobs)
    assert pool.map([6]) == [12]
  assert results[1] is TIMED_OUT
  assert results[3] is DIED
  assert isinstance(results[5], ValueError)
  assert [results[i] for i in (0, 2, 4, 6, 7)] == [2, 4, 6, 8, 10]


def test_no_jobs_start_no_process():
  with WorkerPool(_job, num_workers=2, timeout_seconds=1.0) as pool:
    assert pool.map([]) == []
    assert pool._workers == [None, None]


def _allocate(num_bytes):
  return len(bytearray(num_bytes))


def test_a_worker_has_no_more_memory_than_it_may():
  with WorkerPool(
    _allocate, num_workers=1, timeout_seconds=10.0, memory_bytes=2**30
  ) as pool:
    results = pool.map([2**20, 2**32, 2**20])
  assert [results[0], results[2]] == [2**20] * 2
  assert isinstance(results[1], MemoryError)
