"""What the stages share: mesh, model, tokenizer, verifier."""

import dataclasses
from collections.abc import Callable

import jax
import ml_collections
import safetensors
from etils import epath

from prefixrl_jax import checkpoints
from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.models import adapters, importing, parameters, transformer
from prefixrl_jax.rollouts.sampler import Arena, Sampler
from prefixrl_jax.rounding import round_up
from prefixrl_jax.run import memory_plan
from prefixrl_jax.run.inputs import open_tokenizer
from prefixrl_jax.text.tokenizer import Tokenizer, check_vocabulary
from prefixrl_jax.types import UserError, Verifier


@dataclasses.dataclass
class Session:
  """What is made once and shared by the stages.

  Attributes:
    config: the whole config.
    mesh: the devices.
    model: config of the transformer.
    rows_per_microbatch: packed rows per micro-batch.
    base_params: the base policy, on the mesh.
    policy: "<id>@<weight hash>" of the base policy.
    tokenizer, verifier: the task's.
    arena: lets one sampler at a time have weights and caches.
  """

  config: ml_collections.ConfigDict
  mesh: jax.sharding.Mesh
  model: transformer.TransformerConfig
  rows_per_microbatch: int
  base_params: dict
  policy: str
  tokenizer: Tokenizer
  verifier: Verifier
  arena: Arena = dataclasses.field(default_factory=Arena, init=False)

  def sampler(
    self,
    *,
    rows: int,
    lanes: int,
    trunk_length: int,
    temperature: float,
  ) -> Sampler:
    """Returns a sampler of this session's model; see `Sampler`.

    Only the sampler loaded last has weights and caches, since the memory plan
    has room for one.
    """
    rollouts = self.config.rollouts
    return Sampler(
      self.model,
      self.mesh,
      arena=self.arena,
      # Whole rows per device; which row a completion has changes no result.
      rows=round_up(rows, sharding.num_row_shards(self.mesh)),
      lanes=lanes,
      trunk_length=round_up(trunk_length, 8),
      completion_length=rollouts.max_completion_length,
      steps_per_dispatch=rollouts.steps_per_dispatch,
      temperature=temperature,
      top_k=rollouts.top_k,
      top_p=rollouts.top_p,
      stop_tokens=self.tokenizer.stop_tokens,
    )

  def base_sampler(self, settings: ml_collections.ConfigDict) -> Sampler:
    """Returns a sampler for original problems, loaded with the base policy.

    Args:
      settings: config.screen or config.collect.
    """
    sampler = self.sampler(
      rows=settings.rows,
      lanes=settings.lanes,
      trunk_length=self.config.rollouts.max_prompt_length,
      temperature=self.config.rollouts.temperature,
    )
    sampler.load(self.base_params)
    return sampler


def open_session(
  config: ml_collections.ConfigDict,
  *,
  folder: epath.Path | None,
  base: epath.Path,
  verifier: Verifier,
  show: Callable[[str], None],
) -> Session:
  """Loads the base policy, after showing and checking the memory plan.

  Args:
    config: the whole config.
    folder: of the Hugging Face model, if config.model.folder names one.
    base: file of the embedded task's base model; not read if there is a folder.
    verifier: the task's.
    show: prints a line.

  Raises:
    UserError: the plan does not fit, or a file is missing or wrong.
  """
  c = config
  mesh = make_mesh(**c.mesh)
  tokenizer = open_tokenizer(folder, c.problems.task)
  if folder:
    model = importing.read_config(
      folder,
      dtype=c.model.dtype,
      param_dtype=c.model.param_dtype,
      remat=c.model.remat,
    )
  else:
    model = demo_model(c.model)
  backends.of_mesh(mesh).keep_float32(model.dtype)
  model = adapters.with_lora(c.lora, model)
  check_vocabulary(tokenizer, model.vocab_size)
  model, rows_per_microbatch = memory_plan.fit(c, model, mesh, show)
  if folder:
    name = epath.Path(c.model.folder).name
    params = importing.load_weights(folder, model, mesh)
  else:
    name = "demo"
    params = _load_base(base, model, mesh)
  return Session(
    config=c,
    mesh=mesh,
    model=model,
    rows_per_microbatch=rows_per_microbatch,
    base_params=params,
    policy=f"{name}@{checkpoints.weight_hash(params)}",
    tokenizer=tokenizer,
    verifier=verifier,
  )


def _load_base(base: epath.Path, model, mesh) -> dict:
  """Returns the base model of an embedded task, on the mesh."""
  try:
    params = checkpoints.load_params(base)
  except safetensors.SafetensorError as e:
    raise UserError(f"{base} is no safetensors file ({e}).") from e
  wanted = parameters.abstract_params(model, mesh)
  there, here = (
    {jax.tree_util.keystr(k): x.shape for k, x in flat}
    for flat in map(jax.tree_util.tree_leaves_with_path, (params, wanted))
  )
  for name in sorted(there.keys() | here.keys()):
    if there.get(name) != here.get(name):
      raise UserError(
        f"{base} is of another shape than config.model: its {name} has shape"
        f" {there.get(name)}, config.model asks for {here.get(name)}."
      )
  return parameters.put_params(model, mesh, params)


def demo_model(
  config: ml_collections.ConfigDict,
) -> transformer.TransformerConfig:
  """Returns the model config given by the config's section `model`."""
  names = {f.name for f in dataclasses.fields(transformer.TransformerConfig)}
  return transformer.TransformerConfig(
    **{k: v for k, v in config.items() if k in names}
  )
