"""Eight host devices, set before jax is imported; a tiny model."""

import dataclasses
import gc
import os
import pathlib
import signal
import socket
import sys
import tempfile

# Compiling is much of the tests' time: fast rather than for speed (a fifth of
# the time), and each program, however small, once for all workers (who inherit
# the folder, in which calls of oneDNN cannot be kept).
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8"
  + " --xla_backend_optimization_level=0"
  + " --xla_cpu_parallel_codegen_split_count=1"
  + " --xla_cpu_use_fusion_emitters=false"
  + " --xla_cpu_use_onednn=false"
)
os.environ["JAX_PLATFORMS"] = "cpu"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _CACHE = tempfile.TemporaryDirectory()
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import numpy as np
import pytest
import small_model

from prefixrl_jax.distributed import backends
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.models import parameters

# JAX makes and keeps so many objects that collecting garbage takes a tenth of
# the time: seldom, and see `only_what_is_new_is_collected`.
gc.set_threshold(100_000, 20, 20)

# The files that take longest, which begin: so all workers end at the same time.
_LONGEST = (
  "test_pipeline.py",
  "test_notebooks.py",
  "test_methods.py",
  "test_train.py",
  "run/test_workdirs.py",
  "rollouts/test_sampler.py",
  "models/test_families.py",
  "models/test_attention_kernel.py",
  "settings/test_validation.py",
  "distributed/test_mesh.py",
  "rewards/test_code.py",
)

# pytest-cov's tracer makes what calls much Python, tracing by JAX included, up
# to twice as long; what these run is measured in other files too.
_NOT_MEASURED = (
  "test_architecture.py",
  "test_device_check.py",
  "test_documentation.py",
  "test_extending.py",
  "test_ledger.py",
  "test_methods.py",
  "test_pipeline.py",
  "test_sharded.py",
  "test_train.py",
  "learner/test_methods.py",
  "learner/test_update.py",
  "rollouts/test_sampler.py",
  "run/test_memory.py",
  "run/test_workdirs.py",
  "models/test_adapters.py",
  "models/test_attention_kernel.py",
  "models/test_experts.py",
  "models/test_exporting.py",
  "models/test_families.py",
  "models/test_transformer.py",
  "distributed/test_main_together.py",
  "distributed/test_mesh.py",
  "distributed/test_presets.py",
  "distributed/test_processes.py",
  "embedded/test_countdown_steps.py",
  "evals/test_page.py",
  "problems/test_countdown.py",
  "rewards/test_answers.py",
  "rewards/test_equality.py",
  "rewards/test_spellings.py",
  "traces/test_rejection.py",
)


def pytest_collection_modifyitems(items):
  here = pathlib.Path(__file__).parent
  place = {here / name: i for i, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: place.get(item.path, len(place)))
  for item in items:
    if item.path.relative_to(here).as_posix() in _NOT_MEASURED:
      item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
  """What is not measured includes what the test is set up with."""
  plugin = item.config.pluginmanager.getplugin("_cov")
  controller = plugin and plugin.cov_controller
  if not controller or not item.get_closest_marker("no_cover"):
    return (yield)
  controller.pause()
  try:
    return (yield)
  finally:
    controller.resume()


def pytest_xdist_auto_num_workers():
  """One more than cores: a quarter of the time a test waits for a process."""
  return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="module", autouse=True)
def only_what_is_new_is_collected():
  """Not what JAX keeps of earlier files."""
  gc.collect()
  gc.freeze()


@pytest.fixture(autouse=True)
def handlers():
  """Puts back handlers of signals; the command sets them where it is tested."""
  before = [(n, signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
  hook = sys.unraisablehook
  yield
  for number, handler in before:
    signal.signal(number, handler)
  sys.unraisablehook = hook


@pytest.fixture(scope="session")
def model():
  return small_model.MODEL


@pytest.fixture(scope="session")
def params(model):
  return parameters.init(model, jax.random.key(3))


@pytest.fixture(scope="session")
def one_device():
  return make_mesh(1, 1, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def one_device_alone():
  """A run that sees one device: a quarter less time than on the eight."""
  all_of = jax.devices
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *args: all_of(*args)[:1])
    yield


@pytest.fixture(scope="session")
def eight_devices():
  return make_mesh(2, 2, 2)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.fixture
def change_backend(monkeypatch):
  """Changes fields of the CPU's Backend for the test."""

  def change(**fields):
    changed = dataclasses.replace(backends.BACKENDS["cpu"], **fields)
    monkeypatch.setitem(backends.BACKENDS, "cpu", changed)

  return change


@pytest.fixture
def default_precision():
  """JAX's own, as nobody has set it; put back afterwards."""
  before = jax.config.values["jax_default_matmul_precision"]
  jax.config.update("jax_default_matmul_precision", None)
  yield
  jax.config.update("jax_default_matmul_precision", before)


@pytest.fixture(scope="session")
def environment_of():
  """Returns (number of host devices) -> variables for a process of its own."""

  def of(devices):
    flags = os.environ["XLA_FLAGS"]
    count = "--xla_force_host_platform_device_count="
    assert f"{count}8" in flags
    root = pathlib.Path(__file__).parents[1]
    return dict(
      os.environ,
      XLA_FLAGS=flags.replace(f"{count}8", f"{count}{devices}"),
      PYTHONPATH=os.pathsep.join(map(str, (root, root / "tests"))),
    )

  return of


@pytest.fixture
def free_address():
  """An address on which several processes can meet."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return f"localhost:{probe.getsockname()[1]}"
