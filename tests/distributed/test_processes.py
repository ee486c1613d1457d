"""Two processes of two devices each do what one process of four does."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

_WORKER = pathlib.Path(__file__).parent / "worker.py"


def _run(folder, num_processes, address, env):
  files = [folder / f"{num_processes}_{i}.npz" for i in range(num_processes)]
  started = [
    subprocess.Popen(
      [sys.executable, _WORKER, address, str(i), str(num_processes), file],
      env=env,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i, file in enumerate(files)
  ]
  try:
    for process in started:
      _, errors = process.communicate(timeout=300)
      assert process.returncode == 0, errors[-4000:]
  finally:
    for process in started:
      process.kill()
  return [dict(np.load(file)) for file in files]


@pytest.mark.slow
def test_processes_sample_and_learn_alike(
  tmp_path, free_address, environment_of
):
  (alone,) = _run(tmp_path, 1, free_address, environment_of(4))
  for one in _run(tmp_path, 2, free_address, environment_of(2)):
    np.testing.assert_array_equal(one["lengths"], alone["lengths"])
    np.testing.assert_array_equal(one["tokens"], alone["tokens"])
    for name in ("logprobs", "loss", "params"):
      np.testing.assert_allclose(one[name], alone[name], atol=1e-5)
