"""Training of every arm and seed, on the same budget."""

from prefixrl_jax.checkpoints import saved_steps
from prefixrl_jax.evals import curve
from prefixrl_jax.run import upstream
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.storage.files import write_json
from prefixrl_jax.train import train
from prefixrl_jax.types import UserError


def train_again(artifact: Artifact) -> str:
  """Says how to recover a finished policy whose last checkpoint is lost.

  Args:
    artifact: of a complete training.
  """
  return (
    f"If it is lost for good, remove {artifact.directory / 'manifest.json'}:"
    " --stage=train then reaches the same policy from an older checkpoint, or"
    " from the start if there is none."
  )


def run(work: Workspace) -> None:
  """Trains every arm and seed on the same budget.

  Raises:
    UserError: the run cannot continue, or see `train.train`.
  """
  said: set[str] = set()  # all arms of a seed have the same curve
  for artifact, arm, seed in work.runs_to_make("train"):
    checkpoints = artifact.directory / "checkpoints"
    if artifact.has_finished and not saved_steps(checkpoints):
      raise UserError(
        f"{artifact.name} would continue to a raised limit, but there is no"
        f" checkpoint in {checkpoints}. {artifact.remedy}"
      )
    data = upstream.train_data(work, seed)
    cost = curve.cost_at_most(work.session, data)
    if cost not in said:
      said.add(cost)
      work.console.print(
        f"train, {arm} seed {seed}: a curve of {cost}"
        " (config.evals.curve_problems, curve_samples, curve_points)"
      )
    work.begin(artifact)
    points, skipped = train(
      work.session, data, artifact.directory, arm=arm, seed=seed
    )
    write_json(artifact.directory / "curve.json", points)
    steps = points[-1]["step"]
    artifact.finish(
      {"steps": steps, "skipped_updates": skipped}, ["curve.json"]
    )
    if skipped:
      work.console.print(
        f"train, {arm} seed {seed}: {skipped} of {steps} updates were not"
        " finite and left out"
      )
