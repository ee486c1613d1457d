"""Weights & Biases, which may fail without costing the run."""

import importlib
import logging
import uuid
from typing import Any

import ml_collections
from etils import epath

from prefixrl_jax.storage.files import write_text

_log = logging.getLogger(__name__)


class WandbLog:
  """Logs a run's metrics; gives up, with one warning, at the first failure."""

  def __init__(
    self,
    settings: ml_collections.ConfigDict,
    directory: epath.Path,
    *,
    local: epath.Path,
    name: str,
    resumes: bool,
  ):
    """Starts a run of the project, or continues one.

    Args:
      settings: config.wandb.
      directory: folder that the run's id is kept in.
      local: folder for its files.
      name: the run's own.
      resumes: whether it has been here before.
    """
    self._run: Any = None
    try:
      wandb = importlib.import_module("wandb")
      self._run = wandb.init(
        project=settings.project,
        mode=settings.mode or None,
        name=f"{settings.name} {name}".strip(),
        group=settings.group or None,
        id=_id(directory / "wandb" / "run_id", resumes and settings.resume),
        resume="allow",
        dir=str(local),
      )
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
      "logging to Weights & Biases has stopped (%s: %s); metrics.jsonl and"
      " TensorBoard go on",
      type(e).__name__,
      " ".join(str(e).split()),
    )


def _id(path: epath.Path, again: bool) -> str:
  """Returns the run's id there: that in the file, or a new one."""
  if again and path.exists():
    return path.read_text()
  new = uuid.uuid4().hex[:8]
  path.parent.mkdir(parents=True, exist_ok=True)
  write_text(path, new)
  return new
