"""Every arm and seed, on the same budget."""

from prefixrl_jax.artifacts import write_json
from prefixrl_jax.train import TrainData, Trainer
from prefixrl_jax.workspace import Workspace


def run(work: Workspace) -> None:
  """Trains every arm and seed on the same budget."""
  for artifact, arm, seed in work.runs_to_make("train", work.config.run_arms):
    trainer = make_trainer(work, work.train_data(seed), arm, seed)
    artifact.begin()
    curve = trainer.run()
    write_json(artifact.directory / "curve.json", curve)
    artifact.finish({"steps": curve[-1]["step"]})


def make_trainer(
  work: Workspace, data: TrainData, arm: str, seed: int
) -> Trainer:
  """Returns what trains an arm, from its newest checkpoint on."""
  return Trainer(
    work.session,
    data,
    work.run_artifact("train", arm, seed).directory,
    arm=arm,
    seed=seed,
  )
