"""What is put right before a run: closed streams, libtpu without a TPU."""

import importlib.util
import os
import subprocess
import sys

import pytest
from absl import logging as absl_logging

from prefixrl_jax import startup
from prefixrl_jax.types import UserError

_CHOICES = ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "TPU_LIBRARY_PATH")


@pytest.fixture
def bare(monkeypatch):
  """Nobody has said what JAX runs on, and libtpu is not yet looked for."""
  for name in _CHOICES:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setitem(sys.modules, "libtpu", sys)  # stands for an installed one
  return monkeypatch


def test_libtpu_is_left_out_where_no_tpu_is(bare, tmp_path):
  startup.quiet_libraries(str(tmp_path))
  assert importlib.util.find_spec("libtpu") is None
  with pytest.raises(ImportError):
    import libtpu  # noqa: F401


@pytest.mark.parametrize("name", _CHOICES)
def test_whoever_chooses_a_platform_has_it(bare, tmp_path, name):
  bare.setenv(name, "tpu")
  startup.quiet_libraries(str(tmp_path))
  assert sys.modules["libtpu"] is sys


def _pci(root, vendor, kind):
  device = root / "sys/bus/pci/devices/0000:00:04.0"
  device.mkdir(parents=True)
  (device / "vendor").write_text(f"{vendor}\n")
  (device / "class").write_text(f"{kind}\n")


@pytest.mark.parametrize(
  ("vendor", "kind", "found"),
  [
    ("0x1ae0", "0x120000", True),
    ("0x1ae0", "0x020000", False),  # a virtual machine's network
    ("0x1ae0", "0x010802", False),  # its disk
    ("0x10de", "0x030200", False),  # another maker's GPU
  ],
)
def test_a_tpu_on_the_bus_is_seen(tmp_path, vendor, kind, found):
  assert not startup.has_tpu(str(tmp_path))
  _pci(tmp_path, vendor, kind)
  assert startup.has_tpu(str(tmp_path)) is found


@pytest.mark.parametrize("node", ["accel0", "accel/accel3", "vfio/0"])
def test_a_tpu_in_a_container_is_seen(bare, tmp_path, node):
  file = tmp_path / "dev" / node
  file.parent.mkdir(parents=True)
  file.touch()
  assert startup.has_tpu(str(tmp_path))
  startup.quiet_libraries(str(tmp_path))
  assert sys.modules["libtpu"] is sys


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
  code = """if True:
    import sys
    from prefixrl_jax import startup
    startup.open_standard_streams()
    with open(sys.argv[1], "w") as f:
      assert f.fileno() > 2
      print("lost", flush=True)
      print("lost", file=sys.stderr, flush=True)
      f.write("kept")
  """
  file = tmp_path / "file"
  closed = '"$@" 0<&- 1>&- 2>&-'
  done = subprocess.run(
    ["sh", "-c", closed, "sh", sys.executable, "-c", code, str(file)],
    check=False,
  )
  assert done.returncode == 0
  assert file.read_text() == "kept"


def test_what_no_encoding_has_is_printed_nevertheless():
  code = """if True:
    from prefixrl_jax import startup
    startup.open_standard_streams()
    print("a\\udcff\\u2603")
  """
  done = subprocess.run(
    [sys.executable, "-c", code],
    stdout=subprocess.PIPE,
    check=True,
    env=dict(os.environ, PYTHONIOENCODING="ascii"),
  )
  assert done.stdout == b"a\\udcff\\u2603\n"


def test_a_workdir_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
  startup.check_workdir(tmp_path / "a" / "b")
  assert list(tmp_path.iterdir()) == []
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="file is a file, not a folder"):
    startup.check_workdir(tmp_path / "file" / "b")
  # Root may write everywhere, but to a disk that is mounted so.
  with monkeypatch.context() as m:
    m.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="read-only, or not yours"):
      startup.check_workdir(tmp_path / "a")
  full = os.statvfs_result((4096, 4096, 1000, 10, 0, 9, 9, 9, 0, 255))
  monkeypatch.setattr(os, "statvfs", lambda path: full)
  with pytest.raises(UserError, match="no space is left"):
    startup.check_workdir(tmp_path / "a")


@pytest.mark.parametrize(
  ("file", "is_printed"), [("/lib/orbax/a.py", False), ("/lib/own/a.py", True)]
)
def test_a_stack_trace_of_orbaxs_threads_is_not_printed(
  tmp_path, caplog, file, is_printed
):
  startup.quiet_libraries(str(tmp_path))
  code = (
    "from absl import logging\n"
    "try: raise OSError('full')\n"
    "except OSError: logging.exception('a thread failed')\n"
  )
  caplog.set_level("ERROR", "absl")
  absl_logging.get_absl_logger().addHandler(caplog.handler)
  try:
    exec(compile(code, file, "exec"))
  finally:
    absl_logging.get_absl_logger().removeHandler(caplog.handler)
  assert ("a thread failed" in caplog.text) == is_printed
