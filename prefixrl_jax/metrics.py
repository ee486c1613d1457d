"""Metrics to JSONL, TensorBoard and the terminal; timers and counters."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax.monitoring
import numpy as np
import rich.progress
import tensorboardX
from etils import epath
from rich.console import Console

from prefixrl_jax.types import UserError

# One event for every program that is asked of the compiler, found in the
# persistent cache or not.
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class MetricWriter:
  """Writes one row a step to every sink."""

  def __init__(
    self,
    directory: epath.Path,
    *,
    wandb_project: str | None,
    resume_step: int | None,
  ):
    """Opens the sinks.

    Args:
      directory: for metrics.jsonl and TensorBoard's events.
      wandb_project: also log there; None does not.
      resume_step: rows after this step are dropped: they will come again.
    """
    self._wandb = None
    if wandb_project:
      try:
        import wandb
      except ImportError:
        raise UserError(
          "config.wandb_project is set, but wandb is not installed:"
          " pip install 'prefixrl_jax[wandb]'."
        ) from None
      self._wandb = wandb.init(project=wandb_project, dir=str(directory))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "metrics.jsonl"
    kept = []
    if resume_step is not None and path.exists():
      kept = [r for r in read_jsonl(path) if r["step"] <= resume_step]
    self._file = path.open("w")
    for row in kept:
      self._file.write(json.dumps(row) + "\n")
    self._board = tensorboardX.SummaryWriter(
      str(directory / "tensorboard"), purge_step=resume_step
    )

  def write(self, step: int, metrics: dict[str, float]) -> None:
    """Writes a step's metrics; what is not finite becomes null."""
    row: dict[str, Any] = {"step": step}
    for name, value in metrics.items():
      value = float(value)
      row[name] = value if math.isfinite(value) else None
      self._board.add_scalar(name, value, step)
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()
    if self._wandb:
      self._wandb.log(metrics, step=step)

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *_) -> None:
    self._file.close()
    self._board.close()
    if self._wandb:
      self._wandb.finish()


def read_jsonl(path: epath.Path) -> list[dict[str, Any]]:
  """Reads rows; a half-written last line is left out."""
  rows = []
  for line in path.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


class Progress:
  """A bar with a few figures beside it; off when stderr is no terminal."""

  def __init__(self, name: str, *, total: float):
    """Makes a bar that is full at `total`."""
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}"),
      rich.progress.BarColumn(),
      rich.progress.TaskProgressColumn(),
      rich.progress.TimeRemainingColumn(),
      rich.progress.TextColumn("{task.fields[figures]}"),
      console=Console(stderr=True),
      disable=not sys.stderr.isatty(),
    )
    self._task = self._bar.add_task(name, total=total, figures="")

  def update(self, completed: float, **figures: str) -> None:
    """Moves the bar and shows the figures."""
    text = "  ".join(f"{name} {value}" for name, value in figures.items())
    self._bar.update(self._task, completed=completed, figures=text)

  def log(self, text: str) -> None:
    """Prints a line above the bar, on a terminal or not."""
    self._bar.console.print(text, soft_wrap=True, highlight=False)

  def __enter__(self) -> "Progress":
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()


class Timers:
  """Adds up wall-clock by name."""

  def __init__(self):
    self._seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    """Times the block under `name`."""
    started = time.perf_counter()
    try:
      yield
    finally:
      spent = time.perf_counter() - started
      self._seconds[name] = self._seconds.get(name, 0.0) + spent

  def pop(self) -> dict[str, float]:
    """Returns {"time/<name>": seconds} and starts anew."""
    popped = {f"time/{name}": s for name, s in self._seconds.items()}
    self._seconds = {}
    return popped


class CompilationCounter:
  """Counts the programs compiled since it was entered."""

  count = 0

  def _listen(self, event: str, duration_secs: float, **_kwargs) -> None:
    del duration_secs
    self.count += event == _COMPILE_EVENT

  def __enter__(self) -> "CompilationCounter":
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    return self

  def __exit__(self, *_) -> None:
    jax.monitoring.unregister_event_duration_listener(self._listen)


def group_metrics(is_prefixed, rewards, groups) -> dict[str, float]:
  """Returns reward and signal, apart for prefixed and no-prefix prompts.

  Args:
    is_prefixed: bool [prompts].
    rewards: [prompts, n].
    groups: n completions of each prompt.
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
      f"train/{kind}/length": np.mean([len(c.tokens) for c in completions]),
      f"train/{kind}/truncated": np.mean([c.truncated for c in completions]),
    }
  return {k: float(v) for k, v in result.items()}


def shown(metrics: dict) -> dict[str, str]:
  """Returns the few figures worth a place beside the progress bar."""
  names = {
    "flops_paper": ("FLOPs", ".3g"),
    "sft/loss": ("SFT loss", ".3f"),
    "train/prefixed/accuracy": ("prefixed", ".3f"),
    "train/no_prefix/accuracy": ("no prefix", ".3f"),
    "train/no_prefix/entropy": ("entropy", ".2f"),
    "train/grad_norm": ("gradient", ".2g"),
    "tokens_per_second/rollout": ("sampled/s", ".0f"),
  }
  return {
    label: f"{metrics[name]:{form}}"
    for name, (label, form) in names.items()
    if name in metrics
  }
