"""Checkpoints: Orbax for training states, safetensors for small models."""

import hashlib
import logging
import os
import signal
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors.numpy
from etils import epath

from prefixrl_jax.artifacts import write_bytes
from prefixrl_jax.types import UserError


class Checkpointer:
  """Saves a training state and what belongs to it, in the background."""

  def __init__(self, directory: epath.Path, *, keep: int):
    """Opens the folder.

    Args:
      directory: a folder of steps.
      keep: newest steps that are kept; at least 2 to have one to fall back to.
    """
    self._directory = directory
    directory.mkdir(parents=True, exist_ok=True)
    self._manager = ocp.CheckpointManager(
      _absolute(directory),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True
      ),
      item_names=("state", "host"),
    )

  def save(self, step: int, state: Any, host: dict[str, Any]) -> None:
    """Saves a step; only the writing goes on after the return.

    The state may be donated to the next update at once: Orbax has copied it
    to the host when save returns.

    Args:
      step: its number.
      state: pytree of arrays on the mesh.
      host: JSON values, saved with the state or not at all.

    Raises:
      KeyboardInterrupt: Ctrl-C came meanwhile. It waits for the save: cut off
        in its middle, Orbax would leave threads and event loops behind.
    """
    with SignalFlag(signal.SIGINT) as interrupted:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host)
        ),
      )
    if interrupted.is_set:
      raise KeyboardInterrupt

  def restore_latest(
    self, abstract_state: Any
  ) -> tuple[int, Any, dict[str, Any]] | None:
    """Restores the newest whole checkpoint, onto any mesh.

    A checkpoint that cannot be read is reported, removed, and the one before
    it is tried.

    Args:
      abstract_state: pytree of ShapeDtypeStruct with the target shardings.

    Returns:
      (step, state, host), or None if nothing was saved yet.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step in steps:
      try:
        restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state),
            host=ocp.args.JsonRestore(),
          ),
        )
      except Exception as e:  # whatever a damaged file may cause
        logging.getLogger(__name__).warning(
          "checkpoint %d in %s cannot be read (%s: %s); falling back to the"
          " one before it",
          step,
          self._directory,
          type(e).__name__,
          str(e).splitlines()[0] if str(e) else "",
        )
        self._manager.delete(step)
        continue
      return step, restored["state"], restored["host"]
    if steps:
      raise UserError(
        f"no checkpoint in {self._directory} can be read; remove that folder"
        " to train anew."
      )
    return None

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *_) -> None:
    """Waits for what is being written."""
    self._manager.wait_until_finished()
    self._manager.close()


def restore_params(
  directory: epath.Path, abstract_params: dict, step: int | None
) -> tuple[int, dict]:
  """Restores a training state's parameters alone, and leaves the rest unread.

  Args:
    directory: of a Checkpointer, which may be at work there.
    abstract_params: tree of ShapeDtypeStruct with the target shardings.
    step: None is the newest.

  Returns:
    (step, parameters).

  Raises:
    UserError: there is no such checkpoint, or it cannot be read.
  """
  none = UserError(
    f"there is no checkpoint in {directory}; run --stage=train first."
  )
  if not directory.exists():
    raise none
  wanted = {"params": abstract_params}
  options = ocp.CheckpointManagerOptions(create=False)
  with ocp.CheckpointManager(_absolute(directory), options=options) as manager:
    steps = sorted(manager.all_steps())
    if not steps:
      raise none
    step = steps[-1] if step is None else step
    there = f"there are {', '.join(map(str, steps))}"
    if step not in steps:
      raise UserError(
        f"there is no checkpoint of step {step} in {directory}; {there}"
        " (config.train.checkpoints_kept says how many are kept)."
      )
    try:
      restored = manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeRestore(
            wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
          )
        ),
      )
    except Exception as e:  # whatever a damaged file may cause
      raise UserError(
        f"checkpoint {step} in {directory} cannot be read"
        f" ({type(e).__name__}); {there}."
      ) from e
  return step, restored["state"]["params"]


def _absolute(directory: epath.Path):
  remote = "://" in str(directory)
  return directory if remote else os.path.abspath(directory)


class SignalFlag:
  """Remembers a signal instead of dying of it."""

  def __init__(self, number: int):
    self._number = number
    self.is_set = False

  def _handle(self, *_):
    self.is_set = True

  def __enter__(self):
    self._previous = signal.signal(self._number, self._handle)
    return self

  def __exit__(self, *_):
    signal.signal(self._number, self._previous)


def save_params(path: epath.Path, params: dict) -> None:
  """Writes a small parameter tree as one safetensors file, atomically."""
  write_bytes(path, safetensors.numpy.save(_flatten(params)))


def load_params(path: epath.Path) -> dict:
  """Reads what `save_params` wrote, as numpy arrays."""
  if not path.exists():
    raise UserError(
      f"there is no base model {path}; run --stage=pretrain with"
      " config.model.base='' to make one."
    )
  params: dict = {}
  for name, value in safetensors.numpy.load(path.read_bytes()).items():
    *folders, leaf = name.split(".")
    node = params
    for folder in folders:
      node = node.setdefault(folder, {})
    node[leaf] = value
  return params


def weight_hash(params: dict) -> str:
  """Returns 12 hex digits that name these weights, wherever they lie."""
  digest = hashlib.sha256()
  for name, value in sorted(_flatten(params).items()):
    digest.update(f"{name} {value.dtype} {value.shape}".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:12]


def _flatten(params: dict) -> dict[str, np.ndarray]:
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  return {
    ".".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves
  }
