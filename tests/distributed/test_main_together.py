"""Two processes of two devices through `main` do what one of four does."""

import subprocess
import sys

import pytest


def _start(environment, workdir, *more):
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "prefixrl_jax.main", "--stage=screen"),
      *("--config=configs/demo.py:tiny=true", f"--workdir={workdir}"),
      *more,
    ],
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def _ended(*processes):
  said = [p.communicate(timeout=600)[1] for p in processes]
  return [p.returncode for p in processes], said


def _pair(environment, workdir, address, *of_second):
  place = lambda i: (
    *(f"--coordinator={address}", "--num_processes=2", f"--process_id={i}"),
  )
  return _ended(
    _start(environment, workdir, *place(0)),
    _start(environment, workdir, *place(1), *of_second),
  )


@pytest.mark.slow
def test_two_processes_screen_as_one(tmp_path, free_address, environment_of):
  codes, said = _pair(environment_of(2), tmp_path / "two", free_address)
  assert codes == [0, 0], said
  assert "training problems are hard" in said[0]
  assert "training problems are hard" not in said[1]
  codes, said = _ended(_start(environment_of(4), tmp_path / "one"))
  assert codes == [0], said
  rates = [
    (tmp_path / name / "data/seed_0/screen/pass_rates.parquet").read_bytes()
    for name in ("one", "two")
  ]
  assert rates[0] == rates[1]
  assert not (tmp_path / "two" / "lock.json").exists()


@pytest.mark.slow
def test_other_settings_are_refused_by_name(
  tmp_path, free_address, environment_of
):
  codes, said = _pair(
    environment_of(2), tmp_path, free_address, "--config.train.flops=1e9"
  )
  assert codes == [1, 1]
  assert "different settings: config.train.flops is " in said[0]
  assert not any(tmp_path.iterdir())
