"""The stages, top to bottom: from problems to a compute-matched report.

Every stage leaves an artifact in the workdir. A complete one is not re-made, an
interrupted one is resumed where it stopped, and one that was made with other
settings is an error.
"""

import contextlib
import functools
import pkgutil
from collections.abc import Collection, Sequence

import ml_collections
from etils import epath

from prefixrl_jax.distributed import cluster
from prefixrl_jax.parallel import phases, workers
from prefixrl_jax.run import agreement
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.stages import ON_DEMAND, STAGES, evaluate, export
from prefixrl_jax.storage.files import (
  check_kind,
  remove_temporaries,
  write_json,
)
from prefixrl_jax.storage.locking import check_parent_holds, locked
from prefixrl_jax.types import UserError

# They read and write files alone, as one process does best.
_OF_FILES = {"problems", "report"}
_JUDGING = {"import", "screen", "collect", "train", "evaluate"}
# Every run leaves it: a folder that has it is a workdir.
MARKER = "run_config.json"
# What identifies a workdir from before the marker, or of a refused run.
_RECORDS = (
  "error.log",
  "compile/summary.json",
  *(
    f"{folder}/{name}"
    for folder in ("pretrain", "data/*/*", "train/*/*", "evaluate/*/*")
    for name in ("inputs.json", "manifest.json")
  ),
)


class Pipeline:
  """One run: the stages, each from artifacts to artifacts."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: epath.Path,
    *,
    fresh: bool = False,
    redo: Collection[str] = (),
    jobs: int | None = 1,
    argv: Sequence[str] = (),
  ):
    """Checks what can be checked before anything is loaded.

    Args:
      config: validated.
      workdir: for the artifacts.
      fresh: re-make everything that the stages to run make.
      redo: names of artifacts to re-make, or beginnings of their names.
      jobs: processes at a time; None: as many as pay.
      argv: the flags that other processes of this run are started with.
    """
    self.work = Workspace(config, workdir)
    self._fresh, self._redo = fresh, redo
    self._jobs, self._argv = jobs, argv

  def run(self, stages: Collection[str]) -> None:
    """Runs the stages named, in their order.

    Raises:
      UserError: something that the user can fix, where possible before anything
        is computed or removed.
    """
    work, workdir = self.work, self.work.workdir
    asked = {"--stage": [*stages], "--fresh": self._fresh}
    agreement.check(work, asked | {"--redo": [*self._redo]})
    if self._fresh and not _is_of_a_run(workdir):
      raise UserError(
        f"--fresh: {workdir} has files, but no {MARKER} and nothing else"
        " that a run leaves; nothing is removed there. Leave out --fresh, or"
        " choose another --workdir."
      )
    with locked(workdir, work.console.print):
      remove_temporaries(workdir, workdir / "report")
      work.request_redo(self._redo, stages, everything=self._fresh)
      in_order = list(STAGES)
      last = max((in_order.index(s) for s in stages if s in STAGES), default=-1)
      # Refused before anything is computed, or removed.
      for artifact in work.artifacts(in_order[: last + 1]):
        artifact.check()
      if "export" in stages:
        work.export_artifact.check()
        export.check(work)
      if "evaluate" in stages:
        evaluate.check(work)
      check_kind(workdir / "report", is_folder=True)
      # For people; what an artifact was made from is in its manifest.
      write_json(workdir / MARKER, work.config.to_dict())
      with contextlib.closing(work):
        if _JUDGING.intersection(stages):
          work.try_reward()
        # Problems are shown first, and exports come last.
        first = ("problems", "pretrain")
        self._run([name for name in first if name in stages])
        rest = [
          n for n in (*STAGES, "export") if n in stages and n not in first
        ]
        for phase in phases.phases(work, rest, self._jobs):
          if phase.num_jobs == 1:
            self._run(phase.stages)
          else:
            phases.side_by_side(work, phase, self._argv)

  def _run(self, stages: Sequence[str]) -> None:
    for name in stages:
      run = pkgutil.resolve_name((STAGES | ON_DEMAND)[name])
      if name in _OF_FILES:
        cluster.once(name, functools.partial(run, self.work))
      else:
        run(self.work)

  def serve(self) -> None:
    """Makes what the process that started this one asks for, part by part.

    Raises:
      UserError: that one does not hold the workdir's lock; or see `run`.
    """
    check_parent_holds(self.work.workdir)
    with contextlib.closing(self.work):
      for names in workers.tasks():
        self.work.only = names
        asked = {name.partition("/")[0] for name in names}
        self._run([stage for stage in STAGES if stage in asked])


def _is_of_a_run(workdir: epath.Path) -> bool:
  """Whether there is nothing, or what a run has left."""
  if not workdir.exists() or not any(workdir.iterdir()):
    return True
  return (workdir / MARKER).exists() or any(
    any(workdir.glob(pattern)) for pattern in _RECORDS
  )
