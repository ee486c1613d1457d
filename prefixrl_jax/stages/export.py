"""Export of a run's policy as a Hugging Face folder."""

from etils import epath

from prefixrl_jax import checkpoints
from prefixrl_jax.distributed import backends
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.models import adapters, exporting, importing
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.stages.train import train_again
from prefixrl_jax.types import UserError


def check(work: Workspace) -> None:
  """Raises UserError if nothing can be exported to the requested folder."""
  folder = _folder(work)
  artifact = work.export_artifact
  again = artifact.complete and artifact.summary["folder"] == str(folder)
  if work.config.export.directory and not again:
    exporting.check_empty(folder)


def _folder(work: Workspace) -> epath.Path:
  own = work.export_artifact.directory / "model"
  return epath.Path(work.config.export.directory or own)


def run(work: Workspace) -> None:
  """Writes a run's policy as a Hugging Face folder; only when asked to.

  Raises:
    UserError: the model is not a Hugging Face model, or there is no checkpoint
      or no place to write to.
  """
  c, settings = work.config, work.config.export
  source = work.model_folder
  if source is None:
    raise UserError(
      "--stage=export: the embedded task's model belongs to no Hugging Face"
      " family; only what began as a Hugging Face folder"
      " (config.model.folder) can be exported."
    )
  arm = settings.arm or c.run_arms[0]
  seed = settings.seed if settings.seed >= 0 else c.seeds[0]
  artifact = work.export_artifact
  train = work.run_artifact("train", arm, seed)
  train.check()
  folder = _folder(work)
  check(work)
  model = importing.read_config(
    source,
    dtype=c.model.dtype,
    param_dtype=c.model.param_dtype,
    remat="none",
  )
  model = adapters.with_lora(c.lora, model)
  mesh = make_mesh(**c.mesh)
  # Adapters are merged into weights that may be float32 in any case.
  backends.of_mesh(mesh).keep_float32(c.model.param_dtype)
  asked = settings.step if settings.step >= 0 else None
  remedy = {}
  if asked is None and train.complete:
    asked, remedy = train.summary["steps"], {"remedy": train_again(train)}
  step, params = checkpoints.restore_params(
    train.directory / "checkpoints",
    adapters.abstract_trained(model, mesh),
    asked,
    **remedy,
  )
  work.begin(artifact)
  if model.lora and settings.lora == "peft":
    exporting.export_adapters(
      folder, source, params, model.lora, base=c.model.folder
    )
  else:
    if model.lora:
      base = importing.load_weights(source, model, mesh)
      params = adapters.merge(model, base, params)
    exporting.export(
      folder,
      source,
      params,
      dtype=settings.dtype or c.model.param_dtype,
      max_bytes=int(settings.shard_gigabytes * 1e9),
    )
  artifact.finish({"folder": str(folder), "step": step}, [])
  work.console.print(f"export: {arm} seed {seed}, step {step}: {folder}")
