"""Jobs that run side by side, as a person sees them."""

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from prefixrl_jax.parallel.jobs import Job, logged
from prefixrl_jax.storage.metrics import Progress

_TAIL_BYTES = 4096


class View:
  """A line for each job that runs; without a terminal, one now and then."""

  def __init__(self, console: Console, jobs: Sequence[Job]):
    """Shows nothing yet.

    Args:
      console: to print to.
      jobs: all that will run.
    """
    self._console, self._jobs = console, jobs
    self._began: dict[Job, float] = {}
    self._said: dict[Job, float] = {}
    self._live = Live(console=console, auto_refresh=False, transient=True)

  def started(self, job: Job) -> None:
    """Notes that a job starts."""
    self._began[job] = self._said[job] = time.monotonic()
    if not self._console.is_terminal:
      self._print(f"{job.name}  begins")

  def ended(self, job: Job) -> None:
    """Says how a job has ended, or why it never will begin."""
    began = self._began.pop(job, None)
    if any(need.error for need in job.needs):
      needed = next(need.name for need in job.needs if need.error)
      said = f"not begun, since {needed} failed"
    elif job.error:
      said = f"failed: {job.error}"
    else:
      said = f"done in {job.seconds:.0f} s"
    count = sum(j.is_done for j in self._jobs)
    self._print(f"{job.name}  {said}  [{count} of {len(self._jobs)}]")
    if began is not None:
      self.looked()

  def looked(self) -> None:
    """Shows how far those that run are."""
    now = time.monotonic()
    if self._console.is_terminal:
      width = max((len(job.name) for job in self._began), default=0)
      lines = [
        f"{job.name:{width}}  {now - began:5.0f} s  {_last_line(job)}"
        for job, began in self._began.items()
      ]
      shown = (Text(x, no_wrap=True, overflow="ellipsis") for x in lines)
      self._live.update(Group(*shown), refresh=True)
      return
    for job, said in self._said.items():
      if job in self._began and now - said >= Progress.seconds_between_lines:
        self._said[job] = now
        if line := _last_line(job):
          self._print(f"{job.name}  {line}")

  def _print(self, text: str) -> None:
    self._console.print(text, soft_wrap=True, markup=False)

  def __enter__(self) -> "View":
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *_) -> None:
    self._live.stop()


def _last_line(job: Job) -> str:
  """Returns what a job has logged last, without its own name before it."""
  lines = logged(job, _TAIL_BYTES)
  # XLA underlines what it warns of.
  words = [line for line in lines if any(map(str.isalnum, line))]
  return words[-1].removeprefix(job.name).strip() if words else ""
