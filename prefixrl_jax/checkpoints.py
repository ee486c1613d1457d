"""Checkpoints of training states, by Orbax."""

import concurrent.futures
import gc
import logging
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from prefixrl_jax.distributed import cluster
from prefixrl_jax.storage import remote
from prefixrl_jax.storage.files import digest, write_text
from prefixrl_jax.storage.signals import Deferred
from prefixrl_jax.types import UserError, one_line

# In a step's folder, in the format of `sha256sum --check`: all files except
# Orbax's metadata of the folder itself, which is written later.
_SUMS = "SHA256SUMS"
_NOTHING_LOST = (
  "Nothing was removed: run the same command again if the fault may pass (a"
  " disk, a network, too little memory); after an update of the program, use"
  " the version that wrote it."
)


class DamagedError(Exception):
  """A file is missing, or not what was written."""


class Checkpointer:
  """Saves a training state and its host-side data, in the background.

  Reading removes nothing, whatever happens. A step that could not be read is
  moved aside once training resumes from an older one and saves again: it would
  be in the way there.
  """

  def __init__(self, directory: epath.Path, *, keep: int):
    """Opens the folder.

    Args:
      directory: a folder of steps.
      keep: how many of the newest steps to keep; with at least 2, one can be
        damaged.
    """
    self._directory = directory
    self._saving = 0  # the step being written
    self._unread: list[int] = []
    directory.mkdir(parents=True, exist_ok=True)
    self._manager = ocp.CheckpointManager(
      _absolute(directory),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(
          post_finalization_callback=self._write_sums
        ),
      ),
      item_names=("state", "host"),
    )

  def save(self, step: int, state: Any, host: dict[str, Any]) -> None:
    """Saves a step; only the writing continues after the return.

    The state may be donated to the next update at once: Orbax has copied it to
    the host when save returns. Signals are deferred until then, since an
    interrupted Orbax would leave threads and event loops behind.

    Args:
      step: the number of the step.
      state: pytree of arrays on the mesh.
      host: JSON values, saved with the state or not at all.

    Raises:
      RuntimeError: Orbax would not save this step, as when there is a later
        one.
    """
    with Deferred(signal.SIGINT, signal.SIGTERM):
      self._manager.wait_until_finished()
      self._move_aside()
      self._saving = step
      saved = self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host)
        ),
      )
      if not saved:
        raise RuntimeError(f"Orbax refuses step {step} in {self._directory}")

  def restore_latest(
    self, abstract_state: Callable[[int], Any]
  ) -> tuple[int, Any, dict[str, Any]] | None:
    """Restores the newest readable checkpoint, onto any mesh.

    If one cannot be read, the one before it is tried; from there training
    reaches the same state, only later.

    Args:
      abstract_state: of a step's state, a pytree of ShapeDtypeStruct with the
        target shardings.

    Returns:
      (step, state, host), or None if nothing was saved yet.

    Raises:
      UserError: there are checkpoints, but none can be read.
    """
    failed: dict[int, str] = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = _restore(
          self._manager,
          self._directory,
          step,
          lambda step=step: ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state(step)),
            host=ocp.args.JsonRestore(),
          ),
        )
      except Exception as e:  # whatever a damaged file may cause
        failed[step] = one_line(e)
        continue
      for other, reason in failed.items():
        logging.getLogger(__name__).warning(
          "checkpoint %d in %s cannot be read (%s); falling back to %d. %d is"
          " kept, and will be moved to %s when another is saved",
          other,
          self._directory,
          reason,
          step,
          other,
          self._aside,
        )
      self._unread = list(failed)
      return step, restored["state"], restored["host"]
    if failed:
      reasons = "; ".join(f"step {step}: {e}" for step, e in failed.items())
      raise UserError(
        f"no checkpoint in {self._directory} can be read now ({reasons})."
        f" {_NOTHING_LOST}"
      )
    return None

  @property
  def _aside(self) -> epath.Path:
    return self._directory.with_name(self._directory.name + ".unreadable")

  def _move_aside(self) -> None:
    """Moves unreadable steps to where nothing is saved or removed."""
    if not self._unread:
      return

    def move() -> None:
      self._aside.mkdir(exist_ok=True)
      for step in self._unread:
        to = self._aside / str(step)
        while to.exists():
          to = to.with_name(to.name + "_again")
        folder = self._directory / str(step)
        if remote.is_remote(folder):
          remote.move(folder, to)
        else:
          folder.rename(to)

    unread = [self._directory / str(step) for step in self._unread]
    cluster.once(f"move {self._unread} aside", move, unread)
    self._manager.reload()
    self._unread = []

  def _write_sums(self) -> None:
    """Adds SHA256SUMS before Orbax gives the folder its final name."""
    if not cluster.is_first():
      return
    step = self._directory / str(self._saving)
    unfinished = list(self._directory.glob(f"{step.name}.*"))
    folder = unfinished[0] if unfinished else step
    names = sorted(
      str(file.relative_to(folder))
      for item in ("state", "host")
      for file in _files(folder / item)
    )
    lines = [f"{x}  {name}\n" for x, name in zip(_sums(folder, names), names)]
    with cluster.alone():  # this is a thread of Orbax's
      write_text(folder / _SUMS, "".join(lines))

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *_) -> None:
    """Waits for the writing to finish."""
    with Deferred(signal.SIGINT, signal.SIGTERM):
      self._manager.wait_until_finished()
      self._manager.close()


def restore_params(
  directory: epath.Path,
  abstract_params: dict,
  step: int | None,
  remedy: str = "Run --stage=train first.",
) -> tuple[int, dict]:
  """Restores only a training state's policy; the rest is not read.

  Args:
    directory: a Checkpointer's, which may be in use.
    abstract_params: tree of ShapeDtypeStruct with the target shardings; of the
      policy alone, whether it was trained with a critic or not.
    step: exactly this one; None: the newest.
    remedy: what to do if it is missing, or can never be read.

  Returns:
    (step, parameters).

  Raises:
    UserError: there is no such checkpoint, or it cannot be read.
  """
  none = UserError(f"there is no checkpoint in {directory}. {remedy}")
  if not directory.exists():
    raise none
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
        f" (config.train.checkpoints_kept says how many are kept). {remedy}"
      )

    def args():
      of_policy = abstract_params
      if _has_critic(directory / str(step)):
        of_policy = {"policy": of_policy}
      wanted = {"params": of_policy}
      return ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
          wanted,
          restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
          partial_restore=True,
        )
      )

    try:
      restored = _restore(manager, directory, step, args)
    except Exception as e:  # whatever a damaged file may cause
      raise UserError(
        f"checkpoint {step} in {directory} cannot be read now"
        f" ({one_line(e)}); {there}. {_NOTHING_LOST} {remedy}"
      ) from e
  params = restored["state"]["params"]
  return step, params["policy"] if _is_with_critic(params) else params


def _has_critic(folder: epath.Path) -> bool:
  """Returns whether a step's parameters are a policy's and a critic's."""
  metadata = ocp.PyTreeCheckpointHandler().metadata(_absolute(folder) / "state")
  return _is_with_critic(metadata.tree["params"])


def _is_with_critic(params: dict) -> bool:
  return "policy" in params


def saved_steps(directory: epath.Path) -> list[int]:
  """Returns the steps that a Checkpointer has saved there, readable or not."""
  there = directory.iterdir() if directory.is_dir() else ()
  return sorted(
    int(folder.name)
    for folder in there
    # In a bucket a folder has its name from the start, and is marked at last.
    if folder.name.isdecimal()
    and (
      not remote.is_remote(folder) or ocp.utils.is_checkpoint_finalized(folder)
    )
  )


def _restore(manager, directory: epath.Path, step: int, make_args):
  """Restores a step, after checking its files' checksums.

  Args:
    manager: of the directory.
    directory: of the steps.
    step: which.
    make_args: () -> what is restored; may read the step's files.

  Raises:
    DamagedError: a file is not what was written.
    Exception: raised at the second attempt too; the fault may be temporary.
  """
  for is_last in (False, True):
    try:
      # Whatever fails on one process is given up on all.
      cluster.agreed(
        f"checksums of {step}",
        lambda: check_sums(directory / str(step)),
        DamagedError,
      )
      return cluster.agreed(
        f"restore of {step}",
        lambda: manager.restore(step, args=make_args()),
        DamagedError,
      )
    except Exception as e:  # whatever a file system and Orbax may raise
      if is_last or isinstance(e, DamagedError):
        raise
    gc.collect()  # what the first attempt left in memory
  raise AssertionError


def check_sums(folder: epath.Path) -> None:
  """Raises DamagedError if a file of a step is not what was written."""
  path = folder / _SUMS
  if not path.exists():
    logging.getLogger(__name__).warning(
      "%s is missing, as in checkpoints of earlier versions: damage to the"
      " files would not be noticed",
      path,
    )
    return
  *lines, rest = path.read_bytes().split(b"\n")
  matches = [re.fullmatch(rb"([0-9a-f]{64})  ([ -~]+)", x) for x in lines]
  written = [(m[2].decode(), m[1].decode()) for m in matches if m]
  if rest or not lines or len(written) < len(lines):
    raise DamagedError(f"{path} is damaged")
  names = [name for name, _ in written]
  for name in names:
    if not (folder / name).exists():
      raise DamagedError(f"{folder / name} is missing")
  processes = cluster.current()  # each reads its share
  written = written[processes.index :: processes.size]
  names = [name for name, _ in written]
  for (name, there), here in zip(written, _sums(folder, names)):
    if here != there:
      raise DamagedError(f"{folder / name} is not what was written")


def _sums(folder: epath.Path, names: list[str]) -> list[str]:
  """Returns the SHA-256 of each file, several at a time."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return list(pool.map(lambda name: digest(folder / name), names))


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  """Yields all files within; epath has no recursive pattern for it."""
  for path in folder.iterdir():
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def _absolute(directory: epath.Path) -> epath.Path:
  """Returns the path as Orbax wants all that it is given."""
  if remote.is_remote(directory):
    return directory
  return epath.Path(os.path.abspath(directory))
