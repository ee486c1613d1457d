"""A sweep's points as jobs, each in a workdir of its own, on data made once.

Points whose inputs agree have the same base model, screening and traces: these
are made in `data/KEY`, and copied into the points' workdirs, where they are
artifacts like any others. What is complete is neither made nor run again.
"""

import functools
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import ml_collections
from etils import epath

from prefixrl_jax.evals.curves import CurvePoint, RunRecord
from prefixrl_jax.parallel.jobs import Job
from prefixrl_jax.run import provenance
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.settings import arms
from prefixrl_jax.storage.files import digest_of, whole_folder
from prefixrl_jax.sweep.points import Point
from prefixrl_jax.sweep.table import Collected, Result
from prefixrl_jax.types import UserError

_MAIN = (sys.executable, "-m", "prefixrl_jax.main")


class Sweep:
  """Where a sweep's points are, and what is left to be done."""

  def __init__(
    self,
    workdir: pathlib.Path,
    configs: Mapping[Point, ml_collections.ConfigDict],
    flags: Callable[[Point], list[str]],
  ):
    """Touches nothing.

    Args:
      workdir: of the sweep.
      configs: of each point, validated; with its arm alone and all seeds.
      flags: what makes a point's config, as a command line has it.
    """
    self._workdir, self._configs, self._flags = workdir, configs, flags
    # Points whose workdir was made with other settings, and which.
    self.refused: dict[Point, str] = {}

  def folder(self, point: Point) -> pathlib.Path:
    """The workdir of a point."""
    return self._workdir / "points" / point.name

  def jobs(self) -> tuple[list[Job], dict[Job, Point]]:
    """Returns what is to be run, data first, and the points among the jobs."""
    points: dict[Job, Point] = {}
    data: dict[str, Job | None] = {}
    made: dict[str, tuple[pathlib.Path, Job | None]] = {}
    for point, config in self._configs.items():
      try:
        if self._is_complete(point):
          continue
      except UserError as e:
        self.refused[point] = " ".join(str(e).split())
        continue
      keys = list(data_keys(config))
      shared = self._workdir / "data" / keys[-1][1]
      if keys[-1][1] not in data:
        data[keys[-1][1]] = self._data_job(point, keys, shared, made)
      job = data[keys[-1][1]]
      stages = [*(stage for stage, _ in keys), "cut", "train"]
      own = self._job(point.name, point, self.folder(point), stages)
      own.needs = [job] if job else []
      own.prepare = functools.partial(adopt, shared, self.folder(point))
      points[own] = point
    return [*filter(None, data.values()), *points], points

  def _data_job(
    self,
    point: Point,
    keys: Sequence[tuple[str, str]],
    shared: pathlib.Path,
    made: dict[str, tuple[pathlib.Path, Job | None]],
  ) -> Job | None:
    """Returns what makes the data of a point, None if they are there.

    Args:
      point: any of those that share the data.
      keys: of its data.
      shared: the workdir of the data.
      made: key -> where such a stage's artifacts are made; is added to.
    """
    work = Workspace(self._configs[point], epath.Path(shared))
    stages = [stage for stage, _ in keys]
    job = None
    if not all(artifact.complete for artifact in work.artifacts(stages)):
      job = self._job(f"data for {point.name}", point, shared, stages)
      for i in reversed(range(len(keys))):
        if keys[i][1] in made:  # so far they are the same
          source, needed = made[keys[i][1]]
          job.needs = [needed] if needed else []
          job.prepare = functools.partial(
            adopt, source, shared, stages[: i + 1]
          )
          break
    for _, key in keys:
      made.setdefault(key, (shared, job))
    return job

  def _job(
    self,
    name: str,
    point: Point,
    workdir: pathlib.Path,
    stages: Sequence[str],
  ) -> Job:
    return Job(
      name,
      [
        *_MAIN,
        *self._flags(point),
        f"--workdir={workdir}",
        f"--stage={','.join(stages)}",
        "--jobs=1",  # the sweep's own shares the cores out
      ],
      self._workdir / "logs" / f"{workdir.name}.log",
    )

  def _is_complete(self, point: Point) -> bool:
    """Whether all of a point's seeds have been trained.

    Raises:
      UserError: they have been trained with other settings.
    """
    artifacts = list(self._work(point).artifacts(("train",)))
    for artifact in artifacts:
      artifact.check()
    return all(artifact.complete for artifact in artifacts)

  @functools.cache  # noqa: B019 - one Sweep a process
  def _work(self, point: Point) -> Workspace:
    return Workspace(self._configs[point], epath.Path(self.folder(point)))

  def results(self, errors: Mapping[Point, str]) -> list[Result]:
    """Returns what has come of all points so far.

    Args:
      errors: of points that have failed.
    """
    found = []
    for point in self._configs:
      error = self.refused.get(point, errors.get(point, ""))
      runs = [] if point in self.refused else list(self._runs(point))
      if not error and len(runs) < len(self._configs[point].seeds):
        error = "not finished yet"
      collected = None if point in self.refused else self._collected(point)
      found.append(
        Result(point, str(self.folder(point)), runs, error, collected)
      )
    return found

  def _collected(self, point: Point) -> Collected | None:
    """Returns what a point's traces took, of the seeds that have them."""
    work = self._work(point)
    if work.traces_stage != "collect":
      return None
    made = [
      artifact.summary
      for seed in work.config.seeds
      if (artifact := work.data_artifact("collect", seed)).complete
    ]
    traced = sum(summary["solved"][0] for summary in made)
    if not traced:
      return None
    tried = sum(s["ledger"]["collection"]["completions"] for s in made)
    return Collected(tried / traced, traced / len(made))

  def _runs(self, point: Point) -> Iterator[RunRecord]:
    work = self._work(point)
    for seed in work.config.seeds:
      trained = work.run_artifact("train", point.arm, seed)
      if trained.complete:
        yield RunRecord(
          arm=point.arm,
          seed=seed,
          curve=[
            CurvePoint(**p) for p in trained.file("curve.json").read_json()
          ],
          results=[],
          uses_traces=arms.uses_traces(work.config.arms[point.arm]),
        )


def data_keys(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
  """Yields the stages that make an arm's data, each with a key of its inputs.

  Args:
    config: validated. With equal keys the stage, and all before it, make the
      same for two configs; only seeds may have been added.
  """
  inputs = provenance.places(config)
  inputs["seed"] = None if config.fresh_data_per_seed else config.seeds[0]
  traced = ["import", "screen"] if config.traces.file else ["screen", "collect"]
  for stage in ("pretrain", *traced):
    inputs[stage] = provenance.settings(config, stage)
    yield stage, digest_of(inputs)[:10]


def adopt(
  source: pathlib.Path,
  target: pathlib.Path,
  stages: Sequence[str] = ("pretrain", "import", "screen", "collect"),
) -> None:
  """Copies finished artifacts that a workdir does not have yet.

  Args:
    source: a workdir.
    target: another one.
    stages: whose artifacts.
  """
  found = [
    *(source.glob("pretrain") if "pretrain" in stages else ()),
    *(f for s in stages for f in sorted(source.glob(f"data/seed_*/{s}"))),
  ]
  for folder in found:
    to = target / folder.relative_to(source)
    if (folder / "manifest.json").exists() and not to.exists():
      to.parent.mkdir(parents=True, exist_ok=True)
      with whole_folder(epath.Path(to)) as new:
        shutil.copytree(
          folder,
          new,
          ignore=shutil.ignore_patterns("parts"),
          dirs_exist_ok=True,
        )
