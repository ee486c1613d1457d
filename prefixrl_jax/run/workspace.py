"""A run's workdir: where each artifact is and what it was made from."""

import copy
import functools
import itertools
import signal
from collections.abc import Callable, Collection, Iterator
from typing import Any

import ml_collections
from etils import epath

from prefixrl_jax.checkpoints import saved_steps
from prefixrl_jax.rewards import own
from prefixrl_jax.run import evaluations, provenance
from prefixrl_jax.run.inputs import Inputs
from prefixrl_jax.run.session import Session, open_session
from prefixrl_jax.settings import arms
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.storage.rows import find_files
from prefixrl_jax.storage.signals import Deferred
from prefixrl_jax.traces.rules import RULES
from prefixrl_jax.types import UserError

_BASE = "base.safetensors"
# Files, and folders (ending in /), that a stage leaves in an artifact's folder,
# besides the records that make it one.
_ENTRIES = {
  "pretrain": (_BASE,),
  "import": ("traces.parquet", "disagreements.json"),
  "screen": ("pass_rates.parquet", "parts/"),
  "collect": ("traces.parquet", "parts/"),
  "cut": ("prefixed.parquet",),
  "train": (
    "curve.json",
    "metrics.jsonl",
    "checkpoints/",
    "groups/",
    "rollouts/",
    "tensorboard/",
    "wandb/",
  ),
  "evaluate": ("results.parquet", "samples.json"),
  "rescore": ("logprobs.parquet", "without_prefix.parquet"),
  "export": ("model/",),
}
# Cheap compared with what they are made from, so they are re-made with it.
_FOLLOW = ("cut", "evaluate", "rescore")


class Workspace(Inputs):
  """A config and its workdir: paths of artifacts, problems, the session."""

  def __init__(self, config: ml_collections.ConfigDict, workdir: epath.Path):
    """Checks what can be checked before anything is loaded.

    Args:
      config: validated.
      workdir: for the artifacts.
    """
    super().__init__(config)
    self.workdir = workdir
    # Artifacts are asked for again and again; the config does not change.
    self._settings = functools.cache(
      functools.partial(provenance.settings, config)
    )
    self._limits = functools.cache(functools.partial(provenance.limits, config))
    self._execution = provenance.execution(config)
    self._to_redo: set[str] = set()
    # STAGE/seed_N and STAGE/ARM/seed_N that stages make; None: all.
    self.only: Collection[str] | None = None
    self.has_removed = False  # the artifacts that --fresh and --redo name

  def artifacts(self, stages: Collection[str]) -> Iterator[Artifact]:
    """Yields what the named stages make, for this config's arms and seeds."""
    run_arms = tuple(self.config.run_arms)
    if "pretrain" in stages and not self._base_is_given:
      yield self.pretrained
    for stage in ("screen", self.traces_stage, "cut"):
      if stage in stages:
        for seed in self.data_seeds:
          yield self.data_artifact(stage, seed)
    for stage, who, sets in (
      ("train", run_arms, ("",)),
      ("evaluate", ("base", *run_arms), ("", *self.sets)),
      ("rescore", run_arms, ("",)),
    ):
      if stage in stages:
        for arm, seed, name in itertools.product(who, self.config.seeds, sets):
          yield self.run_artifact(stage, arm, seed, name)
    if "export" in stages:
      yield self.export_artifact

  def request_redo(
    self,
    names: Collection[str],
    stages: Collection[str],
    everything: bool = False,
  ) -> None:
    """Notes which artifacts to re-make; removes nothing yet.

    Args:
      names: artifacts' names or prefixes of them: "train", "train/rl".
      stages: the stages to run.
      everything: whether to re-make everything that the stages make.

    Raises:
      UserError: a name is not one that the stages make.
    """
    known = [a.name for a in self.artifacts(stages)]
    for name in (name.rstrip("/") for name in names):
      found = {k for k in known if k == name or k.startswith(f"{name}/")}
      # A report is always rebuilt.
      if not found and not (name in stages and name not in _ENTRIES):
        raise UserError(self._not_made(name, known, stages))
      self._to_redo |= found
    if everything:
      self._to_redo.update(known)

  def _not_made(
    self, name: str, known: Collection[str], stages: Collection[str]
  ) -> str:
    stage = name.partition("/")[0]
    if stage in _ENTRIES and stage not in stages:
      return f"--redo={name} needs {stage} among the stages of --stage."
    there = ", ".join(known) or "none"
    return (
      f"--redo={name} names no artifact of these stages, arms and seeds; there"
      f" are {there}, and the beginnings of these names, as --redo=train."
    )

  def begin(self, artifact: Artifact) -> None:
    """Marks an artifact as in progress, after `remove_to_redo`."""
    self.remove_to_redo()
    artifact.begin()

  def remove_to_redo(self) -> None:
    """Removes everything to be re-made, once nothing can be refused.

    So an interrupted run is resumed without --fresh and --redo.
    """
    to_redo, waiting = set(self._to_redo), [*self.artifacts(_ENTRIES)]
    self._to_redo.clear()
    with Deferred(signal.SIGINT, signal.SIGTERM):
      for other in waiting:
        if other.name in to_redo:
          other.remove()
          self.has_removed = True

  @property
  def traces_stage(self) -> str:
    """The stage that traces come from: import replaces collect."""
    return "import" if self.config.traces.file else "collect"

  @functools.cached_property
  def session(self) -> Session:
    """Loads the base policy, once; prints and checks the memory plan.

    Raises:
      UserError: the plan does not fit, a file is missing or wrong, or the
        weights are not those that the workdir was made from.
    """
    if not self._base_is_given and self.pretrained.complete:
      self.pretrained.file(_BASE).read_bytes()  # is it undamaged?
    session = open_session(
      self.config,
      folder=self.model_folder,
      base=self.base_file(),
      verifier=self.verifier,
      show=self.console.print,
    )
    weights = session.policy.rpartition("@")[2]
    for seed in self.data_seeds:
      screened = self.data_artifact("screen", seed)
      if screened.complete and screened.summary["weights"] != weights:
        raise UserError(
          f"{screened.directory} was made from other weights of"
          f" {self.model_folder or self.base_file()}:\n"
          f"  weights: {screened.summary['weights']!r} in the workdir,"
          f" {weights!r} now\nUse those, another --workdir, or --fresh."
        )
    return session

  def judging(self, of_set: str) -> Session:
    """Returns the session, with what judges a set; "": the run's problems."""
    session = copy.copy(self.session)  # samplers still share one arena
    session.verifier = self.verifier_of(of_set)
    return session

  @property
  def _base_is_given(self) -> bool:
    return bool(self.given_base or self.config.model.folder)

  def base_file(self) -> epath.Path:
    """The embedded task's base model."""
    return self.given_base or self.pretrained.directory / _BASE

  @functools.cache  # noqa: B019 - one Workspace a process
  def _base_digest(self) -> str | None:
    if self.model_folder:
      return provenance.of_model_folder(self.model_folder, weights=True)
    file = self.base_file()
    return provenance.of_files([file]) if file.exists() else None

  @functools.cache  # noqa: B019 - one Workspace a process
  def _problems_digest(self, seed: int) -> str:
    return provenance.of_problems(self.problems(seed))

  @property
  def pretrained(self) -> Artifact:
    """The artifact of the base model made here, if none is given."""
    return self._artifact("pretrain", "", {}, dict)

  def data_artifact(self, stage: str, seed: int) -> Artifact:
    """Returns the artifact of a data seed's import, screen, collect or cut."""

    def made_from() -> dict[str, str | None]:
      if stage == "import":
        return {
          "problems": self._problems_digest(seed),
          **self._own_reward,
          **self._sources_of_import(),
        }
      if stage == "screen":
        return {
          "problems": self._problems_digest(seed),
          "base": self._base_digest(),
          **self._own_reward,
        }
      needed = ["screen"]
      if stage == "cut":
        needed.append(self.traces_stage)
      return {n: self.data_artifact(n, seed).digest for n in needed}

    own: dict[str, Any] = {"data_seed": seed}
    if stage == "cut":
      own["traces_from"] = self.traces_stage
    return self._artifact(stage, f"seed_{seed}", own, made_from)

  @functools.cached_property
  def _own_reward(self) -> dict[str, str]:
    """The digest of a reward of the user's; nothing if there is none."""
    function = self.config.rewards.function
    return {"reward": own.check(function).digest} if function else {}

  def _sources_of_import(self) -> dict[str, str]:
    file = self.config.traces.file
    if file.startswith(RULES):
      sources = {"traces": file}
    else:
      files = find_files(file, "config.traces.file")
      sources = {"traces": provenance.of_files(files)}
    if self.model_folder:
      sources["tokenizer"] = provenance.of_model_folder(
        self.model_folder, weights=False
      )
    return sources

  def run_artifact(
    self, stage: str, arm: str, seed: int, of_set: str = ""
  ) -> Artifact:
    """The artifact of one seed of an arm, or of the base policy.

    Args:
      stage: "train", "evaluate" or "rescore".
      arm: a key of config.arms, or "base".
      seed: of the run.
      of_set: a key of config.evals.sets that is evaluated on; empty: the run's
        own problems.
    """
    home = self._home(stage, arm, seed, of_set)
    return evaluations.place(home, of_set) if stage == "evaluate" else home

  def evaluations(self, arm: str, seed: int) -> Iterator[Artifact]:
    """Yields a run's finished evaluations, whatever config they are of."""
    yield from evaluations.finished(self._home("evaluate", arm, seed))

  def _home(
    self, stage: str, arm: str, seed: int, of_set: str = ""
  ) -> Artifact:
    def made_from() -> dict[str, str | None]:
      if stage == "rescore" or (stage == "evaluate" and arm != "base"):
        return {"train": self.run_artifact("train", arm, seed).digest}
      needed = ["screen", self.traces_stage]
      if arm != "base" and arms.uses_prefixes(self.config.arms[arm]):
        needed.append("cut")
      data = self.data_seed(seed)
      return {n: self.data_artifact(n, data).digest for n in needed}

    own: dict[str, Any] = {
      "data_seed": self.data_seed(seed),
      "traces_from": self.traces_stage,
    }
    if of_set:
      problems = self.set_problems(of_set, self.data_seed(seed))
      own["problems"] = provenance.of_problems(problems)
    subject = of_set if stage == "evaluate" else arm
    return self._artifact(stage, f"{arm}/seed_{seed}", own, made_from, subject)

  @property
  def export_artifact(self) -> Artifact:
    """The policy that config.export names."""
    settings = self.config.export
    arm = settings.arm or self.config.run_arms[0]
    seed = settings.seed if settings.seed >= 0 else self.config.seeds[0]
    return self._artifact("export", f"{arm}/seed_{seed}", {}, dict)

  def _artifact(
    self,
    stage: str,
    place: str,
    depends: dict[str, Any],
    made_from: Callable[[], dict[str, str | None]],
    subject: str = "",
  ) -> Artifact:
    if stage in ("pretrain", "train", "evaluate", "rescore", "export"):
      directory = self.workdir / stage / place
    else:
      directory = self.workdir / "data" / place / stage
    if stage in provenance.VERSIONS:
      depends |= {"results_version": provenance.VERSIONS[stage]}
    return Artifact(
      directory,
      depends | self._settings(stage, subject),
      name="/".join(filter(None, (stage, place))),
      entries=_ENTRIES[stage],
      made_from=made_from,
      limits=self._limits(stage),
      execution=self._execution,
      has_continued=lambda summary: any(
        step > summary["steps"]
        for step in saved_steps(directory / "checkpoints")
      ),
      follows=stage in _FOLLOW,
      to_redo=self._to_redo,
      as_today=provenance.as_today,
    )

  def done(self, artifact: Artifact, what: str) -> bool:
    """Returns whether the artifact is complete, and prints it if so."""
    if artifact.complete:
      self.console.print(f"[dim]{what}: complete, not run again[/dim]")
    return artifact.complete

  def _is_wanted(self, *name: str) -> bool:
    """Whether it is asked for; what is not may be in the making elsewhere."""
    return self.only is None or "/".join(name) in self.only

  def data_to_make(self, stage: str) -> Iterator[tuple[Artifact, int]]:
    """Yields a stage's artifacts that are not complete, and their seeds."""
    for seed in self.data_seeds:
      if not self._is_wanted(stage, f"seed_{seed}"):
        continue
      artifact = self.data_artifact(stage, seed)
      if not self.done(artifact, f"{stage}, seed {seed}"):
        yield artifact, seed

  def runs_to_make(self, stage: str) -> Iterator[tuple[Artifact, str, int]]:
    """Yields arm and seed of the arms' incomplete artifacts of a stage."""
    for seed in self.config.seeds:
      for arm in self.config.run_arms:
        if not self._is_wanted(stage, arm, f"seed_{seed}"):
          continue
        artifact = self.run_artifact(stage, arm, seed)
        if not self.done(artifact, f"{stage}, {arm} seed {seed}"):
          yield artifact, arm, seed

  def evaluations_to_make(self) -> Iterator[tuple[Artifact, str, int, str]]:
    """Yields incomplete evaluations, with arm, seed and set (see `Inputs`)."""
    for seed in self.config.seeds:
      for arm in ("base", *self.config.run_arms):
        if not self._is_wanted("evaluate", arm, f"seed_{seed}"):
          continue
        if arm != "base":
          self._note_raised(arm, seed)
        for name in ("", *self.sets):
          artifact = self.run_artifact("evaluate", arm, seed, name)
          on = f" on {name}" if name else ""
          if not self.done(artifact, f"evaluate, {arm} seed {seed}{on}"):
            yield artifact, arm, seed, name

  def _note_raised(self, arm: str, seed: int) -> None:
    """Prints a note if a finished training has to continue but has not yet."""
    train = self.run_artifact("train", arm, seed)
    if train.has_finished and not train.complete:
      self.console.print(
        f"{train.name} ended at a limit that has been raised since:"
        " --stage=train"
        " continues it; this evaluates the policy that it ended with"
      )

  def need(self, artifact: Artifact) -> Artifact:
    """Returns the artifact, if its stage has made it.

    Raises:
      UserError: it is not complete, or was made with other settings.
    """
    if not artifact.complete:
      raise artifact.incomplete()
    artifact.check()
    return artifact
