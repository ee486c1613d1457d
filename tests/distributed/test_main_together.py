"""Several processes through `main` do what one does, whatever befalls them."""

import time

import pyarrow.parquet as pq
import pytest
import tiny_run
from etils import epath

from benchmarks import processes
from prefixrl_jax.checkpoints import saved_steps
from prefixrl_jax.configs import demo
from prefixrl_jax.pipeline import Pipeline

_DATA = ("screen", "collect", "cut")
_DEMO = "tiny=true,arms=prefixrl"
_FIELDS = {
  "train.max_steps": 8,
  "train.checkpoint_every": 1,
  **tiny_run.FEW_PROGRAMS,
}


def _alone(workdir, stages):
  """Runs stages in this process, on eight devices."""
  config = demo.get_config(_DEMO)
  config.update_from_flattened_dict(_FIELDS)
  Pipeline(config, epath.Path(workdir)).run(stages)


def _argv(workdir, stages):
  fields = [f"--config.{name}={value}" for name, value in _FIELDS.items()]
  config = f"--config=configs/demo.py:{_DEMO}"
  return [
    config,
    f"--workdir={workdir}",
    f"--stage={','.join(stages)}",
    *fields,
  ]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  """A workdir with what one process makes."""
  workdir = tmp_path_factory.mktemp("one")
  _alone(workdir, _DATA)
  return workdir


@pytest.fixture(scope="module")
def several(tmp_path_factory, environment_of):
  """A workdir with what four processes of two devices make."""
  workdir = tmp_path_factory.mktemp("several")
  started = processes.start(_argv(workdir, _DATA), 4, environment_of(2))
  assert [code for code, _ in processes.ended(started)] == [0] * 4
  return workdir


@pytest.mark.slow
def test_four_processes_make_the_data_that_one_makes(one, several):
  assert pq.read_table(several / "data/seed_0/collect/traces.parquet").num_rows
  assert not [*processes.differences(one / "data", several / "data")]
  assert not (several / "lock.json").exists()


@pytest.mark.slow
def test_what_was_killed_and_preempted_comes_to_the_same_result(
  one, several, environment_of
):
  checkpoints = epath.Path(several) / "train/prefixrl/seed_0/checkpoints"

  def train():
    """Two processes of four devices, until they have saved one more step."""
    before = saved_steps(checkpoints)
    started = processes.start(_argv(several, ["train"]), 2, environment_of(4))
    while all(process.poll() is None for process in started):
      if saved_steps(checkpoints)[-1:] != before[-1:]:
        break
      time.sleep(0.05)
    return started

  started = train()
  started[1].kill()
  (code, said), (killed, _) = processes.ended(started)
  assert (code, killed) == (1, -9)
  assert said.startswith("process 1 of 2 (")
  assert "ended: it was killed, or its machine is gone" in said

  started = train()
  started[1].terminate()
  (code, said), (other, also_said) = processes.ended(started)
  assert (code, other) == (143, 143)
  step = saved_steps(checkpoints)[-1]
  assert step < _FIELDS["train.max_steps"]
  assert f"prefixrl seed 0: saved at step {step}; re-run" in said
  assert not also_said

  for workdir in (one, several):  # from a checkpoint of two processes
    _alone(workdir, ["train"])
  assert not [*processes.differences(one / "train", several / "train")]


@pytest.mark.slow
def test_other_settings_are_refused_by_name(tmp_path, environment_of):
  argv = _argv(tmp_path, ["screen"])
  started = processes.start(
    argv, 2, environment_of(2), of_last=["--config.train.flops=1e9"]
  )
  (code, said), (other, _) = processes.ended(started)
  assert (code, other) == (1, 1)
  assert "different settings: config.train.flops is " in said
  assert not any(tmp_path.iterdir())
