"""How runs did on each kind of problem, and how many kinds took off."""

import json
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from prefixrl_jax.run.inputs import Inputs
from prefixrl_jax.storage.artifacts import artifacts_of
from prefixrl_jax.storage.results import read_results
from prefixrl_jax.types import UserError

_TOOK_OFF = 0.5


def of_runs(workdir: epath.Path, field: str) -> Iterator[dict[str, Any]]:
  """Yields {arm, seed, kinds that took off, share, and each kind's accuracy}.

  Args:
    workdir: with finished evaluations.
    field: of the problems' metadata, whose values are the kinds.

  Raises:
    UserError: the problems have no such field.
  """
  config = ml_collections.ConfigDict(
    json.loads((workdir / "run_config.json").read_text())
  )
  inputs = Inputs(config)
  for evaluated, run in artifacts_of(workdir, "evaluate"):
    if not evaluated.has_finished:
      continue
    problems = inputs.problems(inputs.data_seed(run["seed"]))
    kinds = {p.id: p.metadata.get(field) for p in problems}
    if None in kinds.values():
      raise UserError(f"--field={field}: problems have no such metadata.")
    shares: dict[str, list[float]] = {}
    for e in read_results(evaluated.file("results.parquet")):
      if e.split == "heldout" and e.fraction == 0:
        share = e.num_correct / e.num_samples
        shares.setdefault(str(kinds[e.problem_id]), []).append(share)
    means = {kind: float(np.mean(shares[kind])) for kind in sorted(shares)}
    took_off = sum(mean >= _TOOK_OFF for mean in means.values())
    yield {
      **run,
      "took off": took_off,
      "of": len(means),
      **{kind: round(100 * mean) for kind, mean in means.items()},
    }
