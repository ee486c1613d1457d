"""Tables and figures of all runs."""

import collections
import dataclasses
from collections.abc import Sequence

from etils import epath

from prefixrl_jax.evals import page, rollout_pages
from prefixrl_jax.evals.curves import CurvePoint, RunRecord
from prefixrl_jax.evals.evaluations import Evaluation
from prefixrl_jax.evals.markers import marker_of
from prefixrl_jax.evals.training import TrainingRecord
from prefixrl_jax.run import provenance, upstream
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.settings import arms
from prefixrl_jax.storage import rollout_store
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.storage.metrics import read_jsonl
from prefixrl_jax.storage.rescored import read_rescored
from prefixrl_jax.storage.results import read_results
from prefixrl_jax.traces.rules import RULES


def run(work: Workspace) -> None:
  """Writes summary.json, the figures and index.html; prints the table."""
  runs, evaluations, samples = [], [], []
  notes: dict[str, str] = {}
  for arm in ("base", *work.config.run_arms):
    for seed in work.config.seeds:
      evaluated = work.need(work.run_artifact("evaluate", arm, seed))
      curve, training = [], TrainingRecord()
      if arm != "base":
        trained = work.need(work.run_artifact("train", arm, seed))
        if skipped := trained.summary["skipped_updates"]:
          notes[f"{arm} seed {seed}"] = (
            f"{skipped} updates were not finite and left out"
          )
        curve = [
          CurvePoint(**point)
          for point in trained.file("curve.json").read_json()
        ]
        training = _training(work, trained.directory, arm, seed)
      run = RunRecord(
        arm=arm,
        seed=seed,
        curve=curve,
        results=read_results(evaluated.file("results.parquet")),
        uses_traces=arm != "base" and arms.uses_traces(work.config.arms[arm]),
        hard=frozenset(
          p.id for p in upstream.hard(work, work.data_seed(seed), "heldout")
        ),
        training=training,
      )
      runs.append(run)
      samples += evaluated.file("samples.json").read_json()
      for name in work.sets:
        of_set = work.run_artifact("evaluate", arm, seed, name)
        if of_set.complete:
          samples += of_set.file("samples.json").read_json()
      of_run = list(work.evaluations(arm, seed))
      # First the one that everything else is from.
      of_run.sort(key=lambda e: e.directory != evaluated.directory)
      evaluations += [_evaluation(work, e, run) for e in of_run]
  for seed in work.data_seeds:
    base = work.run_artifact("evaluate", "base", seed)
    (a, b), (x, y) = (
      upstream.count_hard(work, seed, s) for s in ("train", "heldout")
    )
    notes[f"seed {seed}"] = (
      f"{a} of {b} training problems hard,"
      f" {traces_note(work, seed)}{_cuts_note(work, seed)};"
      f" {x} of {y} held-out ones hard"
      + "".join(
        f"; {n} left out at {float(f):.0%} of a trace, which contains the"
        " answer"
        for f, n in base.summary["given_away"].items()
      )
    )
  directory = work.workdir / "report"
  num_rollouts = rollout_pages.write_viewer(
    directory / "rollouts",
    [_viewed(work, run, runs) for run in runs if run.arm != "base"],
    {seed: work.problems(seed) for seed in work.data_seeds},
    work.tokenizer,
  )
  marker = marker_of(work.config)
  summary = page.write_report(
    directory,
    runs,
    evaluations=evaluations,
    num_rollouts=num_rollouts,
    marker=marker and marker.label,
    samples=samples,
    notes=notes,
    trained_band=(work.config.prefixes.low, work.config.prefixes.high),
  )
  page.print_summary(summary)
  if work.config.traces.file:
    for name, note in notes.items():
      work.console.print(f"{name}: {note}")
  work.console.print(f"report: {directory / 'index.html'}")


def _training(
  work: Workspace, directory: epath.Path, arm: str, seed: int
) -> TrainingRecord:
  """Returns what a run's training left in its folder, as far as it is there."""
  prefixed: list[tuple[int, str, float]] = []
  if arms.uses_prefixes(work.config.arms[arm]):
    authors = upstream.prefix_authors(work, work.data_seed(seed))
    for group in rollout_store.read_groups(directory).to_pylist():
      author = authors.get((group["problem_id"], group["fraction"]))
      if author and group["num_completions"]:
        share = group["num_correct"] / group["num_completions"]
        prefixed.append((group["step"], author, share))
  rescored = work.run_artifact("rescore", arm, seed)
  gains = []
  if rescored.complete and rescored.summary.get("without_prefix"):
    given, without = (
      read_rescored(rescored.file(name))
      for name in ("logprobs.parquet", "without_prefix.parquet")
    )
    gains = [given[place] - without[place] for place in without]
  rows = read_jsonl(directory / "metrics.jsonl")
  return TrainingRecord(rows, prefixed, gains)


def _evaluation(
  work: Workspace, artifact: Artifact, run: RunRecord
) -> Evaluation:
  """Returns one of a run's evaluations, which may be of another config."""
  settings = artifact.made_with
  of_set = settings.get("set", "")
  if not of_set:
    today = provenance.settings(work.config, "evaluate")
    settings = provenance.as_today(settings, today)
  results = read_results(artifact.file("results.parquet"))
  return Evaluation(
    of_set, settings, dataclasses.replace(run, curve=[], results=results)
  )


def _viewed(
  work: Workspace, run: RunRecord, runs: Sequence[RunRecord]
) -> rollout_pages.ViewedRun:
  """Returns what the viewer shows of a run, its rollouts beside its results."""
  scores = work.run_artifact("rescore", run.arm, run.seed)
  [base] = (r for r in runs if r.arm == "base" and r.seed == run.seed)
  return rollout_pages.ViewedRun(
    arm=run.arm,
    seed=run.seed,
    data_seed=work.data_seed(run.seed),
    directory=work.run_artifact("train", run.arm, run.seed).directory,
    before=base.results,
    after=run.results,
    rescored=read_rescored(scores.file("logprobs.parquet"))
    if scores.complete
    else {},
  )


def traces_note(work: Workspace, seed: int) -> str:
  """Says where the hard problems' traces come from."""
  traces = upstream.traces(work, seed)
  solved = len({t.problem_id for t in traces})
  if not work.config.traces.file:
    return f"{solved} of them solved by rejection sampling"
  writers = collections.Counter(t.policy for t in traces)
  by_rule = work.config.traces.file.startswith(RULES)
  kind = "traces by rule" if by_rule else "imported traces"
  return (
    f"{solved} of them with {len(traces)} {kind} ("
    + ", ".join(f"{policy} {n}" for policy, n in writers.most_common())
    + f") from {work.config.traces.file}, which cost none of this run's FLOPs"
  )


def _cuts_note(work: Workspace, seed: int) -> str:
  """Says how many cuts held the answer, if any did."""
  cuts = work.data_artifact("cut", seed).summary
  earlier, left_out = cuts.get("cut_earlier", 0), cuts.get("left_out", 0)
  if not earlier + left_out:
    return ""
  return (
    f" ({earlier + left_out} of their cuts already contained the answer:"
    f" {earlier} were made earlier, {left_out} left out)"
  )
