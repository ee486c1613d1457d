"""What the stages share: mesh, model, tokenizer, verifier."""

import dataclasses
from collections.abc import Callable

import jax
import ml_collections
from etils import epath

from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.models import (
  adapters,
  base_file,
  importing,
  parameters,
  transformer,
)
from prefixrl_jax.rollouts.sampler import Arena, Sampler
from prefixrl_jax.rounding import round_up
from prefixrl_jax.run import memory_plan
from prefixrl_jax.run.inputs import open_tokenizer
from prefixrl_jax.text.tokenizer import Tokenizer, check_vocabulary
from prefixrl_jax.types import Verifier


@dataclasses.dataclass(kw_only=True)
class Engine:
  """What decides programs: a model on a mesh, which need not be there.

  Attributes:
    config: the whole config.
    mesh: the devices.
    model: config of the transformer.
    rows_per_microbatch: packed rows per micro-batch.
    base_params: the base policy, on the mesh; its shapes will do to compile.
    stop_tokens: of the tokenizer.
    arena: lets one sampler at a time have weights and caches.
  """

  config: ml_collections.ConfigDict
  mesh: jax.sharding.Mesh
  model: transformer.TransformerConfig
  rows_per_microbatch: int
  base_params: dict
  stop_tokens: tuple[int, ...]
  arena: Arena = dataclasses.field(default_factory=Arena, init=False)

  def sampler(
    self,
    *,
    rows: int,
    lanes: int,
    trunk_length: int,
    temperature: float,
  ) -> Sampler:
    """Returns a sampler of this model; see `Sampler`.

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
      stop_tokens=self.stop_tokens,
    )

  def base_sampler(self, settings: ml_collections.ConfigDict) -> Sampler:
    """Returns a sampler for original problems, loaded with the base policy.

    Args:
      settings: config.screen or config.collect.
    """
    sampler = self.sampler_for_prompts(settings)
    sampler.load(self.base_params)
    return sampler

  def sampler_for_prompts(self, settings: ml_collections.ConfigDict) -> Sampler:
    """Returns a sampler for original problems, with nothing loaded.

    Args:
      settings: config.screen or config.collect.
    """
    return self.sampler(
      rows=settings.rows,
      lanes=settings.lanes,
      trunk_length=self.config.rollouts.max_prompt_length,
      temperature=self.config.rollouts.temperature,
    )


@dataclasses.dataclass(kw_only=True)
class Session(Engine):
  """What is made once and shared by the stages.

  Attributes:
    policy: "<id>@<weight hash>" of the base policy.
    tokenizer, verifier: the task's.
  """

  stop_tokens: tuple[int, ...] = dataclasses.field(init=False)
  policy: str
  tokenizer: Tokenizer
  verifier: Verifier

  def __post_init__(self):
    self.stop_tokens = self.tokenizer.stop_tokens


def open_engine(
  config: ml_collections.ConfigDict,
  *,
  model: transformer.TransformerConfig,
  mesh: jax.sharding.Mesh,
  stop_tokens: tuple[int, ...],
  show: Callable[[str], None],
  device_bytes: float | None = None,
) -> Engine:
  """Shows and checks the memory plan; loads nothing.

  Args:
    config: the whole config.
    model: as its config.json, or section `model`, has it.
    mesh: of config.mesh; its devices may be absent if device_bytes is given.
    stop_tokens: of the tokenizer.
    show: prints a line.
    device_bytes: memory of a device; None: ask it.

  Returns:
    An engine whose base_params are shapes.

  Raises:
    UserError: the plan does not fit.
  """
  backends.of_mesh(mesh).keep_float32(model.dtype)
  model = adapters.with_lora(config.lora, model)
  model, rows_per_microbatch = memory_plan.fit(
    config, model, mesh, show, device_bytes
  )
  return Engine(
    config=config,
    mesh=mesh,
    model=model,
    rows_per_microbatch=rows_per_microbatch,
    base_params=parameters.abstract_params(model, mesh),
    stop_tokens=stop_tokens,
  )


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
  check_vocabulary(tokenizer, model.vocab_size)
  engine = open_engine(
    c, model=model, mesh=mesh, stop_tokens=tokenizer.stop_tokens, show=show
  )
  model = engine.model
  if folder:
    name = epath.Path(c.model.folder).name
    params = importing.load_weights(folder, model, mesh)
  else:
    name = "demo"
    params = base_file.load(base, model, mesh)
  return Session(
    config=c,
    mesh=mesh,
    model=model,
    rows_per_microbatch=engine.rows_per_microbatch,
    base_params=params,
    policy=f"{name}@{parameters.weight_hash(params)}",
    tokenizer=tokenizer,
    verifier=verifier,
  )


def demo_model(
  config: ml_collections.ConfigDict,
) -> transformer.TransformerConfig:
  """Returns the model config given by the config's section `model`."""
  names = {f.name for f in dataclasses.fields(transformer.TransformerConfig)}
  return transformer.TransformerConfig(
    **{k: v for k, v in config.items() if k in names}
  )
