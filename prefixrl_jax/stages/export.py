"""Export of a run's policy as a Hugging Face folder."""

from etils import epath

from prefixrl_jax import checkpoints
from prefixrl_jax.distributed import backends, cluster
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.evals.model_card import UNKNOWN_BASE, Card, write_card
from prefixrl_jax.models import adapters, exporting, hub, importing
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.stages.train import train_again
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.storage.metrics import busy
from prefixrl_jax.storage.remote import is_remote
from prefixrl_jax.storage.results import read_results
from prefixrl_jax.types import TRAINING, EvalResult, UserError


def check(work: Workspace) -> None:
  """Raises UserError if nothing can be exported to where it is asked for."""
  folder = _folder(work)
  if work.config.export.hub:
    hub.check(work.config.export.hub)
    if is_remote(folder):
      raise UserError(
        f"config.export.hub: {folder} is in a bucket, and only a local folder"
        " can be pushed; name one with config.export.directory."
      )
  artifact = work.export_artifact
  again = artifact.complete and artifact.summary["folder"] == str(folder)
  if work.config.export.directory and not again:
    exporting.check_empty(folder)


def _folder(work: Workspace) -> epath.Path:
  own = work.export_artifact.directory / "model"
  return epath.Path(work.config.export.directory or own)


def run(work: Workspace) -> None:
  """Writes a run's policy as a Hugging Face folder; only when asked to.

  If it is pushed to the hub, the folder is complete before.

  Raises:
    UserError: the model is not a Hugging Face model, there is no checkpoint or
      no place to write to, or the hub does not take it.
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
  alone = model.lora if settings.lora == "peft" else None
  card = write_card(_card(work, arm, seed, step, is_peft=bool(alone)))
  work.begin(artifact)
  if alone:
    name, revision = _base_of_adapters(work)
    exporting.export_adapters(
      folder, source, params, alone, base=name, revision=revision, card=card
    )
    if name.startswith(UNKNOWN_BASE):
      work.console.print(
        f"export: config.model.folder = {c.model.folder} is a folder of this"
        " machine, which is not published: base_model_name_or_path in"
        f" adapter_config.json is {name}; write the base model's name on the"
        " hub there."
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
      card=card,
    )
  artifact.finish({"folder": str(folder), "step": step}, [])
  work.console.print(f"export: {arm} seed {seed}, step {step}: {folder}")

  def push() -> None:
    with busy(f"export: to {settings.hub} on the hub …"):
      address = hub.push(settings.hub, folder)
    work.console.print(f"export: {address}")

  if settings.hub:
    cluster.once("push to the hub", push)


def _base_name(work: Workspace) -> tuple[str, str, bool]:
  """Returns the base model's name and revision, and whether the hub has it."""
  folder = work.config.model.folder
  if epath.Path(folder).is_dir():
    return epath.Path(folder).resolve().name, "", False
  name, _, revision = folder.partition("@")
  return name, revision, True


def _base_of_adapters(work: Workspace) -> tuple[str, str | None]:
  """Returns where adapters say that their base model is, and its revision.

  A folder of this machine is named only in an export that stays here.
  """
  name, revision, is_on_hub = _base_name(work)
  if is_on_hub:
    return name, revision or None
  if work.config.export.hub:
    return UNKNOWN_BASE + name, None
  return work.config.model.folder, None


def _card(
  work: Workspace, arm: str, seed: int, step: int, *, is_peft: bool
) -> Card:
  """Returns what the workdir says of a run at a step."""
  c, p = work.config, work.config.problems
  train = work.run_artifact("train", arm, seed)
  is_end = train.complete and step == train.summary["steps"]
  facts = {
    "problems": f"{p.task}, {p.num_train} to train on at most",
    "steps": f"{step}, of {c.train.prompts_per_step} problems each",
    "completions of a problem": c.arms[arm].group_size
    or c.train.completions_per_prompt,
    "longest completion": f"{c.rollouts.max_completion_length} tokens",
    "sampling temperature": c.rollouts.temperature,
    "peak learning rate": c.arms[arm].learning_rate,
    "problems with a prefix": f"{c.arms[arm].prefixed_share:.0%}",
  }
  results: dict[str, list[EvalResult]] = {"base": [], arm: []}
  if is_end:
    ledger = train.file("curve.json").read_json()[-1]["ledger"]
    spent = sum(ledger[p]["flops_paper"] for p in TRAINING if p in ledger)
    facts["FLOPs, as the paper counts"] = f"{spent:.2g}"
    for who in results:
      for name in ("", *work.sets):
        results[who] += _results(work.run_artifact("evaluate", who, seed, name))
  name, _, is_on_hub = _base_name(work)
  return Card(
    base=name,
    base_on_hub=is_on_hub,
    base_of_adapters=_base_of_adapters(work)[0] if is_peft else None,
    arm=arm,
    seed=seed,
    step=step,
    facts=facts,
    temperature=c.evals.temperature,
    before=results["base"],
    after=results[arm],
  )


def _results(artifact: Artifact) -> list[EvalResult]:
  if not artifact.complete:
    return []
  return read_results(artifact.file("results.parquet"))
