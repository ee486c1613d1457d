"""Other processes and long work, as a test sees them."""

import contextlib
import pathlib
import time


def ends_soon(pid):
  """Whether a process has ended within 20 seconds; a zombie has."""
  deadline = time.monotonic() + 20
  while _is_alive(pid) and time.monotonic() < deadline:
    time.sleep(0.01)
  return not _is_alive(pid)


@contextlib.contextmanager
def ends():
  """Fails if the block keeps this process busy for 20 seconds or more.

  No measure of speed: the fault looked for must take minutes on the block's
  input (as a quadratic search does on a long text), and what is right so
  little that a busy machine under a tracer cannot reach the limit.
  """
  before = time.process_time()
  yield
  assert time.process_time() - before < 20


def _is_alive(pid):
  try:
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
  except OSError:
    return False
  return state.split()[0] != "Z"
