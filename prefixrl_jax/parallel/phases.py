"""What of a run is done side by side, and by how many processes at a time.

A unit is what one process makes from beginning to end: a seed's data
("seed_0"), the policy of an arm on a seed ("rl/seed_0"), or what is found out
about it or about the base policy ("base/seed_0"). How the cores are shared out
depends on the config alone, not on what is left to be done: a run that is
resumed has as many, and rounds alike.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Collection, Sequence

import jax

from prefixrl_jax.distributed import processor
from prefixrl_jax.models import parameters
from prefixrl_jax.parallel.jobs import Job, run
from prefixrl_jax.parallel.view import View
from prefixrl_jax.parallel.workers import Pool
from prefixrl_jax.run import memory_plan
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.storage.remote import is_remote
from prefixrl_jax.types import UserError

_OF_DATA = ("import", "screen", "collect", "cut")
_OF_TRAINING = ("train",)
_OF_POLICIES = ("evaluate", "rescore")
_OF_RUNS = (*_OF_TRAINING, *_OF_POLICIES)
_UNITS = (_OF_DATA, _OF_TRAINING, _OF_POLICIES)  # stages of a unit's job
# Stages that are worth a process of their own.
_LONG = ("screen", "collect", *_OF_RUNS)
# Parameters up to which processes share the cores out by default: products of
# such small matrices gain little from a second core. (An estimate.)
_SMALL = 2e7
# What a process takes beside the memory plan: libraries, compiled programs.
_PROCESS_BYTES = 1.5 * 2**30


@dataclasses.dataclass(frozen=True)
class Phase:
  """Stages that are run together.

  Attributes:
    stages: in their order.
    num_jobs: processes at a time; 1: this one.
  """

  stages: Sequence[str]
  num_jobs: int = 1


def phases(
  work: Workspace, stages: Sequence[str], asked: int | None
) -> list[Phase]:
  """Returns what is run after pretraining, phase after phase.

  Args:
    work: of the run.
    stages: to be run, in their order.
    asked: processes at a time; None: as many as are worthwhile.

  Raises:
    UserError: that many processes cannot run, or the weights are refused.
  """
  num_jobs = _num_jobs(work, stages, asked)
  if num_jobs == 1:
    return [Phase(stages)]
  of_data = tuple(s for s in stages if s in _OF_DATA)
  of_runs = tuple(s for s in stages if s in _OF_RUNS)
  rest = tuple(s for s in stages if s not in (*of_data, *of_runs))
  # With fewer seeds than processes, each seed's data has more of the cores.
  apart = len(work.data_seeds) < num_jobs
  divided = [of_data, of_runs] if apart else [of_data + of_runs]
  return [
    *(
      Phase(some, min(num_jobs, _num_units(work, some)))
      for some in filter(None, divided)
    ),
    Phase(rest),
  ]


def _num_units(work: Workspace, stages: Collection[str]) -> int:
  """Returns how many units stages have; a base policy is soon evaluated."""
  num_runs = len(work.config.run_arms) * len(work.config.seeds)
  return max(
    num_runs if {*stages} & {*_OF_RUNS} else 1,
    len(work.data_seeds) if {*stages} & {*_OF_DATA} else 1,
  )


def _num_jobs(
  work: Workspace, stages: Collection[str], asked: int | None
) -> int:
  num_jobs = min(
    asked or processor.num_cores(),
    _num_units(work, [s for s in stages if s in _LONG]),
  )
  long = work.artifacts([s for s in stages if s in _LONG])
  if num_jobs == 1 or all(artifact.complete for artifact in long):
    return 1
  why_not = _why_not(work)
  if why_not and asked:
    raise UserError(f"--jobs={asked}: {why_not}; leave it out.")
  if why_not:
    return 1
  session = work.session
  is_small = parameters.num_params(session.model) <= _SMALL
  if not asked and (session.mesh.size > 1 or not is_small):
    return 1
  plan = memory_plan.plan(
    work.config, session.model, session.mesh, session.rows_per_microbatch
  )
  each = session.mesh.size * sum(plan.values()) + _PROCESS_BYTES
  room = max(1, int(processor.memory_bytes() // each))
  if asked and room < num_jobs:
    raise UserError(
      f"--jobs={asked}: a process may take {each / 2**30:.1f} GiB, of"
      f" {processor.memory_bytes() / 2**30:.1f}; there is room for {room}."
    )
  return min(num_jobs, room)


def _why_not(work: Workspace) -> str:
  """Returns why processes cannot share this machine; empty if they can."""
  if jax.process_count() > 1:
    return "this is one of several processes that work together"
  if jax.default_backend() != "cpu":
    return f"processes cannot share a {jax.default_backend().upper()}"
  if is_remote(work.workdir):
    return "processes side by side need a local workdir"
  if not hasattr(os, "sched_setaffinity"):
    return "this system does not let processes share the cores out"
  return ""


def side_by_side(work: Workspace, phase: Phase, argv: Sequence[str]) -> None:
  """Runs a phase's stages in processes of their own.

  Args:
    work: of the run, whose lock this process holds.
    phase: of more than one job at a time.
    argv: the run's flags.

  Raises:
    UserError: what it needs is not there, or a job has failed; all others have
      been run.
  """
  work.remove_to_redo()
  jobs = _jobs(work, phase.stages)
  if not jobs:
    return
  vars(work).pop("session", None)  # each process has its own
  cores = len(os.sched_getaffinity(0)) // phase.num_jobs
  work.console.print(
    f"{phase.num_jobs} processes at a time,"
    f" {f'{cores} of the cores each' if cores else 'on all cores'} (--jobs);"
    f" logs in {work.workdir / 'logs'}"
  )
  with (
    Pool(_worker(argv, phase.stages)) as pool,
    View(work.console, jobs) as view,
  ):
    run(
      jobs,
      most=phase.num_jobs,
      on_start=view.started,
      on_look=view.looked,
      on_end=view.ended,
      starter=pool.start,
    )
  if failed := [job for job in jobs if job.error]:
    raise UserError(
      f"{len(failed)} of {len(jobs)} failed: "
      + ", ".join(job.name for job in failed)
      + " (why is said above). What is complete is kept: re-run the same"
      " command to resume."
    )


def _worker(argv: Sequence[str], stages: Sequence[str]) -> list[str]:
  """Returns a worker's command line: config and workdir are this run's."""
  return [
    sys.executable,
    "-m",
    "prefixrl_jax.worker",
    *(argument for argument in argv if argument != "--"),
    f"--stage={','.join(stages)}",
    "--nofresh",
    "--redo=",
  ]


def _jobs(work: Workspace, stages: Sequence[str]) -> list[Job]:
  """Returns the jobs of what is not complete, in the order of their start.

  Arms take turns, so that no two processes compile the same at the same time;
  those that SFT leaves the least to train come last. Evaluations are short, and
  come after all: with them no core is idle while the last policy is trained.
  """
  made: dict[tuple[Sequence[str], str], list[Artifact]] = {}
  for artifact in work.artifacts(stages):
    stage, *of = artifact.name.split("/")
    [of_stage] = (some for some in _UNITS if stage in some)
    unit = "/".join(of[: 1 if of_stage == _OF_DATA else 2])
    made.setdefault((of_stage, unit), []).append(artifact)
  arms = sorted(
    work.config.run_arms, key=lambda arm: work.config.arms[arm].sft_epochs > 0
  )
  runs = [(arm, seed) for seed in work.config.seeds for arm in arms]
  bases = [("base", seed) for seed in work.config.seeds]
  jobs: dict[tuple[Sequence[str], str], Job] = {}
  for some, arm, seed in (
    *((_OF_DATA, "", seed) for seed in work.data_seeds),
    *((_OF_TRAINING, *trained) for trained in runs),
    *((_OF_POLICIES, *policy) for policy in (*runs, *bases)),
  ):
    unit = "/".join(filter(None, (arm, f"seed_{seed}")))
    name = f"{arm or 'data'} seed {seed}"
    if some == _OF_POLICIES:
      name += ", evaluation"
    artifacts = made.get((some, unit))
    if not artifacts:
      continue
    # What is made from something that is made again may not stay as it is.
    upstream = (
      (_OF_DATA, f"seed_{work.data_seed(seed)}"),
      (_OF_TRAINING, unit),
    )
    needs = [jobs[key] for key in upstream if key in jobs]
    if not needs and all(artifact.complete for artifact in artifacts):
      work.console.print(f"[dim]{name}: complete, not run again[/dim]")
      continue
    _check_needs(work, stages, arm, seed)
    present = {artifact.name.split("/")[0] for artifact in artifacts}
    jobs[some, unit] = Job(
      name,
      [f"{stage}/{unit}" for stage in stages if stage in present],
      pathlib.Path(work.workdir / "logs" / f"{arm or 'data'}-seed_{seed}.log"),
      needs=needs,
    )
  return list(jobs.values())


def _check_needs(
  work: Workspace, stages: Sequence[str], arm: str, seed: int
) -> None:
  """Checks that what a unit is made from is there, if it is not made here."""
  needed = []
  if {*stages} & {"collect", "cut", *_OF_RUNS}:
    needed.append("screen")
  if {*stages} & {"cut", *_OF_RUNS}:
    needed.append(work.traces_stage)
  if arm:
    needed.append("cut")
  for stage in needed:
    if stage not in stages:
      work.need(work.data_artifact(stage, work.data_seed(seed)))
  if arm not in ("", "base") and "train" not in stages:
    work.need(work.run_artifact("train", arm, seed))
