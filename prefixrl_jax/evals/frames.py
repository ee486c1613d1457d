"""A workdir's runs as pandas data frames, finished or not."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from etils import epath

from prefixrl_jax.ledger import training_flops
from prefixrl_jax.storage.artifacts import Artifact, artifacts_of
from prefixrl_jax.storage.metrics import read_jsonl
from prefixrl_jax.storage.results import read_results
from prefixrl_jax.types import EvalResult, UserError

if TYPE_CHECKING:
  import pandas as pd


_RUN = ["arm", "seed"]
_CURVES = [*_RUN, "step", "flops_paper", "split", "accuracy"]
_RESULTS = [
  *_RUN,
  "evaluation",
  *(field.name for field in dataclasses.fields(EvalResult)),
  "accuracy",
]


class Frames(NamedTuple):
  """A workdir's runs; each row begins with `arm` and `seed`.

  Attributes:
    steps: a row a training step, also of a run that is not finished: `step` and
      its metrics.
    curves: a row for each point of a finished run's curve and each split:
      `step`, `flops_paper`, `split` and `accuracy` without prefix.
    results: a row for each problem and share revealed of each evaluation:
      `evaluation` (the run's own is ""), `problem_id`, `split`, `fraction`,
      `num_samples`, `num_correct` and `accuracy`. The base policy is the arm
      "base".
  """

  steps: "pd.DataFrame"
  curves: "pd.DataFrame"
  results: "pd.DataFrame"


def read_frames(workdir: epath.Path) -> Frames:
  """Reads what training and evaluation have left.

  Args:
    workdir: of one or more runs.

  Raises:
    UserError: there is no run, a file is damaged, or pandas is not installed.
  """
  try:
    import pandas as pd
  except ImportError:
    raise UserError(
      "pandas is not installed: pip install 'prefixrl_jax[notebooks]'."
    ) from None
  steps, curves, results = [], [], []
  for trained, run in artifacts_of(workdir, "train"):
    for row in read_jsonl(trained.directory / "metrics.jsonl"):
      steps.append(run | row)
    if trained.has_finished:
      curves += [run | row for row in _points(trained)]
  for home, run in artifacts_of(workdir, "evaluate"):
    for evaluated in (home, *_others(home)):
      if evaluated.has_finished:
        name = evaluated.directory.name if evaluated is not home else ""
        results += [run | row for row in _results(evaluated, name)]
  if not steps and not results:
    raise UserError(f"{workdir} has no run: nothing was trained or evaluated.")
  return Frames(
    # Which metrics there are depends on the arm.
    pd.DataFrame(steps) if steps else pd.DataFrame(columns=[*_RUN, "step"]),
    pd.DataFrame(curves, columns=_CURVES),
    pd.DataFrame(results, columns=_RESULTS),
  )


def _others(home: Artifact) -> Iterator[Artifact]:
  """Yields a run's evaluations with other settings; see run/evaluations.py."""
  for folder in sorted(home.directory.glob("*-*")):
    yield home.within(folder.name)


def _points(trained: Artifact) -> Iterator[dict[str, Any]]:
  for point in trained.file("curve.json").read_json():
    for split, accuracy in point["accuracy"].items():
      yield {
        "step": point["step"],
        "flops_paper": training_flops(point["ledger"]),
        "split": split,
        "accuracy": accuracy,
      }


def _results(evaluated: Artifact, name: str) -> Iterator[dict[str, Any]]:
  for result in read_results(evaluated.file("results.parquet")):
    accuracy = result.num_correct / result.num_samples
    yield {"evaluation": name, **vars(result), "accuracy": accuracy}
