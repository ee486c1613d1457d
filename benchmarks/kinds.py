"""How a run did on each kind of problem, and how many kinds took off.

  python -m benchmarks.kinds --workdir=runs/skills

Reads a finished workdir whose problems have a kind in their metadata, as those
of configs/skills.py do. Of every run it shows the final held-out accuracy of
each kind, in %, without a prefix, and how many kinds end at half or more.
"""

import json
from collections.abc import Iterator

import ml_collections
import numpy as np
import pyarrow.parquet as pq
from absl import flags
from etils import epath

from benchmarks import measuring
from prefixrl_jax.run.inputs import Inputs
from prefixrl_jax.types import UserError

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "A finished one.", required=True
)
_FIELD = flags.DEFINE_string("field", "kind", "Of the problems' metadata.")
_JSON = flags.DEFINE_string("json", "", "File for the figures.")
_TOOK_OFF = 0.5


def of_runs(workdir: epath.Path, field: str) -> Iterator[dict]:
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
  for run in sorted(workdir.glob("evaluate/*/seed_*")):
    if not (run / "manifest.json").exists():
      continue
    seed = int(run.name.removeprefix("seed_"))
    problems = inputs.problems(inputs.data_seed(seed))
    kinds = {p.id: p.metadata.get(field) for p in problems}
    if None in kinds.values():
      raise UserError(f"--field={field}: problems have no such metadata.")
    shares: dict[str, list[float]] = {}
    for row in pq.read_table(run / "results.parquet").to_pylist():
      if row["split"] == "heldout" and row["fraction"] == 0:
        share = row["num_correct"] / row["num_samples"]
        shares.setdefault(str(kinds[row["problem_id"]]), []).append(share)
    means = {kind: float(np.mean(shares[kind])) for kind in sorted(shares)}
    took_off = sum(mean >= _TOOK_OFF for mean in means.values())
    yield {
      "arm": run.parent.name,
      "seed": seed,
      "took off": took_off,
      "of": len(means),
      **{kind: round(100 * mean) for kind, mean in means.items()},
    }


def main() -> None:
  rows = [*of_runs(epath.Path(_WORKDIR.value), _FIELD.value)]
  measuring.show("Held-out, in %", rows, _JSON.value, timed=False)


if __name__ == "__main__":
  measuring.run(main)
