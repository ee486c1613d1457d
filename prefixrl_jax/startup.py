"""What is set up before anything else, so that a run starts anywhere."""

import glob
import logging
import os
import pathlib
import re
import sys
from typing import Any

from absl import logging as absl_logging

from prefixrl_jax.types import UserError

# Variables that choose what JAX runs on; whoever sets one means it.
_CHOICES = ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "TPU_LIBRARY_PATH")


def open_standard_streams() -> None:
  """Reopens closed standard streams; printing any text succeeds.

  Otherwise the next file to be opened would take a closed stream's place, and
  what libraries print would be written into it.
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


def is_address(workdir: str) -> bool:
  """Whether it is meant as no local folder: gs:/a is none named gs: either."""
  return bool(re.match(r"\w+:/", workdir))


def check_workdir(workdir: Any) -> None:
  """Refuses a workdir that cannot be written to; creates nothing.

  Args:
    workdir: an epath.Path.

  Raises:
    UserError: it cannot be written to; says why.
  """
  if is_address(os.fspath(workdir)):
    from prefixrl_jax.storage import remote

    remote.check(workdir)
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
  """Keeps libraries from printing what does not concern a run.

  If libtpu is installed JAX tries it first, and prints several lines of errors
  where there is no TPU; without it JAX finds a GPU or the CPU as usual.

  Args:
    root: of the file system.
  """
  if not has_tpu(root) and not any(name in os.environ for name in _CHOICES):
    sys.modules["libtpu"] = None  # type: ignore[assignment]
  absl_logging.get_absl_logger().addFilter(_is_news)
  # It warns that it keeps its fonts in a temporary folder without a home.
  logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _is_news(record: logging.LogRecord) -> bool:
  """False for what a thread of Orbax raised: it is raised again anyway."""
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
    # Google's network and storage devices are on every virtual machine.
    if is_googles and not kind.startswith(("0x01", "0x02")):
      return True
  return False
