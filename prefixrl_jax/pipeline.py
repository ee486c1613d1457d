"""The stages, top to bottom: from problems to a compute-matched report.

Every stage leaves an artifact in the workdir. A complete one is not made
again; one that was cut off goes on where it stopped; one that was made with
other settings is an error.
"""

import collections
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from rich import box
from rich.table import Table

from prefixrl_jax import checkpoints, metrics
from prefixrl_jax.artifacts import Artifact, read_json, write_json
from prefixrl_jax.distributed import memory
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.evals import report
from prefixrl_jax.evals.curves import CurvePoint, RunRecord
from prefixrl_jax.evals.evaluate import Sample, by_fraction, without_prefix
from prefixrl_jax.evals.results import read_results, write_results
from prefixrl_jax.learner.packing import layout_for
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.models import adapters, exporting, importing, transformer
from prefixrl_jax.prefixes.cut import cut
from prefixrl_jax.pretrain import pretrain
from prefixrl_jax.problems import symbols
from prefixrl_jax.problems.loading import problem_text
from prefixrl_jax.problems.showing import show_parts
from prefixrl_jax.rewards.verifiers import answer_finder, unreadable
from prefixrl_jax.rows import find_files
from prefixrl_jax.session import (
  demo_model,
  own_tokenizer,
  verifier_name,
)
from prefixrl_jax.traces import store
from prefixrl_jax.traces.collect import collect
from prefixrl_jax.traces.foreign import digest, read_foreign
from prefixrl_jax.traces.importing import KEPT, Imported, import_traces
from prefixrl_jax.traces.rules import RULES, write_by_rule
from prefixrl_jax.train import TrainData, Trainer
from prefixrl_jax.types import EvalResult, UserError
from prefixrl_jax.workspace import Workspace

STAGES = (
  "pretrain",
  "import",
  "screen",
  "collect",
  "cut",
  "train",
  "evaluate",
  "report",
)


class Pipeline(Workspace):
  """One run: the stages, each from artifacts to artifacts."""

  def run(self, stages: Sequence[str]) -> None:
    """Runs the stages named, in their order."""
    # A keyword of Python, and a noun that the workspace has.
    methods = {"import": "import_", "problems": "show_problems"}
    try:
      for stage in ("problems", *STAGES, "export"):
        if stage in stages:
          getattr(self, methods.get(stage, stage))()
    finally:
      if "session" in vars(self):  # it was needed
        self.session.verifier.close()

  # -- pretrain ----------------------------------------------------------------

  def pretrain(self) -> None:
    """Makes a small base model for a task of ours, unless one is given."""
    c = self.config
    if c.model.folder or c.model.base:
      return
    artifact = Artifact(
      self.workdir / "pretrain", self.inputs("model", "pretrain")
    )
    if self.done(artifact, "pretrain"):
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
        own_tokenizer(c.problems.task),
        c.problems.task,
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
    checkpoints.save_params(self.base_file(), jax.device_get(params))
    artifact.finish({"weight_hash": checkpoints.weight_hash(params)})

  # -- import ------------------------------------------------------------------

  def import_(self) -> None:
    """Takes over other people's traces, if there is a file of them.

    It comes before screening, so that a file of no use is known at once, and
    takes traces of all training problems; `Workspace.traces` has the hard
    ones.
    """
    if not self.config.traces.file:
      return
    for seed in self.data_seeds:
      artifact = self.data_artifact("import", seed)
      if not self.done(artifact, f"import, seed {seed}"):
        self._import(artifact, seed)

  def _import(self, artifact: Artifact, seed: int) -> None:
    c = self.config
    problems = [p for p in self.problems(seed) if p.split == "train"]
    instruction = (
      "" if c.problems.task in symbols.TASKS else c.problems.instruction
    )
    fields = dict(c.traces)
    file = fields.pop("file")
    files: list[epath.Path] = []
    if file.startswith(RULES):
      rows = write_by_rule(file.removeprefix(RULES), c.problems, problems)
    else:
      files = find_files(file, "config.traces.file")
      rows = read_foreign(files, **fields)
    artifact.begin()
    with metrics.Progress(f"import, seed {seed}", total=1.0) as progress:
      imported = import_traces(
        rows,
        problems,
        text_of=lambda p: problem_text(p, instruction),
        by_id=not files or bool(c.traces.id_field),
        verifier=self.session.verifier,
        tokenizer=self.session.tokenizer,
        has_answer=answer_finder(verifier_name(c)),
        max_completion_length=c.rollouts.max_completion_length,
        traces_per_problem=c.collect.traces_per_problem,
        origin="imported:" if files else "rules/",
        on_progress=lambda share, counts: progress.update(
          share, kept=str(counts[KEPT]), read=str(sum(counts.values()))
        ),
      )
    self._show_import(imported, seed)
    if not imported.traces:
      counts = ", ".join(f"{k} {n}" for k, n in imported.counts.items() if n)
      raise UserError(
        f"{c.traces.file} has no trace that can be used for any of"
        f" {len(problems)} training problems (seed {seed}): {counts or 'none'}."
      )
    store.write_traces(artifact.directory / "traces.parquet", imported.traces)
    write_json(
      artifact.directory / "disagreements.json", imported.disagreements
    )
    artifact.finish(
      {
        "ledger": Ledger(self.session.model).to_dict(),  # it cost us nothing
        "files": {str(file): digest(file) for file in files},
        "traces": imported.counts,
        "problems": [
          len({t.problem_id for t in imported.traces}),
          len(problems),
        ],
        "policies": collections.Counter(t.policy for t in imported.traces),
        "agreement": imported.agreement,
      }
    )

  def _show_import(self, imported: Imported, seed: int) -> None:
    """Prints what has become of the traces."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"import, seed {seed}")
    table.add_column("traces", justify="right")
    for counts in (imported.counts, imported.agreement):
      for name, count in counts.items():
        if count:
          table.add_row(name, str(count))
      table.add_section()
    self.console.print(table)

  # -- screen ------------------------------------------------------------------

  def screen(self) -> None:
    """Samples the base model on every problem; keeps the hard ones."""
    for seed in self.data_seeds:
      artifact = self.data_artifact("screen", seed)
      if not self.done(artifact, f"screen, seed {seed}"):
        self._screen(artifact, seed)

  def _screen(self, artifact: Artifact, seed: int) -> None:
    settings = self.config.screen
    problems = self.problems(seed)
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

      files, cost = self.in_parts(
        artifact, problems, settings.problems_per_part, ".parquet", make
      )
    results = [r for file in files for r in read_results(file)]
    write_results(artifact.directory / "pass_rates.parquet", results)
    hard = [r for r in results if self.is_hard(r)]
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

  # -- collect -----------------------------------------------------------------

  def collect(self) -> None:
    """Rejection-samples the hard problems, unless traces are imported."""
    if self.config.traces.file:
      return
    for seed in self.data_seeds:
      artifact = self.data_artifact("collect", seed)
      if not self.done(artifact, f"collect, seed {seed}"):
        self._collect(artifact, seed)

  def _collect(self, artifact: Artifact, seed: int) -> None:
    settings = self.config.collect
    problems = self.hard(seed, "train")
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

      files, cost = self.in_parts(
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
      artifact = self.data_artifact("cut", seed)
      if self.done(artifact, f"cut, seed {seed}"):
        continue
      traces = self.traces(seed)
      if not traces:
        raise UserError(
          f"{self.config.traces.file} has no trace of a hard problem (seed"
          f" {seed}): screen less strictly (config.screen.max_correct,"
          " num_samples) or bring other traces."
        )
      artifact.begin()
      prefixed = cut(
        traces,
        {p.id: p.index for p in self.problems(seed)},
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
        artifact = self.run_artifact("train", arm, seed)
        if self.done(artifact, f"train, {arm} seed {seed}"):
          continue
        trainer = self._trainer(arm, seed)
        artifact.begin()
        curve = trainer.run()
        write_json(artifact.directory / "curve.json", curve)
        artifact.finish({"steps": curve[-1]["step"]})

  def _trainer(self, arm: str, seed: int) -> Trainer:
    return Trainer(
      self.session,
      self.train_data(seed),
      self.run_artifact("train", arm, seed).directory,
      arm=arm,
      seed=seed,
    )

  # -- evaluate ----------------------------------------------------------------

  def evaluate(self) -> None:
    """Evaluates without prefix first, then by share of the trace revealed."""
    for seed in self.config.seeds:
      for arm in ("base", *self.config.run_arms):
        artifact = self.run_artifact("evaluate", arm, seed)
        if self.done(artifact, f"evaluate, {arm} seed {seed}"):
          continue
        data = self.train_data(seed)
        if arm == "base":
          params = self.session.base_params
        else:
          self.need(self.run_artifact("train", arm, seed), "train")
          params = self._trainer(arm, seed).trained_params()
        artifact.begin()
        results, samples = self._evaluate(params, data, seed)
        write_results(artifact.directory / "results.parquet", results)
        write_json(
          artifact.directory / "samples.json",
          [self._readable(s, arm, seed) for s in samples],
        )
        artifact.finish({})

  def _evaluate(self, params, data: TrainData, seed: int):
    settings = self.config.evals
    easy = [p for p in self.problems(self.data_seed(seed)) if p.split == "easy"]
    by_id = {p.id: p for p in data.train}
    keys: dict[str, Any] = dict(stamp=0, purpose="evaluation", seed=seed)
    longest = max(len(t.tokens) for t in data.traces)
    results: list[EvalResult] = []
    samples: list[Sample] = []
    deepest = int(max(settings.fractions, default=0) * longest)
    for revealed in sorted({0, deepest}):
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
        evaluated = self.need(
          self.run_artifact("evaluate", arm, seed), "evaluate"
        )
        curve = []
        if arm != "base":
          trained = self.run_artifact("train", arm, seed)
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
      hard = self.data_artifact("screen", seed).summary["hard"]
      notes[f"seed {seed}"] = (
        f"{hard['train'][0]} of {hard['train'][1]} training problems hard,"
        f" {self.traces_note(seed)};"
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
    if self.config.traces.file:
      for name, note in notes.items():
        self.console.print(f"{name}: {note}")
    self.console.print(f"report: {directory / 'index.html'}")

  def traces_note(self, seed: int) -> str:
    """Says where the hard problems' traces come from."""
    traces = self.traces(seed)
    solved = len({t.problem_id for t in traces})
    if not self.config.traces.file:
      return f"{solved} of them solved by rejection sampling"
    writers = collections.Counter(t.policy for t in traces)
    by_rule = self.config.traces.file.startswith(RULES)
    kind = "traces by rule" if by_rule else "imported traces"
    return (
      f"{solved} of them with {len(traces)} {kind} ("
      + ", ".join(f"{policy} {n}" for policy, n in writers.most_common())
      + f") from {self.config.traces.file}, which cost none of this run's FLOPs"
    )

  # -- problems ----------------------------------------------------------------

  def show_problems(self) -> None:
    """Prints what would be trained on; loads no weights, leaves nothing."""
    c = self.config
    for seed in self.data_seeds:
      parts = self.problem_parts(seed)
      show_parts(
        self.console,
        parts,
        self.tokenizer,
        seed=seed,
        max_prompt_length=c.rollouts.max_prompt_length,
        unreadable=unreadable(
          verifier_name(c), c.rewards, [p for x in parts for p in x.problems]
        ),
      )

  # -- export ------------------------------------------------------------------

  def export(self) -> None:
    """Writes a run's policy as a Hugging Face folder; only when asked to."""
    c, settings = self.config, self.config.export
    source = self.model_folder
    if source is None:
      raise UserError(
        "--stage=export: the embedded task's model is of no Hugging Face"
        " family; only what began as a Hugging Face folder"
        " (config.model.folder) can be exported."
      )
    arm = settings.arm or c.run_arms[0]
    seed = settings.seed if settings.seed >= 0 else c.seeds[0]
    artifact = self.run_artifact("export", arm, seed)
    train = self.run_artifact("train", arm, seed)
    train.check()
    folder = epath.Path(settings.directory or artifact.directory / "model")
    again = artifact.complete and artifact.summary["folder"] == str(folder)
    if settings.directory and not again:
      exporting.check_empty(folder)
    model = importing.read_config(
      source,
      dtype=c.model.dtype,
      param_dtype=c.model.param_dtype,
      remat="none",
    )
    model = adapters.read_settings(c.lora, model)
    mesh = make_mesh(**c.mesh)
    step, params = checkpoints.restore_params(
      train.directory / "checkpoints",
      adapters.abstract_trained(model, mesh),
      settings.step if settings.step >= 0 else None,
    )
    artifact.begin()
    if model.lora and settings.lora == "peft":
      exporting.export_adapters(
        folder, source, params, model.lora, base=c.model.folder
      )
    else:
      if model.lora:
        base = importing.load_params(source, model, mesh)
        params = adapters.merge(model, base, params)
      exporting.export(
        folder,
        source,
        params,
        dtype=settings.dtype or c.model.param_dtype,
        max_bytes=int(settings.shard_gigabytes * 1e9),
      )
    artifact.finish({"folder": str(folder), "step": step})
    self.console.print(f"export: {arm} seed {seed}, step {step}: {folder}")
