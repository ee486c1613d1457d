"""Other processes, as a test sees them."""

import pathlib
import time


def ends_soon(pid):
  """Whether a process has ended within 20 seconds; a zombie has."""
  deadline = time.monotonic() + 20
  while _is_alive(pid) and time.monotonic() < deadline:
    time.sleep(0.01)
  return not _is_alive(pid)


def _is_alive(pid):
  try:
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
  except OSError:
    return False
  return state.split()[0] != "Z"
