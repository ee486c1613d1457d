"""The command with two processes, of which one fails; Ctrl-C ends the other."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest

from prefixrl_jax.parallel import jobs

_ROOT = pathlib.Path(__file__).parents[2]
_FLAGS = (
  "--config=configs/demo.py:tiny=true,seeds=1,arms=rl+prefixrl",
  # All sample with one compiled program, of one layer.
  "--config.model.scan_unroll=1",
  *(f"--config.{section}.lanes=8" for section in ("screen", "evals")),
  *("--config.evals.rows=4", "--config.train.completions_per_prompt=8"),
  *("--config.evals.curve_points=1", "--config.evals.curve_samples=1"),
  # All are hard, the one that shall be easy too: that arm cannot begin.
  *("--config.screen.max_correct=3", "--config.problems.num_easy_train=1"),
  "--config.arms.prefixrl.easy_share=0.25",
  *("--config.train.flops=1e15", "--config.train.log_every=1"),
)


def _argv(workdir, *flags):
  main = [sys.executable, "-m", "prefixrl_jax.main", *_FLAGS]
  return [*main, f"--workdir={workdir}", *flags]


@pytest.fixture(scope="module")
def one_cpu():
  """One host device in processes of ours, unlike the tests' own."""
  flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XLA_FLAGS", flags)
    patch.setenv("PYTHONPATH", str(_ROOT))
    patch.setenv("GLIBC_TUNABLES", "")  # it does not start itself anew
    patch.chdir(_ROOT)
    yield


@pytest.fixture(scope="module")
def ended(tmp_path_factory, one_cpu):
  """Ctrl-C comes once one arm has failed, and the other made three steps."""
  workdir = tmp_path_factory.mktemp("ended") / "w"
  # What runs in the background ignores SIGINT, and hands that down.
  ours = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    process = subprocess.Popen(
      _argv(workdir, "--stage=screen,collect,cut,train", "--jobs=2"),
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
  finally:
    signal.signal(signal.SIGINT, ours)
  lines = []
  for line in process.stderr:
    lines.append(line.rstrip("\n"))
    if line.startswith("prefixrl seed 0  failed"):
      break
  log = workdir / "logs/rl-seed_0.log"
  while process.poll() is None and "step 3 " not in log.read_text():
    time.sleep(0.05)
  os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
  lines += process.stderr.read().splitlines()
  process.stderr.close()
  return types.SimpleNamespace(
    workdir=workdir, code=process.wait(), lines=lines, log=log.read_text()
  )


def test_a_failure_is_a_line_and_stops_no_other(ended):
  log = ended.workdir / "logs/prefixrl-seed_0.log"
  [line] = [line for line in ended.lines if "failed" in line]
  assert line.startswith("prefixrl seed 0  failed: an arm has an easy_share")
  assert line.endswith(f"({log})  [1 of 2]")
  assert "rl seed 0  step 3 " in ended.log


def test_ctrl_c_lets_them_save_and_end(ended):
  assert ended.code == 128 + signal.SIGINT
  assert ended.lines[-1] == "interrupted; re-run the same command to resume"
  assert "saved at step" in ended.log.splitlines()[-1]
  assert not any("Traceback" in line for line in ended.lines)
  assert not (ended.workdir / "lock.json").exists()


def test_results_are_those_of_one_process_with_as_many_cores(ended, tmp_path):
  shutil.copytree(ended.workdir / "data", tmp_path / "w/data")
  own = ("--config.run_arms=('rl',)", "--config.train.max_steps=2")
  alone = jobs.Job(
    "rl",
    _argv(tmp_path / "w", "--stage=train", "--jobs=1", *own),
    tmp_path / "log",
  )
  cores = sorted(os.sched_getaffinity(0))
  process = jobs.start(alone, cores[: len(cores) // 2])
  assert process.wait() == 0, alone.log.read_text()
  first, second = _steps(tmp_path / "w")
  assert first["train/grad_norm"] > 0
  assert [first, second] == _steps(ended.workdir)[:2]


def _steps(workdir):
  """What RL's training has measured, but for time."""
  file = workdir / "train/rl/seed_0/metrics.jsonl"
  timed = ("time/", "tokens_per_second/", "compilations")
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith(timed)}
    for line in file.read_text().splitlines()
  ]
