"""Weights & Biases, which may fail without costing the run."""

import importlib
import logging
from typing import Any

from etils import epath

_log = logging.getLogger(__name__)


class WandbLog:
  """Logs a run's metrics; gives up, with one warning, at the first failure."""

  def __init__(self, project: str, directory: epath.Path):
    """Starts a run of the project; see config.wandb_project.

    Args:
      project: the project it belongs to.
      directory: folder for its files.
    """
    self._run: Any = None
    try:
      wandb = importlib.import_module("wandb")
      self._run = wandb.init(project=project, dir=str(directory))
    except Exception as e:  # no network, no login, no such project
      self._give_up(e)

  def log(self, step: int, metrics: dict[str, float]) -> None:
    """Logs a step's metrics."""
    if self._run is not None:
      try:
        self._run.log(metrics, step=step)
      except Exception as e:
        self._give_up(e)

  def finish(self) -> None:
    """Ends the run."""
    if self._run is not None:
      try:
        self._run.finish()
      except Exception as e:
        self._give_up(e)

  def _give_up(self, e: Exception) -> None:
    self._run = None
    _log.warning(
      "no more is logged to Weights & Biases (%s: %s); metrics.jsonl and"
      " TensorBoard go on",
      type(e).__name__,
      " ".join(str(e).split()),
    )
