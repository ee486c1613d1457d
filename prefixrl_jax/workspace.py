"""A run's workdir: where each artifact lies and what it was made from."""

import contextlib
import functools
import importlib.resources
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_collections
from etils import epath
from rich.console import Console

from prefixrl_jax.artifacts import Artifact, read_json, write_json
from prefixrl_jax.evals.results import read_results
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.metrics import Progress
from prefixrl_jax.models import importing
from prefixrl_jax.problems import symbols
from prefixrl_jax.problems.loading import Part, load_parts
from prefixrl_jax.rewards import Verifier
from prefixrl_jax.rewards.verifiers import make_verifier
from prefixrl_jax.session import (
  Session,
  open_session,
  open_tokenizer,
  verifier_name,
)
from prefixrl_jax.tokenizer import Tokenizer
from prefixrl_jax.traces import store
from prefixrl_jax.train import TrainData
from prefixrl_jax.types import EvalResult, Problem, Trace, UserError

# What may change between two runs in one workdir.
_NOT_INPUTS = (
  "checkpoint_every",
  "checkpoints_kept",
  "log_every",
  "num_workers",
  "skip_nonfinite",  # without it a run that it changes does not end
)


class Workspace:
  """A config and a workdir; what the stages find there and leave there."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: epath.Path,
    *,
    fresh: bool,
  ):
    """Checks what can be checked before anything is loaded.

    Args:
      config: validated.
      workdir: for the artifacts.
      fresh: remove what earlier runs left there.
    """
    self.config, self.workdir = config, workdir
    self.console = Console(stderr=True, highlight=False)
    if fresh and workdir.exists():
      workdir.rmtree()
    folder = config.model.folder
    self.model_folder = importing.find_folder(folder) if folder else None
    if not folder and config.problems.task not in symbols.TASKS:
      raise UserError(
        "config.model.folder is empty; give a Hugging Face model folder,"
        " --config.model.folder=PATH, or a name on its hub."
      )
    # A workdir of another config is refused before anything is computed.
    for stage in ("screen", self.traces_stage, "cut"):
      for seed in self.data_seeds:
        self.data_artifact(stage, seed).check()
    for arm in config.run_arms:
      for seed in config.seeds:
        self.run_artifact("train", arm, seed).check()
        self.run_artifact("evaluate", arm, seed).check()

  @property
  def traces_stage(self) -> str:
    """The stage that traces come from: other people's take our own's place."""
    return "import" if self.config.traces.file else "collect"

  @property
  def data_seeds(self) -> tuple[int, ...]:
    """Seeds that have problems and traces of their own."""
    seeds = tuple(self.config.seeds)
    return seeds if self.config.fresh_data_per_seed else seeds[:1]

  def data_seed(self, seed: int) -> int:
    """Returns the seed whose problems and traces a run of `seed` uses."""
    return seed if self.config.fresh_data_per_seed else self.data_seeds[0]

  @functools.cached_property
  def session(self) -> Session:
    """Loads the base policy, once; prints and checks the memory plan."""
    return open_session(
      self.config,
      folder=self.model_folder,
      base=self.base_file(),
      verifier=self.verifier,
      show=self.console.print,
    )

  @functools.cached_property
  def verifier(self) -> Verifier:
    """The task's; without a sandbox there is none of programs."""
    return make_verifier(verifier_name(self.config), self.config.rewards)

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The base policy's, without its weights."""
    return open_tokenizer(self.model_folder, self.config.problems.task)

  def base_file(self) -> epath.Path:
    """The embedded task's base model."""
    base = self.config.model.base
    if base.startswith("package:"):
      data = importlib.resources.files("prefixrl_jax") / "data"
      return epath.Path(str(data / base.removeprefix("package:")))
    return (
      epath.Path(base) if base else self.workdir / "pretrain/base.safetensors"
    )

  def inputs(self, *sections: str) -> dict[str, Any]:
    """The config's sections an artifact depends on, as plain JSON values."""
    return {
      name: {
        key: value
        for key, value in _plain(self.config[name]).items()
        if key not in _NOT_INPUTS
      }
      for name in sections
    }

  def data_artifact(self, stage: str, seed: int) -> Artifact:
    """import, screen, collect, cut: what a seed's traces are made of."""
    depends = self.inputs("model", "problems", "rewards", "rollouts")
    if not self.config.model.base and not self.config.model.folder:
      depends |= self.inputs("pretrain")
    if stage != "import":
      depends |= self.inputs("screen")
    if stage != "screen":
      depends |= self.inputs("collect")
    if stage == "import" or (stage == "cut" and self.config.traces.file):
      depends |= self.inputs("traces")
    if stage == "cut":
      depends |= self.inputs("prefixes")
    return Artifact(self.workdir / "data" / f"seed_{seed}" / stage, depends)

  def run_artifact(self, stage: str, arm: str, seed: int) -> Artifact:
    """train, evaluate: one arm (or the base model), one seed."""
    data = self.data_artifact("cut", self.data_seed(seed))
    depends = data.depends | self.inputs("evals")
    if arm != "base":
      depends |= self.inputs("learner", "sft", "train")
      if self.config.lora.rank:
        depends |= self.inputs("lora")
      depends["arm"] = _plain(self.config.arms[arm])
    return Artifact(self.workdir / stage / arm / f"seed_{seed}", depends)

  def done(self, artifact: Artifact, what: str) -> bool:
    """Whether the stage is complete; says so."""
    if artifact.complete:
      self.console.print(f"[dim]{what}: complete, not run again[/dim]")
    return artifact.complete

  def data_to_make(self, stage: str) -> Iterator[tuple[Artifact, int]]:
    """Yields a stage's artifacts that are not complete, and their seeds."""
    for seed in self.data_seeds:
      artifact = self.data_artifact(stage, seed)
      if not self.done(artifact, f"{stage}, seed {seed}"):
        yield artifact, seed

  def runs_to_make(
    self, stage: str, arms: Sequence[str]
  ) -> Iterator[tuple[Artifact, str, int]]:
    """Yields a stage's artifacts that are not complete, their arm and seed."""
    for seed in self.config.seeds:
      for arm in arms:
        artifact = self.run_artifact(stage, arm, seed)
        if not self.done(artifact, f"{stage}, {arm} seed {seed}"):
          yield artifact, arm, seed

  def need(self, artifact: Artifact, stage: str) -> Artifact:
    """Returns the artifact; an error if the stage has not made it."""
    if not artifact.complete:
      raise UserError(
        f"{artifact.directory} is not complete; run --stage={stage} first."
      )
    return artifact

  @functools.cache  # noqa: B019 - one Pipeline a process
  def problems(self, seed: int) -> list[Problem]:
    """Returns all problems of a data seed; their prompts fit."""
    parts = self.problem_parts(seed)
    problems = [p for part in parts for p in part.problems]
    self._check_prompts(problems)
    for part in parts:
      if left_out := part.dropped + part.skipped:
        counts = ", ".join(f"{n} {why}" for why, n in left_out.items())
        self.console.print(
          f"problems, seed {seed}: {len(part.problems)} {part.split} ones of"
          f" {part.task}; left out: {counts}"
        )
    return problems

  @functools.cache  # noqa: B019 - one Pipeline a process
  def problem_parts(self, seed: int) -> list[Part]:
    """Returns a data seed's problems, with what was left out."""
    c = self.config.problems
    # Those with an alphabet of their own have prompts of one length.
    drops = c.get("too_long") == "drop"
    fits = self._fits if drops else lambda prompt: True
    with contextlib.ExitStack() as stack:
      # Where there are few, nobody has to wait.
      bar = functools.cache(
        lambda: stack.enter_context(
          Progress(f"problems, seed {seed}", total=1.0, waits_for="")
        )
      )
      return load_parts(
        c,
        seed=seed,
        fits=fits,
        on_progress=lambda share, found: bar().update(
          share, found=f"{found:,}"
        ),
      )

  def _fits(self, prompt: str) -> bool:
    limit = self.config.rollouts.max_prompt_length
    return len(self.tokenizer.encode_prompt(prompt)) <= limit

  def _check_prompts(self, problems: Sequence[Problem]) -> None:
    limit = self.config.rollouts.max_prompt_length
    too_long = [p.id for p in problems if not self._fits(p.prompt)]
    if too_long:
      may_drop = "too_long" in self.config.problems
      remedy = " Or --config.problems.too_long=drop." if may_drop else ""
      raise UserError(
        f"{len(too_long)} of {len(problems)} prompts are longer than"
        f" config.rollouts.max_prompt_length = {limit} tokens:"
        f" {', '.join(too_long[:8])}{' …' if len(too_long) > 8 else ''}."
        + remedy
      )

  def in_parts(
    self,
    artifact: Artifact,
    problems: Sequence[Problem],
    size: int,
    suffix: str,
    make: Callable[[Sequence[Problem], epath.Path, Ledger], None],
  ) -> tuple[list[epath.Path], dict]:
    """Works through problems in parts; a part that is on disk is kept.

    Args:
      artifact: that the parts belong to.
      problems: all of them.
      size: problems a part.
      suffix: of a part's file.
      make: (problems, file, ledger) -> None; writes the file, fills the ledger.

    Returns:
      The parts' files, and what all of them cost.
    """
    total = Ledger(self.session.model)
    files = []
    for i in range(0, len(problems), size):
      stem = artifact.directory / "parts" / f"{i:06d}"
      cost, file = stem.with_suffix(".json"), stem.with_suffix(suffix)
      if not cost.exists():  # written last
        ledger = Ledger(self.session.model)
        make(problems[i : i + size], file, ledger)
        write_json(cost, ledger.to_dict())
      total.add_entries(read_json(cost))
      files.append(file)
    return files, total.to_dict()

  def is_hard(self, result: EvalResult) -> bool:
    """Whether screening found the problem hard; easy ones are for checks."""
    return (
      result.split != "easy"
      and result.num_correct <= self.config.screen.max_correct
    )

  def hard(self, seed: int, split: str) -> list[Problem]:
    """Returns a split's hard problems, of which there may be none."""
    artifact = self.need(self.data_artifact("screen", seed), "screen")
    results = read_results(artifact.directory / "pass_rates.parquet")
    ids = {r.problem_id for r in results if self.is_hard(r)}
    return [p for p in self.problems(seed) if p.split == split and p.id in ids]

  def hard_train(self, seed: int) -> list[Problem]:
    """Returns the hard training problems; an error if there are none."""
    hard = self.hard(seed, "train")
    if not hard:
      raise UserError(
        f"no training problem of seed {seed} is hard: each was solved more than"
        f" {self.config.screen.max_correct} times in"
        f" {self.config.screen.num_samples}; raise config.screen.max_correct,"
        " lower config.screen.num_samples or bring harder problems."
      )
    return hard

  def traces(self, seed: int) -> list[Trace]:
    """Returns a data seed's traces of hard training problems."""
    stage = self.traces_stage
    artifact = self.need(self.data_artifact(stage, seed), stage)
    hard = {p.id for p in self.hard_train(seed)}
    traces = store.read_traces(artifact.directory / "traces.parquet")
    # An import does not know what is hard.
    return [t for t in traces if t.problem_id in hard]

  def train_data(self, seed: int) -> TrainData:
    """Returns what all arms train on: hard problems that have a trace."""
    seed = self.data_seed(seed)
    screened = self.need(self.data_artifact("screen", seed), "screen")
    stage = self.traces_stage
    made = self.need(self.data_artifact(stage, seed), stage)
    cuts = self.need(self.data_artifact("cut", seed), "cut")
    traces = self.traces(seed)
    solved = {t.problem_id for t in traces}
    cost = Ledger(self.session.model)
    cost.add_entries(screened.summary["ledger"])
    cost.add_entries(made.summary["ledger"])
    return TrainData(
      train=[p for p in self.hard_train(seed) if p.id in solved],
      heldout=[p for p in self.problems(seed) if p.split == "heldout"],
      hard_heldout=frozenset(p.id for p in self.hard(seed, "heldout")),
      traces=traces,
      prefixed=store.read_prefixed_problems(
        cuts.directory / "prefixed.parquet"
      ),
      ledger=cost.to_dict(),
    )


def _plain(value: Any) -> Any:
  """ConfigDicts and tuples as the dicts and lists that JSON gives back."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  if isinstance(value, dict):
    return {k: _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  return value
