"""Two processes of four devices do what one of eight does, and fewer devices.

A checkpoint that was saved on eight devices goes on on all of them.
"""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import together
from etils import epath

from prefixrl_jax.checkpoints import Checkpointer
from prefixrl_jax.distributed.mesh import make_mesh

_SCRIPT = pathlib.Path(__file__).parents[1] / "together.py"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, eight_devices):
  """What one process of eight devices makes, and its checkpoints."""
  folder = tmp_path_factory.mktemp("checkpoints")
  learner = together.learner_on(eight_devices)
  params = together.first_params(eight_devices)
  made = together.sampled(eight_devices, params)
  state, _, _ = learner.step(learner.init(params), together.trees(0))
  made["first"] = made["restored"] = together.values(state)
  with Checkpointer(epath.Path(folder), keep=2) as checkpointer:
    checkpointer.save(1, state, {"seed": 1})
  state, metrics, _ = learner.step(state, together.trees(1))
  made |= {"next": together.values(state), "loss": metrics["loss"]}
  assert np.abs(made["next"] - made["first"]).max() > 1e-3
  return made, folder


def _check_goes_on(one, alone):
  np.testing.assert_array_equal(one["restored"], alone["restored"])
  np.testing.assert_allclose(one["next"], alone["next"], atol=1e-5)
  np.testing.assert_allclose(one["loss"], alone["loss"], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 1, 1)])
def test_fewer_devices_go_on_from_a_checkpoint_of_eight(alone, shape):
  made, folder = alone
  devices = jax.devices()[: np.prod(shape)]
  learner = together.learner_on(make_mesh(*shape, devices=devices))
  _check_goes_on(together.go_on(learner, folder), made)


@pytest.mark.slow
def test_processes_sample_and_learn_and_go_on_alike(
  tmp_path, free_address, environment_of, alone
):
  made, folder = alone
  files = [tmp_path / f"{i}.npz" for i in range(2)]
  started = [
    subprocess.Popen(
      [sys.executable, _SCRIPT, free_address, str(i), "2", folder, file],
      env=environment_of(4),
      stderr=subprocess.PIPE,
      text=True,
    )
    for i, file in enumerate(files)
  ]
  try:
    for process in started:
      _, errors = process.communicate(timeout=600)
      assert process.returncode == 0, errors[-4000:]
  finally:
    for process in started:
      process.kill()
  for one in map(np.load, files):
    np.testing.assert_array_equal(one["lengths"], made["lengths"])
    np.testing.assert_array_equal(one["tokens"], made["tokens"])
    for name in ("logprobs", "first"):
      np.testing.assert_allclose(one[name], made[name], atol=1e-5)
    _check_goes_on(one, made)
