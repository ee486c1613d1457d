"""The stages, top to bottom: from hard problems to a compute-matched report.

Every stage leaves an artifact in the workdir. A complete one is not made
again; one that was cut off goes on where it stopped; one that was made with
other settings is an error.
"""

import functools
import importlib.resources
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
from etils import epath
from rich.console import Console

from prefixrl_jax import checkpoints, metrics
from prefixrl_jax.artifacts import Artifact, read_json, write_json
from prefixrl_jax.distributed import memory
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.evals import report
from prefixrl_jax.evals.evaluate import Sample, by_fraction, without_prefix
from prefixrl_jax.evals.results import read_results, write_results
from prefixrl_jax.evals.summary import CurvePoint, RunRecord
from prefixrl_jax.learner.packing import layout_for
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.models import transformer
from prefixrl_jax.prefixes.cut import cut
from prefixrl_jax.pretrain import pretrain
from prefixrl_jax.problems.loading import load_problems
from prefixrl_jax.session import (
  Session,
  demo_model,
  demo_tokenizer,
  open_session,
)
from prefixrl_jax.traces import store
from prefixrl_jax.traces.collect import collect
from prefixrl_jax.train import TrainData, Trainer
from prefixrl_jax.types import EvalResult, Problem, UserError

STAGES = (
  "pretrain",
  "screen",
  "collect",
  "cut",
  "train",
  "evaluate",
  "report",
)
# What may change between two runs in one workdir.
_NOT_INPUTS = ("checkpoint_every", "checkpoints_kept", "log_every")


class Pipeline:
  """One run: a config and a workdir."""

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
    if folder and not epath.Path(folder).is_dir():
      raise UserError(f"config.model.folder: there is no folder {folder}.")
    if not folder and config.problems.task != "checksum":
      raise UserError(
        "config.model.folder is empty; give a Hugging Face model folder,"
        " --config.model.folder=PATH."
      )
    # A workdir of another config is refused before anything is computed.
    for stage in ("screen", "collect", "cut"):
      for seed in self.data_seeds:
        self._data_artifact(stage, seed).check()
    for arm in config.run_arms:
      for seed in config.seeds:
        self._run_artifact("train", arm, seed).check()
        self._run_artifact("evaluate", arm, seed).check()

  def run(self, stages: Sequence[str]) -> None:
    """Runs the stages named, in their order."""
    for stage in STAGES:
      if stage in stages:
        getattr(self, stage)()

  # -- what the stages share ---------------------------------------------------

  @property
  def data_seeds(self) -> tuple[int, ...]:
    """Seeds that have problems and traces of their own."""
    seeds = tuple(self.config.seeds)
    return seeds if self.config.fresh_data_per_seed else seeds[:1]

  def _data_seed(self, seed: int) -> int:
    return seed if self.config.fresh_data_per_seed else self.data_seeds[0]

  @functools.cached_property
  def session(self) -> Session:
    """Loads the base policy, once; prints and checks the memory plan."""
    return open_session(
      self.config, base=self._base_file(), show=self.console.print
    )

  def _base_file(self) -> epath.Path:
    """The embedded task's base model."""
    base = self.config.model.base
    if base.startswith("package:"):
      data = importlib.resources.files("prefixrl_jax") / "data"
      return epath.Path(str(data / base.removeprefix("package:")))
    return (
      epath.Path(base) if base else self.workdir / "pretrain/base.safetensors"
    )

  def _inputs(self, *sections: str) -> dict[str, Any]:
    """The config's sections an artifact depends on, as plain JSON values."""
    return {
      name: {
        key: value
        for key, value in _plain(self.config[name]).items()
        if key not in _NOT_INPUTS
      }
      for name in sections
    }

  def _data_artifact(self, stage: str, seed: int) -> Artifact:
    """screen, collect, cut: what a seed's traces are made of."""
    depends = self._inputs("model", "problems", "rollouts", "screen")
    if not self.config.model.base and not self.config.model.folder:
      depends |= self._inputs("pretrain")
    if stage != "screen":
      depends |= self._inputs("collect")
    if stage == "cut":
      depends |= self._inputs("prefixes")
    return Artifact(self.workdir / "data" / f"seed_{seed}" / stage, depends)

  def _run_artifact(self, stage: str, arm: str, seed: int) -> Artifact:
    """train, evaluate: one arm (or the base model), one seed."""
    data = self._data_artifact("cut", self._data_seed(seed))
    depends = data.depends | self._inputs("evals")
    if arm != "base":
      depends |= self._inputs("learner", "sft", "train")
      depends["arm"] = _plain(self.config.arms[arm])
    return Artifact(self.workdir / stage / arm / f"seed_{seed}", depends)

  def _done(self, artifact: Artifact, what: str) -> bool:
    """Whether the stage is complete; says so."""
    if artifact.complete:
      self.console.print(f"[dim]{what}: complete, not run again[/dim]")
    return artifact.complete

  def _need(self, artifact: Artifact, stage: str) -> Artifact:
    if not artifact.complete:
      raise UserError(
        f"{artifact.directory} is not complete; run --stage={stage} first."
      )
    return artifact

  @functools.cache  # noqa: B019 - one Pipeline a process
  def _problems(self, seed: int) -> list[Problem]:
    problems = load_problems(self.config.problems, seed=seed)
    self._check_prompts(problems)
    return problems

  def _check_prompts(self, problems: Sequence[Problem]) -> None:
    limit = self.config.rollouts.max_prompt_length
    too_long = [
      p.id
      for p in problems
      if len(self.session.tokenizer.encode_prompt(p.prompt)) > limit
    ]
    if too_long:
      raise UserError(
        f"{len(too_long)} of {len(problems)} prompts are longer than"
        f" config.rollouts.max_prompt_length = {limit} tokens:"
        f" {', '.join(too_long[:8])}{' …' if len(too_long) > 8 else ''}."
      )

  def _in_parts(
    self,
    artifact: Artifact,
    problems: Sequence[Problem],
    size: int,
    suffix: str,
    make: Callable[[Sequence[Problem], epath.Path, Ledger], None],
  ) -> tuple[list[epath.Path], dict]:
    """Works through problems in parts; a part that is on disk is kept.

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

  # -- pretrain ----------------------------------------------------------------

  def pretrain(self) -> None:
    """Makes the embedded task's base model, unless one is given."""
    c = self.config
    if c.model.folder or c.model.base:
      return
    artifact = Artifact(
      self.workdir / "pretrain", self._inputs("model", "pretrain")
    )
    if self._done(artifact, "pretrain"):
      return
    artifact.begin()
    steps = sum(dict(p)["num_steps"] for p in c.pretrain.phases)
    mesh = make_mesh(**c.mesh)
    model, rows_per_micro = memory.fit(
      c, demo_model(c.model), mesh, self.console.print
    )
    with metrics.Progress("pretrain", total=steps) as progress:
      params = pretrain(
        c.pretrain,
        model,
        mesh,
        demo_tokenizer(),
        layout=layout_for(
          longest_trunk=c.rollouts.max_prompt_length,
          longest_completion=c.rollouts.max_completion_length,
          num_lanes=1,
          num_trees=(0, c.pretrain.batch_size),
          row_length=c.learner.row_length,
          rows_per_micro=rows_per_micro,
        ),
        on_step=lambda step, loss: progress.update(step, loss=f"{loss:.3f}"),
      )
    checkpoints.save_params(self._base_file(), jax.device_get(params))
    artifact.finish({"weight_hash": checkpoints.weight_hash(params)})

  # -- screen ------------------------------------------------------------------

  def screen(self) -> None:
    """Samples the base model on every problem; keeps the hard ones."""
    for seed in self.data_seeds:
      artifact = self._data_artifact("screen", seed)
      if not self._done(artifact, f"screen, seed {seed}"):
        self._screen(artifact, seed)

  def _screen(self, artifact: Artifact, seed: int) -> None:
    settings = self.config.screen
    problems = self._problems(seed)
    artifact.begin()
    sampler = self.session.sampler(
      rows=settings.rows,
      lanes=settings.lanes,
      trunk_length=self.config.rollouts.max_prompt_length,
      temperature=self.config.rollouts.temperature,
    )
    sampler.load(self.session.base_params)
    with metrics.Progress(
      f"screen, seed {seed}", total=len(problems)
    ) as progress:
      screened = 0

      def make(some, file, ledger):
        nonlocal screened
        results, _ = without_prefix(
          self.session,
          sampler,
          some,
          num_samples=settings.num_samples,
          stamp=0,
          purpose="screening",
          seed=seed,
        )
        ledger.add_sampling("screening", sampler.pop_usage())
        write_results(file, results)
        screened += len(some)
        progress.update(screened)

      files, cost = self._in_parts(
        artifact, problems, settings.problems_per_part, ".parquet", make
      )
    results = [r for file in files for r in read_results(file)]
    write_results(artifact.directory / "pass_rates.parquet", results)
    hard = [r for r in results if self._is_hard(r)]
    count = lambda rs, split: sum(r.split == split for r in rs)
    summary = {
      "ledger": cost,
      "hard": {
        split: [count(hard, split), count(results, split)]
        for split in ("train", "heldout")
      },
    }
    artifact.finish(summary)
    (a, b), (x, y) = summary["hard"]["train"], summary["hard"]["heldout"]
    self.console.print(
      f"screen, seed {seed}: {a} of {b} training problems are hard"
      f" (at most {settings.max_correct} of {settings.num_samples} correct),"
      f" {x} of {y} held-out ones"
    )

  def _is_hard(self, result: EvalResult) -> bool:
    return (
      result.split != "easy"
      and result.num_correct <= self.config.screen.max_correct
    )

  def _hard(self, seed: int, split: str) -> list[Problem]:
    artifact = self._need(self._data_artifact("screen", seed), "screen")
    results = read_results(artifact.directory / "pass_rates.parquet")
    ids = {r.problem_id for r in results if self._is_hard(r)}
    hard = [p for p in self._problems(seed) if p.split == split and p.id in ids]
    if not hard:
      raise UserError(
        f"no {split} problem of seed {seed} is hard: lower the bar"
        " (config.screen.max_correct), sample less (num_samples) or bring"
        " harder problems."
      )
    return hard

  # -- collect -----------------------------------------------------------------

  def collect(self) -> None:
    """Rejection-samples the hard training problems until traces are found."""
    for seed in self.data_seeds:
      artifact = self._data_artifact("collect", seed)
      if not self._done(artifact, f"collect, seed {seed}"):
        self._collect(artifact, seed)

  def _collect(self, artifact: Artifact, seed: int) -> None:
    settings = self.config.collect
    problems = self._hard(seed, "train")
    artifact.begin()
    sampler = self.session.sampler(
      rows=settings.rows,
      lanes=settings.lanes,
      trunk_length=self.config.rollouts.max_prompt_length,
      temperature=self.config.rollouts.temperature,
    )
    sampler.load(self.session.base_params)
    with metrics.Progress(
      f"collect, seed {seed}", total=len(problems)
    ) as progress:
      before = {"solved": 0, "tried": 0, "tokens": 0, "flops": 0.0}

      def make(some, file, ledger):
        def on_progress(solved, judged):
          usage = sampler.usage
          tokens = usage.input_tokens + usage.output_tokens
          flops = 2.0 * transformer.num_params(self.session.model) * tokens
          progress.update(
            before["solved"] + solved,
            tried=str(before["tried"] + judged),
            tokens=f"{before['tokens'] + tokens:.3g}",
            FLOPs=f"{before['flops'] + flops:.3g}",
          )

        traces = collect(
          sampler,
          self.session.verifier,
          self.session.tokenizer,
          some,
          budget=settings.budget,
          traces_per_problem=settings.traces_per_problem,
          policy=self.session.policy,
          seed=seed,
          on_progress=on_progress,
        )
        usage = sampler.pop_usage()
        ledger.add_sampling("collection", usage)
        store.write_traces(file, traces)
        spent = ledger.to_dict()["collection"]
        before["solved"] += len({t.problem_id for t in traces})
        before["tried"] += spent["completions"]
        before["tokens"] += spent["tokens"]
        before["flops"] += spent["flops_paper"]

      files, cost = self._in_parts(
        artifact, problems, settings.problems_per_part, ".parquet", make
      )
    traces = [t for file in files for t in store.read_traces(file)]
    if not traces:
      raise UserError(
        f"collection found no correct trace for any of {len(problems)} hard"
        f" problems (seed {seed}) in {settings.budget} attempts each: raise"
        " config.collect.budget, or screen less strictly"
        " (config.screen.max_correct, num_samples)."
      )
    store.write_traces(artifact.directory / "traces.parquet", traces)
    solved = len({t.problem_id for t in traces})
    artifact.finish({"ledger": cost, "solved": [solved, len(problems)]})
    self.console.print(
      f"collect, seed {seed}: {solved} of {len(problems)} hard problems"
      f" solved with {cost['collection']['completions']} completions"
    )

  # -- cut ---------------------------------------------------------------------

  def cut(self) -> None:
    """Cuts every trace into prefixes."""
    for seed in self.data_seeds:
      artifact = self._data_artifact("cut", seed)
      if self._done(artifact, f"cut, seed {seed}"):
        continue
      collected = self._need(self._data_artifact("collect", seed), "collect")
      artifact.begin()
      prefixed = cut(
        store.read_traces(collected.directory / "traces.parquet"),
        {p.id: p.index for p in self._problems(seed)},
        seed=seed,
        **self.config.prefixes,
      )
      store.write_prefixed_problems(
        artifact.directory / "prefixed.parquet", prefixed
      )
      artifact.finish({"prefixed": len(prefixed)})

  # -- train -------------------------------------------------------------------

  def train(self) -> None:
    """Trains every arm and seed on the same budget."""
    for seed in self.config.seeds:
      for arm in self.config.run_arms:
        artifact = self._run_artifact("train", arm, seed)
        if self._done(artifact, f"train, {arm} seed {seed}"):
          continue
        trainer = self._trainer(arm, seed)
        artifact.begin()
        curve = trainer.run()
        write_json(artifact.directory / "curve.json", curve)
        artifact.finish({"steps": curve[-1]["step"]})

  def _train_data(self, seed: int) -> TrainData:
    """Arms train on the hard problems that have a trace, all on the same."""
    seed = self._data_seed(seed)
    screened = self._need(self._data_artifact("screen", seed), "screen")
    collected = self._need(self._data_artifact("collect", seed), "collect")
    cuts = self._need(self._data_artifact("cut", seed), "cut")
    traces = store.read_traces(collected.directory / "traces.parquet")
    solved = {t.problem_id for t in traces}
    cost = Ledger(self.session.model)
    cost.add_entries(screened.summary["ledger"])
    cost.add_entries(collected.summary["ledger"])
    return TrainData(
      train=[p for p in self._hard(seed, "train") if p.id in solved],
      heldout=self._hard(seed, "heldout"),
      traces=traces,
      prefixed=store.read_prefixed_problems(
        cuts.directory / "prefixed.parquet"
      ),
      ledger=cost.to_dict(),
    )

  def _trainer(self, arm: str, seed: int) -> Trainer:
    return Trainer(
      self.session,
      self._train_data(seed),
      self._run_artifact("train", arm, seed).directory,
      arm=arm,
      seed=seed,
    )

  # -- evaluate ----------------------------------------------------------------

  def evaluate(self) -> None:
    """Evaluates without prefix first, then by share of the trace revealed."""
    for seed in self.config.seeds:
      for arm in ("base", *self.config.run_arms):
        artifact = self._run_artifact("evaluate", arm, seed)
        if self._done(artifact, f"evaluate, {arm} seed {seed}"):
          continue
        if arm == "base":
          params = self.session.base_params
        else:
          self._need(self._run_artifact("train", arm, seed), "train")
          params = self._trainer(arm, seed).trained_params()
        artifact.begin()
        results, samples = self._evaluate(params, seed)
        write_results(artifact.directory / "results.parquet", results)
        write_json(
          artifact.directory / "samples.json",
          [self._readable(s, arm, seed) for s in samples],
        )
        artifact.finish({})

  def _evaluate(self, params, seed: int):
    settings = self.config.evals
    data = self._train_data(seed)
    easy = [
      p for p in self._problems(self._data_seed(seed)) if p.split == "easy"
    ]
    by_id = {p.id: p for p in data.train}
    keys: dict[str, Any] = dict(stamp=0, purpose="evaluation", seed=seed)
    longest = max(len(t.tokens) for t in data.traces)
    results: list[EvalResult] = []
    samples: list[Sample] = []
    for revealed in (0, int(max(settings.fractions, default=0) * longest)):
      sampler = self.session.sampler(
        rows=settings.rows,
        lanes=settings.lanes,
        trunk_length=self.config.rollouts.max_prompt_length + revealed,
        temperature=settings.temperature,
      )
      sampler.load(params)
      if not revealed:
        for problems in (data.train, data.heldout, easy):
          if problems:
            some, shown = without_prefix(
              self.session,
              sampler,
              problems,
              num_samples=settings.num_samples,
              **keys,
            )
            results += some
            samples += shown[:2]
      else:
        some, shown = by_fraction(
          self.session,
          sampler,
          by_id,
          data.traces,
          settings.fractions,
          num_samples=settings.fraction_samples,
          **keys,
        )
        results += some
        samples += shown[:: max(1, len(by_id))]
    return results, samples

  def _readable(self, sample: Sample, arm: str, seed: int) -> dict:
    decode = lambda tokens: self.session.tokenizer.decode(tokens.tolist())
    return {
      "arm": arm,
      "seed": seed,
      "problem_id": sample.problem.id,
      "prompt": sample.problem.prompt,
      "prefix": decode(sample.prefix),
      "completion": decode(sample.completion.tokens),
      "reward": sample.reward,
      "fraction": sample.fraction,
    }

  # -- report ------------------------------------------------------------------

  def report(self) -> None:
    """Writes summary.json, the figures and index.html; prints the table."""
    runs, samples = [], []
    for arm in ("base", *self.config.run_arms):
      for seed in self.config.seeds:
        evaluated = self._need(
          self._run_artifact("evaluate", arm, seed), "evaluate"
        )
        curve = []
        if arm != "base":
          trained = self._run_artifact("train", arm, seed)
          curve = [
            CurvePoint(**point)
            for point in read_json(trained.directory / "curve.json")
          ]
        settings = self.config.arms[arm] if arm != "base" else None
        runs.append(
          RunRecord(
            arm=arm,
            seed=seed,
            curve=curve,
            results=read_results(evaluated.directory / "results.parquet"),
            uses_traces=settings is not None
            and (settings.prefixed_share > 0 or settings.sft_epochs > 0),
          )
        )
        samples += read_json(evaluated.directory / "samples.json")
    notes = {}
    for seed in self.data_seeds:
      hard = self._data_artifact("screen", seed).summary["hard"]
      solved = self._data_artifact("collect", seed).summary["solved"]
      notes[f"seed {seed}"] = (
        f"{hard['train'][0]} of {hard['train'][1]} training problems hard,"
        f" {solved[0]} of them solved by rejection sampling;"
        f" {hard['heldout'][0]} of {hard['heldout'][1]} held-out ones hard"
      )
    directory = self.workdir / "report"
    summary = report.write_report(
      directory,
      runs,
      samples=samples,
      notes=notes,
      trained_band=(self.config.prefixes.low, self.config.prefixes.high),
    )
    report.print_summary(summary)
    self.console.print(f"report: {directory / 'index.html'}")


def _plain(value: Any) -> Any:
  """ConfigDicts and tuples as the dicts and lists that JSON gives back."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  if isinstance(value, dict):
    return {k: _plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(v) for v in value]
  return value
