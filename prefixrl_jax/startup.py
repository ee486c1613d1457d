"""What is put right before anything else, so that a run starts anywhere."""

import glob
import logging
import os
import pathlib
import sys
from typing import Any

from absl import logging as absl_logging

from prefixrl_jax.types import UserError

# Variables that say what JAX runs on; whoever sets one knows.
_CHOICES = ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "TPU_LIBRARY_PATH")


def open_standard_streams() -> None:
  """Opens what was closed of stdin, stdout and stderr; text never fails.

  The next file that is opened would take the place of a closed one, and what
  libraries print would be written into it.
  """
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, "r+" if not number else "w"))  # noqa: SIM115
  for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def check_workdir(workdir: Any) -> None:
  """Refuses a workdir that nothing can be written to; makes nothing.

  Args:
    workdir: an epath.Path; only local ones are looked at.

  Raises:
    UserError: says what is in the way.
  """
  if "://" in os.fspath(workdir):
    return
  there = pathlib.Path(workdir).absolute()
  while not there.exists():
    there = there.parent
  if not there.is_dir():
    raise UserError(f"--workdir={workdir}: {there} is a file, not a folder.")
  if not os.access(there, os.W_OK | os.X_OK):
    raise UserError(
      f"--workdir={workdir}: {there} is read-only, or not yours to write to."
    )
  disk = os.statvfs(there)
  if disk.f_blocks and not disk.f_bavail:
    raise UserError(f"--workdir={workdir}: no space is left on {there}.")


def quiet_libraries(root: str = "/") -> None:
  """Keeps libraries from printing what is no concern of a run's.

  JAX tries libtpu first wherever it is installed, which prints several lines
  of errors where no TPU is; without it JAX finds a GPU or the CPU as before.

  Args:
    root: of the file system.
  """
  if not has_tpu(root) and not any(name in os.environ for name in _CHOICES):
    sys.modules["libtpu"] = None  # type: ignore[assignment]
  absl_logging.get_absl_logger().addFilter(_is_news)
  # That it keeps its fonts in a temporary folder where there is no home.
  logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _is_news(record: logging.LogRecord) -> bool:
  """Not what a thread of Orbax's has raised: it is raised again, and said."""
  return not (record.exc_info and "orbax" in record.pathname)


def has_tpu(root: str = "/") -> bool:
  """Whether the machine may have a TPU.

  Args:
    root: of the file system.
  """
  nodes = ("dev/accel[0-9]*", "dev/accel/accel*", "dev/vfio/[0-9]*")
  if any(glob.glob(os.path.join(root, node)) for node in nodes):
    return True
  for vendor in glob.glob(os.path.join(root, "sys/bus/pci/devices/*/vendor")):
    try:
      kind = pathlib.Path(vendor).with_name("class").read_text()
      is_googles = pathlib.Path(vendor).read_text().strip() == "0x1ae0"
    except OSError:
      continue
    # Their network and storage devices are on every virtual machine.
    if is_googles and not kind.startswith(("0x01", "0x02")):
      return True
  return False
