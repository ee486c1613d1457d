"""Every arm and seed, on the same budget."""

from prefixrl_jax.files import write_json
from prefixrl_jax.train import Trainer
from prefixrl_jax.workspace import Workspace


def run(work: Workspace) -> None:
  """Trains every arm and seed on the same budget."""
  for artifact, arm, seed in work.runs_to_make("train", work.config.run_arms):
    data = work.train_data(seed)
    trainer = Trainer(
      work.session, data, artifact.directory, arm=arm, seed=seed
    )
    work.begin(artifact)
    curve = trainer.run()
    write_json(artifact.directory / "curve.json", curve)
    steps, skipped = curve[-1]["step"], trainer.skipped
    artifact.finish(
      {"steps": steps, "skipped_updates": skipped}, ["curve.json"]
    )
    if skipped:
      work.console.print(
        f"train, {trainer.name}: {skipped} of {steps} updates were not finite"
        " and left out"
      )
