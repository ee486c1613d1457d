"""The base model on every problem: which ones are hard."""

from prefixrl_jax.evals.accuracy import without_prefix
from prefixrl_jax.run import upstream
from prefixrl_jax.run.parts import in_parts
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.storage import metrics
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.storage.results import read_results, write_results


def run(work: Workspace) -> None:
  """Samples the base model on every problem; keeps the hard ones."""
  for artifact, seed in work.data_to_make("screen"):
    _screen(work, artifact, seed)


def _screen(work: Workspace, artifact: Artifact, seed: int) -> None:
  settings = work.config.screen
  problems = work.problems(seed)
  sampler = work.session.base_sampler(settings)
  work.begin(artifact)
  with metrics.Progress(
    f"screen, seed {seed}", total=len(problems)
  ) as progress:
    screened = 0

    def on_part(num_problems, *_):
      nonlocal screened
      screened += num_problems
      progress.update(screened)

    def make(some, file, ledger):
      results, _ = without_prefix(
        work.session,
        sampler,
        some,
        num_samples=settings.num_samples,
        step=0,
        purpose="screening",
        seed=seed,
      )
      ledger.add_sampling("screening", sampler.pop_usage())
      write_results(file, results)

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
  results = [r for file in files for r in read_results(file)]
  results.sort(key=lambda r: place[r.problem_id])
  write_results(artifact.directory / "pass_rates.parquet", results)
  weights = work.session.policy.rpartition("@")[2]
  artifact.finish({"ledger": cost, "weights": weights}, ["pass_rates.parquet"])
  (a, b), (x, y) = (
    upstream.count_hard(work, seed, s) for s in ("train", "heldout")
  )
  work.console.print(
    f"screen, seed {seed}: {a} of {b} training problems are hard"
    f" (at most {settings.max_correct} of {settings.num_samples} correct),"
    f" {x} of {y} held-out ones"
  )
  # Said here, before anything is spent on traces.
  upstream.hard_train(work, seed)
  if not x:
    which = (
      "no held-out problem is hard"
      if y
      else "there are no held-out problems (config.problems.num_heldout = 0)"
    )
    work.console.print(
      f"screen, seed {seed}: {which}; the report will have no accuracy on hard"
      " held-out ones."
    )
