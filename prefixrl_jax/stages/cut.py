"""Every trace cut into prefixes."""

from prefixrl_jax.prefixes.cut import cut
from prefixrl_jax.traces import store
from prefixrl_jax.types import UserError
from prefixrl_jax.workspace import Workspace


def run(work: Workspace) -> None:
  """Cuts every trace into prefixes."""
  for artifact, seed in work.data_to_make("cut"):
    traces = work.traces(seed)
    if not traces:
      raise UserError(
        f"{work.config.traces.file} has no trace of a hard problem (seed"
        f" {seed}): screen less strictly (config.screen.max_correct,"
        " num_samples) or bring other traces."
      )
    artifact.begin()
    prefixed = cut(
      traces,
      {p.id: p.index for p in work.problems(seed)},
      seed=seed,
      **work.config.prefixes,
    )
    store.write_prefixed_problems(
      artifact.directory / "prefixed.parquet", prefixed
    )
    artifact.finish({"prefixed": len(prefixed)})
