"""Policies without prefix, then by share of the trace revealed; and on sets.

An evaluation with other settings is added beside what is there.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from prefixrl_jax.evals import costs
from prefixrl_jax.evals.accuracy import Sample, by_fraction, without_prefix
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.prefixes.cuts import revealed_length
from prefixrl_jax.problems.streams import problem_text
from prefixrl_jax.problems.texts import fingerprint
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run import upstream
from prefixrl_jax.run.rollout import encode
from prefixrl_jax.run.session import Engine, Session
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.stages.train import train_again
from prefixrl_jax.storage import metrics
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.storage.files import write_json
from prefixrl_jax.storage.results import write_results
from prefixrl_jax.train import trained_params
from prefixrl_jax.types import EvalResult, Problem, SamplingUsage, Trace


class Questions(NamedTuple):
  """What a policy is asked.

  Attributes:
    splits: problems without prefix, by split.
    num_samples: completions of each of these.
    traces: of problems of the first split, to be revealed in part.
    fractions: the shares of them that are revealed.
    fraction_samples: completions of each problem at each of these.
  """

  splits: Sequence[Sequence[Problem]]
  num_samples: int
  traces: Sequence[Trace] = ()
  fractions: Sequence[float] = ()
  fraction_samples: int = 0


class Answers(NamedTuple):
  """What a policy answered.

  Attributes:
    results: of every problem, without prefix and at every share.
    samples: a few, for people to read.
    given_away: of each share, how many problems were left out there, since what
      is revealed holds the answer already.
  """

  results: list[EvalResult]
  samples: list[Sample]
  given_away: dict[float, int]


def check(work: Workspace) -> None:
  """Reads the sets, so that one of no use is known before anything is made."""
  for seed, name in itertools.product(work.data_seeds, work.sets):
    instruction = work.config.problems.get("instruction", "")
    mark = lambda p, end=instruction: fingerprint(problem_text(p, end))
    trained = {mark(p) for p in work.problems(seed) if p.split == "train"}
    there = work.set_problems(name, seed)
    if count := sum(mark(p) in trained for p in there):
      work.console.print(
        f"config.evals.sets.{name}: {count} of {len(there)} problems are among"
        f" the training problems of seed {seed}"
      )


def run(work: Workspace) -> None:
  """Makes the evaluations that the config asks for and that are not there."""
  wanted = list(work.evaluations_to_make())
  if not wanted:
    return
  usages = [_at_most(work, s, name) for _, _, s, name in wanted]
  work.console.print(
    f"evaluate: {len(wanted)} evaluations with"
    f" {costs.describe(work.session, itertools.chain(*usages))}"
    " (config.evals.final_problems, num_samples, fraction_samples)"
  )
  for (arm, seed), some in itertools.groupby(wanted, lambda w: w[1:3]):
    params = policy_of(work, arm, seed)
    for artifact, _, _, name in some:
      _make(work, artifact, params, arm, seed, name)
    del params  # before the next run's are there


def policy_of(work: Workspace, arm: str, seed: int) -> dict:
  """Returns what an arm's training ended with; the base policy for "base".

  Raises:
    UserError: the training is not complete, or its checkpoint cannot be read.
  """
  if arm == "base":
    return work.session.base_params
  train = work.need(work.run_artifact("train", arm, seed))
  return trained_params(
    work.session,
    train.directory,
    train.summary["steps"],
    remedy=train_again(train),
  )


def _make(
  work: Workspace, artifact: Artifact, params, arm: str, seed: int, name: str
) -> None:
  what = f"evaluate, {arm} seed {seed}" + (f" on {name}" if name else "")
  questions = _questions(work, seed, name)
  work.begin(artifact)
  ledger = Ledger(work.session.model)
  with metrics.busy(f"{what} …"):
    results, samples, given_away = evaluate(
      work.judging(name), params, questions, ledger, seed=seed
    )
  write_results(artifact.directory / "results.parquet", results)
  write_json(
    artifact.directory / "samples.json",
    [_readable(work, s, arm, seed) for s in samples],
  )
  if given_away:
    shares = ", ".join(f"{n} at {f:.0%}" for f, n in given_away.items())
    work.console.print(
      f"{what}: the revealed part of some traces already contains the answer;"
      f" these problems are left out there ({shares})"
    )
  artifact.finish(
    {
      # As text: keys of JSON.
      "given_away": {str(f): n for f, n in given_away.items()},
      "ledger": ledger.to_dict(),
    },
    ["results.parquet", "samples.json"],
  )


def _questions(work: Workspace, seed: int, name: str) -> Questions:
  """Returns what is asked: a set's problems, or the run's own ("")."""
  settings = work.config.evals
  if name:
    return Questions(
      [work.set_problems(name, work.data_seed(seed))],
      settings.sets[name].num_samples or settings.num_samples,
    )
  data = upstream.train_data(work, seed)
  easy = [p for p in work.problems(work.data_seed(seed)) if p.split == "easy"]
  splits = [
    costs.some_of(problems, settings.final_problems)
    for problems in (data.train, data.heldout, easy)
  ]
  asked = {p.id for p in splits[0]}
  return Questions(
    splits,
    settings.num_samples,
    [t for t in data.traces if t.problem_id in asked],
    settings.fractions,
    settings.fraction_samples,
  )


def _at_most(work: Workspace, seed: int, name: str) -> Iterator[SamplingUsage]:
  """Yields what an evaluation takes if no completion ends before its limit."""
  questions = _questions(work, seed, name)
  problems = [p for some in questions.splits for p in some]
  prompts = {
    p.id: len(ids) for p, ids in zip(problems, encode(work.session, problems))
  }
  yield costs.at_most(work.session, prompts.values(), questions.num_samples)
  first = {t.problem_id: t for t in reversed(questions.traces)}
  yield costs.at_most(
    work.session,
    [
      prompts[t.problem_id] + revealed_length(len(t.tokens), fraction)
      for t in first.values()
      for fraction in questions.fractions
    ],
    questions.fraction_samples,
  )


def evaluate(
  session: Session,
  params: dict,
  questions: Questions,
  ledger: Ledger,
  *,
  seed: int,
) -> Answers:
  """Asks a policy, and judges what it answers.

  Args:
    session: of the run, with what judges these problems.
    params: the policy.
    questions: what it is asked.
    ledger: is told what it costs.
    seed: seed for the sampling.
  """
  keys: dict[str, Any] = dict(step=0, purpose="evaluation", seed=seed)
  results: list[EvalResult] = []
  samples: list[Sample] = []
  given_away: dict[float, int] = {}
  deepest = revealed_length(
    max((len(t.tokens) for t in questions.traces), default=0),
    max(questions.fractions, default=0),
  )
  for revealed in sorted({0, deepest}):
    sampler = sampler_of(session, revealed)
    sampler.load(params)
    if not revealed:
      for problems in filter(None, questions.splits):
        some, shown = without_prefix(
          session,
          sampler,
          problems,
          num_samples=questions.num_samples,
          **keys,
        )
        results += some
        samples += shown[:2]
    else:
      by_id = {p.id: p for p in questions.splits[0]}
      some, shown, given_away = by_fraction(
        session,
        sampler,
        by_id,
        questions.traces,
        questions.fractions,
        num_samples=questions.fraction_samples,
        **keys,
      )
      results += some
      samples += shown[:: max(1, len(by_id))]
    ledger.add_sampling("evaluation", sampler.pop_usage())
  return Answers(results, samples, given_away)


def sampler_of(engine: Engine, revealed: int) -> Sampler:
  """Returns the sampler of an evaluation.

  Args:
    engine: of the run.
    revealed: tokens of a trace that a problem is given, at most.
  """
  settings = engine.config.evals
  return engine.sampler(
    rows=settings.rows,
    lanes=settings.lanes,
    trunk_length=engine.config.rollouts.max_prompt_length + revealed,
    temperature=settings.temperature,
  )


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
