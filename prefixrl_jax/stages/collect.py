"""Correct traces of the hard problems, by rejection sampling."""

from collections.abc import Callable, Sequence

from prefixrl_jax.ledger import Ledger
from prefixrl_jax.models import parameters
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run import upstream
from prefixrl_jax.run.parts import in_parts
from prefixrl_jax.run.session import Session
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.storage import metrics, trace_store
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.traces import rejection
from prefixrl_jax.types import Problem, Trace, UserError


def run(work: Workspace) -> None:
  """Rejection-samples the hard problems, unless traces are imported."""
  if work.config.traces.file:
    return
  for artifact, seed in work.data_to_make("collect"):
    _collect(work, artifact, seed)


def collect(
  session: Session,
  sampler: Sampler,
  problems: Sequence[Problem],
  ledger: Ledger,
  *,
  policy: str,
  seed: int,
  on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Trace]:
  """Returns traces of problems, as many as config.collect wants and affords.

  Args:
    session: of the run.
    sampler: loaded with the policy that writes the traces.
    problems: hard ones.
    ledger: is told what they cost.
    policy: who writes them, stored with them.
    seed: seed for the sampling.
    on_progress: called with (solved, completions judged) after each batch.
  """
  traces = rejection.collect(
    sampler,
    session.verifier,
    session.tokenizer,
    problems,
    budget=session.config.collect.budget,
    traces_per_problem=session.config.collect.traces_per_problem,
    policy=policy,
    seed=seed,
    on_progress=on_progress,
  )
  ledger.add_sampling("collection", sampler.pop_usage())
  return traces


def _collect(work: Workspace, artifact: Artifact, seed: int) -> None:
  settings = work.config.collect
  problems = upstream.hard_train(work, seed)
  sampler = work.session.base_sampler(settings)
  work.begin(artifact)
  with metrics.Progress(
    f"collect, seed {seed}", total=len(problems)
  ) as progress:
    done = {"solved": 0, "tried": 0, "tokens": 0, "flops": 0.0}

    def show(solved=0, tried=0, tokens=0, flops=0.0):
      progress.update(
        done["solved"] + solved,
        tried=str(done["tried"] + tried),
        tokens=f"{done['tokens'] + tokens:.3g}",
        FLOPs=f"{done['flops'] + flops:.3g}",
      )

    def on_part(_, file, cost):
      spent = cost["collection"]
      done["solved"] += len(
        {t.problem_id for t in trace_store.read_traces(file)}
      )
      done["tried"] += spent["completions"]
      done["tokens"] += spent["tokens"]
      done["flops"] += spent["flops_paper"]
      show()

    def make(some, file, ledger):
      def on_progress(solved, judged):
        usage = sampler.usage
        tokens = usage.input_tokens + usage.output_tokens
        flops = 2.0 * parameters.num_params(work.session.model) * tokens
        show(solved, judged, tokens, flops)

      traces = collect(
        work.session,
        sampler,
        some,
        ledger,
        policy=work.session.policy,
        seed=seed,
        on_progress=on_progress,
      )
      trace_store.write_traces(file, traces)

    files, cost = in_parts(
      artifact.directory / "parts",
      problems,
      size=settings.problems_per_part,
      model=work.session.model,
      make=make,
      on_part=on_part,
      show=work.console.print,
    )
  place = {p.id: i for i, p in enumerate(problems)}
  traces = [t for file in files for t in trace_store.read_traces(file)]
  traces.sort(key=lambda t: place[t.problem_id])
  if not traces:
    raise UserError(
      f"collection found no correct trace for any of {len(problems)} hard"
      f" problems (seed {seed}) in {settings.budget} attempts each: raise"
      " config.collect.budget, or screen less strictly"
      " (config.screen.max_correct, num_samples)."
    )
  trace_store.write_traces(artifact.directory / "traces.parquet", traces)
  solved = len({t.problem_id for t in traces})
  artifact.finish(
    {"ledger": cost, "solved": [solved, len(problems)]}, ["traces.parquet"]
  )
  work.console.print(
    f"collect, seed {seed}: {solved} of {len(problems)} hard problems"
    f" solved with {cost['collection']['completions']} completions"
  )
