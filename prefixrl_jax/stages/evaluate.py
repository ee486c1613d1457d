"""Policies without prefix first, then by share of the trace revealed."""

from typing import Any

from prefixrl_jax.evals.accuracy import Sample, by_fraction, without_prefix
from prefixrl_jax.prefixes.cuts import revealed_length
from prefixrl_jax.run import upstream
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.stages.train import train_again
from prefixrl_jax.storage import metrics
from prefixrl_jax.storage.files import write_json
from prefixrl_jax.storage.results import write_results
from prefixrl_jax.train import trained_params
from prefixrl_jax.types import EvalResult, TrainData


def run(work: Workspace) -> None:
  """Evaluates without prefix first, then by share of the trace revealed."""
  arms = ("base", *work.config.run_arms)
  for artifact, arm, seed in work.runs_to_make("evaluate", arms):
    data = upstream.train_data(work, seed)
    if arm == "base":
      params = work.session.base_params
    else:
      train = work.need(work.run_artifact("train", arm, seed))
      params = trained_params(
        work.session,
        train.directory,
        train.summary["steps"],
        remedy=train_again(train),
      )
    work.begin(artifact)
    with metrics.busy(f"evaluate, {arm} seed {seed} …"):
      results, samples, given_away = _evaluate(work, params, data, seed)
    del params  # before the next run's are there
    write_results(artifact.directory / "results.parquet", results)
    write_json(
      artifact.directory / "samples.json",
      [_readable(work, s, arm, seed) for s in samples],
    )
    if given_away:
      shares = ", ".join(f"{n} at {f:.0%}" for f, n in given_away.items())
      work.console.print(
        f"evaluate, {arm} seed {seed}: what is revealed of a trace holds the"
        f" answer already; such problems are left out there ({shares})"
      )
    artifact.finish(
      # As text: keys of JSON.
      {"given_away": {str(f): n for f, n in given_away.items()}},
      ["results.parquet", "samples.json"],
    )


def _evaluate(work: Workspace, params, data: TrainData, seed: int):
  settings = work.config.evals
  easy = [p for p in work.problems(work.data_seed(seed)) if p.split == "easy"]
  by_id = {p.id: p for p in data.train}
  keys: dict[str, Any] = dict(step=0, purpose="evaluation", seed=seed)
  results: list[EvalResult] = []
  samples: list[Sample] = []
  given_away: dict[float, int] = {}
  deepest = revealed_length(
    max(len(t.tokens) for t in data.traces), max(settings.fractions, default=0)
  )
  for revealed in sorted({0, deepest}):
    sampler = work.session.sampler(
      rows=settings.rows,
      lanes=settings.lanes,
      trunk_length=work.config.rollouts.max_prompt_length + revealed,
      temperature=settings.temperature,
    )
    sampler.load(params)
    if not revealed:
      for problems in (data.train, data.heldout, easy):
        if problems:
          some, shown = without_prefix(
            work.session,
            sampler,
            problems,
            num_samples=settings.num_samples,
            **keys,
          )
          results += some
          samples += shown[:2]
    else:
      some, shown, given_away = by_fraction(
        work.session,
        sampler,
        by_id,
        data.traces,
        settings.fractions,
        num_samples=settings.fraction_samples,
        **keys,
      )
      results += some
      samples += shown[:: max(1, len(by_id))]
  return results, samples, given_away


def _readable(work: Workspace, sample: Sample, arm: str, seed: int) -> dict:
  prefix, completion = work.session.tokenizer.decode(
    [sample.prefix.tolist(), sample.completion.tokens.tolist()]
  )
  return {
    "arm": arm,
    "seed": seed,
    "problem_id": sample.problem.id,
    "prompt": sample.problem.prompt,
    "prefix": prefix,
    "completion": completion,
    "reward": sample.reward,
    "fraction": sample.fraction,
  }
