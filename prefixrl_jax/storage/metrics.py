"""Metrics to JSONL, TensorBoard and the terminal; timers."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import ml_collections
import numpy as np
import rich.progress
import tensorboardX
from etils import epath
from rich.console import Console
from rich.text import Text

from prefixrl_jax.distributed import cluster
from prefixrl_jax.storage.files import write_bytes
from prefixrl_jax.storage.remote import Growing
from prefixrl_jax.storage.wandb_log import WandbLog

# Steps without signal that are worth a word: such a run may never get going.
_SILENT = 20
_SILENT_STEPS = "train/steps_without_signal"


class MetricWriter:
  """Writes one row per step to every sink."""

  def __init__(
    self,
    directory: epath.Path,
    *,
    resume_step: int | None,
    wandb: ml_collections.ConfigDict | None = None,
    name: str = "",
  ):
    """Opens the sinks.

    Args:
      directory: for metrics.jsonl and TensorBoard's events.
      resume_step: rows after this step are dropped: they will be written again.
        Lines that are not rows stay where they are.
      wandb: config.wandb; without a project nothing is logged there.
      name: the run's, there.
    """
    self._growing = Growing(directory)
    local = self._growing.local
    self._wandb = None
    if wandb and wandb.project:
      resumes = bool(resume_step)
      self._wandb = WandbLog(
        wandb, directory, local=local, name=name, resumes=resumes
      )
    there, path = (folder / "metrics.jsonl" for folder in (directory, local))
    kept = []
    self.last_row: dict[str, Any] = {}  # of those that are kept
    for line, row in () if resume_step is None else _lines(there):
      if row is None or row["step"] <= resume_step:
        kept.append(line)
        self.last_row = row or self.last_row
    # Rewritten whole before anything is appended: a kill loses no row.
    write_bytes(path, b"".join(line + b"\n" for line in kept))
    self._file = path.open("a")
    self._board = tensorboardX.SummaryWriter(
      str(local / "tensorboard"),
      purge_step=None if resume_step is None else resume_step + 1,
      flush_secs=1,  # by a thread of its own; its flush() waits for nothing
    )

  def write(self, step: int, metrics: dict[str, float]) -> None:
    """Writes a step's metrics; non-finite values become null."""
    row: dict[str, Any] = {"step": step}
    for name, value in metrics.items():
      value = float(value)
      row[name] = value if math.isfinite(value) else None
      self._board.add_scalar(name, value, step)
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()
    if self._wandb:
      self._wandb.log(step, metrics)
    self._growing.copy(if_due=True)

  def flush(self) -> None:
    """Leaves all rows so far where they belong."""
    self._growing.copy()

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *_) -> None:
    self._file.close()
    self._board.close()
    if self._wandb:
      self._wandb.finish()
    self._growing.close()


def read_jsonl(path: epath.Path) -> list[dict[str, Any]]:
  """Reads rows; skips what is not one, such as a half-written line."""
  return [row for _, row in _lines(path) if row]


def _lines(path: epath.Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
  """Yields lines with their rows, or None; warns about lines without one.

  A truncated last line is not a line.
  """
  *lines, rest = (path.read_bytes() if path.exists() else b"").split(b"\n")
  for number, line in enumerate((*lines, rest), 1):
    try:
      row = json.loads(line)
      row["step"] + 0
    except (ValueError, TypeError, LookupError, RecursionError):
      if number > len(lines):
        return
      logging.getLogger(__name__).warning(
        "%s:%d is not a row of metrics and is skipped", path, number
      )
      row = None
    yield line, row


def console() -> Console:
  """Returns where people read how a run goes; process 0 tells them."""
  return Console(stderr=True, highlight=False, quiet=not cluster.is_first())


class Progress:
  """A bar with figures below it; without a terminal, an occasional line.

  Until the first update it says what it is waiting for.
  """

  seconds_between_lines = 30.0  # where there is no terminal

  def __init__(
    self, name: str, *, total: float, waits_for: str = "compiling …"
  ):
    """Makes a bar that is full at `total`."""
    self._console = console()
    self._bar = _Bar(
      rich.progress.TextColumn("{task.description}"),
      rich.progress.BarColumn(bar_width=None),
      rich.progress.TaskProgressColumn(),
      rich.progress.TimeRemainingColumn(),
      console=self._console,
      disable=not self._console.is_terminal or self._console.quiet,
      expand=True,
    )
    self._name, self._total, self._waits_for = name, total, waits_for
    self._task = self._bar.add_task(name, total=total, figures=waits_for)
    self._said = 0.0  # when

  def update(self, completed: float, **figures: str) -> None:
    """Moves the bar and shows the figures."""
    text = "  ".join(f"{name} {value}" for name, value in figures.items())
    self._bar.update(self._task, completed=completed, figures=text)
    since = time.monotonic() - self._said
    if self._bar.disable and since >= self.seconds_between_lines:
      share = completed / self._total if self._total else 1.0
      self.log(f"{self._name}  {share:.0%}  {text}".rstrip())

  def log(self, text: str) -> None:
    """Prints a line above the bar, on a terminal or not."""
    self._said = time.monotonic()
    self._console.print(text, soft_wrap=True, markup=False)

  def __enter__(self) -> "Progress":
    if self._bar.disable and self._waits_for:
      self.log(f"{self._name}  {self._waits_for}")
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()


class _Bar(rich.progress.Progress):
  """Puts figures on their own line, so that the bar keeps its width."""

  def get_renderables(self):
    yield from super().get_renderables()
    for task in self.tasks:
      if task.fields["figures"]:
        yield Text(
          f"  {task.fields['figures']}", overflow="ellipsis", no_wrap=True
        )


@contextlib.contextmanager
def busy(text: str) -> Iterator[None]:
  """Says what is going on while nothing can be counted."""
  shown_on = console()
  if shown_on.is_terminal:
    with shown_on.status(text):
      yield
  else:
    shown_on.print(text, soft_wrap=True, markup=False)
    yield


class Timers:
  """Sums wall-clock time by name."""

  def __init__(
    self,
    annotate: Callable[[str], AbstractContextManager] = contextlib.nullcontext,
  ):
    """Starts at none.

    Args:
      annotate: tells a profiler that a block of that name begins and ends.
    """
    self._seconds: dict[str, float] = {}
    self._annotate = annotate

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    """Times the block under `name`."""
    started = time.perf_counter()
    try:
      with self._annotate(name):
        yield
    finally:
      spent = time.perf_counter() - started
      self._seconds[name] = self._seconds.get(name, 0.0) + spent

  def pop(self) -> dict[str, float]:
    """Returns {"time/<name>": seconds} and resets."""
    popped = {f"time/{name}": s for name, s in self._seconds.items()}
    self._seconds = {}
    return popped


class StepLog:
  """Where a run's steps are reported: files, bar, lines on the terminal."""

  _silent: int  # steps since a group had signal

  def __init__(
    self,
    name: str,
    directory: epath.Path,
    *,
    budget: float,
    resume_step: int,
    config: ml_collections.ConfigDict,
  ):
    """Sets up; entering it opens the files and shows the bar.

    Args:
      name: of the run.
      directory: for metrics.jsonl and TensorBoard's events.
      budget: FLOPs, where the bar ends.
      resume_step: rows after this step are dropped.
      config: the whole config.
    """
    self._name, self._every = name, config.train.log_every
    self._progress = Progress(name, total=budget, waits_for="")
    self._open = lambda: MetricWriter(
      directory,
      resume_step=resume_step,
      wandb=config.wandb,
      name=name,
    )

  def write(self, step: int, metrics: dict[str, float]) -> None:
    """Reports a step; `flops_paper` says how far the run is."""
    signals = [v for k, v in metrics.items() if k.endswith("/signal")]
    if signals:
      self._silent = 0 if any(signals) else self._silent + 1
      metrics = metrics | {_SILENT_STEPS: self._silent}
    self._writer.write(step, metrics)
    figures = shown(metrics)
    if step % self._every == 0:
      line = "  ".join(f"{k} {v}" for k, v in figures.items())
      self._progress.log(f"{self._name}  step {step}  {line}")
    self._progress.update(metrics["flops_paper"], **figures)

  def flush(self) -> None:
    """Leaves all steps so far where they belong."""
    self._writer.flush()

  def __enter__(self) -> "StepLog":
    with contextlib.ExitStack() as stack:
      stack.enter_context(self._progress)
      self._writer = stack.enter_context(self._open())
      self._silent = int(self._writer.last_row.get(_SILENT_STEPS, 0))
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *raised) -> None:
    self._stack.__exit__(*raised)


def group_metrics(is_prefixed, rewards, groups, marks=None) -> dict[str, float]:
  """Returns reward and signal, of prefixed and no-prefix prompts separately.

  Args:
    is_prefixed: bool [prompts].
    rewards: [prompts, n].
    groups: n completions of each prompt.
    marks: [prompts, n], of a strategy's marker; None if there is none.
  """
  result: dict[str, Any] = {}
  for kind, chosen in (("prefixed", is_prefixed), ("no_prefix", ~is_prefixed)):
    if not chosen.any():
      continue
    correct = rewards[chosen] == 1
    completions = [
      c for group, take in zip(groups, chosen) if take for c in group
    ]
    result |= {
      f"train/{kind}/reward": rewards[chosen].mean(),
      f"train/{kind}/accuracy": correct.mean(),
      f"train/{kind}/any_correct": correct.any(1).mean(),
      f"train/{kind}/all_correct": correct.all(1).mean(),
      f"train/{kind}/signal": np.ptp(rewards[chosen], axis=1)
      .astype(bool)
      .mean(),
      f"train/{kind}/length": np.mean([len(c.tokens) for c in completions]),
      f"train/{kind}/truncated": np.mean([c.truncated for c in completions]),
    }
    if marks is not None:
      result[f"train/{kind}/marker"] = marks[chosen].mean()
  return {k: float(v) for k, v in result.items()}


def shown(metrics: dict) -> dict[str, str]:
  """Returns the few figures shown with the progress bar."""
  names = {
    "flops_paper": ("FLOPs", ".3g"),
    "sft/loss": ("SFT loss", ".3f"),
    "train/prefixed/accuracy": ("prefixed", ".3f"),
    "train/no_prefix/accuracy": ("no prefix", ".3f"),
    "train/no_prefix/entropy": ("entropy", ".2f"),
    "train/grad_norm": ("gradient", ".2g"),
    "tokens_per_second/rollout": ("sampled/s", ".0f"),
  }
  figures = {
    label: f"{metrics[name]:{form}}"
    for name, (label, form) in names.items()
    if name in metrics
  }
  if (silent := metrics.get(_SILENT_STEPS, 0)) >= _SILENT:
    figures["no group has had signal for"] = f"{silent:.0f} steps"
  return figures
