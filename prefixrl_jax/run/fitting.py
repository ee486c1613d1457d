"""Which mesh, rows, micro-batches and remat fit a chip and are fastest.

By the memory plan and a count by hand: nothing is compiled. What devices send
each other is counted too, in rings; what a collective takes beside its bytes is
not, so a decode step over many `tensor` devices may take longer.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from prefixrl_jax.distributed import ahead, sharding
from prefixrl_jax.distributed.chips import Chip
from prefixrl_jax.distributed.mesh import make_mesh, num_slices
from prefixrl_jax.distributed.mesh_shape import MESH_AXES
from prefixrl_jax.models.decoder_config import TransformerConfig
from prefixrl_jax.rounding import ceil_div, round_up
from prefixrl_jax.run import (
  by_hand,
  duration,
  estimates,
  memory_plan,
  setup,
  sizes,
)
from prefixrl_jax.run.session import Engine, open_engine
from prefixrl_jax.settings.validation import validate
from prefixrl_jax.types import UserError

# Samplers' rows are halved where their caches do not fit; sections that have
# them, and the phases of the memory plan that they decide.
_ROWS_OF = {
  "screen": ("screen",),
  "collect": ("collect",),
  "evals": ("curve", "evaluate"),
}


@dataclasses.dataclass(frozen=True)
class Choice:
  """Settings that fit.

  Attributes:
    settings: fields of the config.
    bytes: that a device needs, by the memory plan.
    seconds: of a step of RL, the mean of all arms.
  """

  settings: dict[str, Any]
  bytes: float
  seconds: float

  def __str__(self) -> str:
    return " ".join(f"--config.{k}={v}" for k, v in self.settings.items())


def search(
  config: ml_collections.ConfigDict,
  model: TransformerConfig,
  devices: Sequence[jax.Device],
  chip: Chip,
  stop_tokens: tuple[int, ...],
) -> list[Choice]:
  """Returns one choice for each mesh that fits, the fastest first.

  Args:
    config: whose mesh, rows, micro-batches and remat are left open.
    model: of it.
    devices: of the mesh; they may be absent.
    chip: what one is taken to be.
    stop_tokens: of the tokenizer.

  Raises:
    UserError: nothing fits.
  """
  found, refusal = [], ""
  slices = num_slices(devices)
  for sizes_of_mesh in meshes(len(devices), config, model):
    if sizes_of_mesh["data"] % slices:
      continue  # see mesh.arranged
    mesh = make_mesh(**sizes_of_mesh, devices=devices)
    of_mesh = []
    for rows in _rows_of_training(config, mesh):
      try:
        changed = _with_room(config, model, mesh, chip, rows)
        of_mesh.append(_choice(changed, model, mesh, chip, stop_tokens))
      except UserError as e:
        refusal = str(e)
    if of_mesh:
      found.append(min(of_mesh, key=lambda choice: choice.seconds))
  if not found:
    raise UserError(f"--fit: nothing fits {len(devices)} devices: {refusal}")
  return sorted(found, key=lambda choice: choice.seconds)


def meshes(
  num_devices: int,
  config: ml_collections.ConfigDict,
  model: TransformerConfig,
) -> Iterator[dict[str, int]]:
  """Yields meshes that divide the model and have a prompt for each row shard.

  Args:
    num_devices: of all.
    config: of the run.
    model: of it.
  """
  divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
  for tensor in divisors:
    if any(
      n % tensor
      for n in (model.num_heads, model.num_kv_heads, model.mlp_width or tensor)
    ):
      continue
    shards = num_devices // tensor
    if shards > config.train.prompts_per_step:
      continue
    for expert in divisors:
      if shards % expert or (model.num_experts or 1) % expert:
        continue
      for fsdp in divisors:
        if shards // expert % fsdp == 0 and model.width % fsdp == 0:
          data = shards // expert // fsdp
          yield dict(zip(MESH_AXES, (data, fsdp, tensor, expert)))


def _rows_of_training(config, mesh) -> Iterator[int]:
  """Yields prompts that may be sampled at a time: all of a step's, or less."""
  rows, shards = config.train.prompts_per_step, sharding.num_row_shards(mesh)
  while True:
    yield rows
    if rows <= shards:
      return
    rows = round_up(ceil_div(rows, 2), shards)


def _with_room(config, model, mesh, chip, rows):
  """Returns the config with samplers that fit, and the rest left open."""
  changed = config.copy_and_resolve_references()
  shards = sharding.num_row_shards(mesh)
  changed.mesh.update(mesh.shape)
  changed.train.rows = rows if rows < changed.train.prompts_per_step else 0
  changed.model.remat = "auto"
  changed.learner.rows_per_microbatch = 0
  open_model = dataclasses.replace(model, remat="full")
  for section, of in _ROWS_OF.items():
    settings = changed[section]
    while True:
      by_phase = memory_plan.phases(changed, open_model, mesh, shards)
      need = max(sum(by_phase[phase].values()) for phase in of)
      if need <= chip.memory or settings.rows <= shards:
        break
      settings.rows = round_up(ceil_div(settings.rows, 2), shards)
  return changed


def _choice(config, model, mesh, chip, stop_tokens) -> Choice:
  """Returns what the memory plan settles on, and how long a step takes.

  Raises:
    UserError: it does not fit.
  """
  engine = open_engine(
    config,
    model=dataclasses.replace(model, remat="auto"),
    mesh=mesh,
    stop_tokens=stop_tokens,
    show=lambda _: None,
    device_bytes=chip.memory,
  )
  settings = {f"mesh.{axis}": size for axis, size in mesh.shape.items()} | {
    f"{section}.rows": config[section].rows
    for section in ("screen", "collect", "train", "evals")
  }
  settings["model.remat"] = engine.model.remat
  settings["learner.rows_per_microbatch"] = engine.rows_per_microbatch
  config.update_from_flattened_dict(settings)
  validate(config)
  plan = memory_plan.plan(
    config, engine.model, mesh, engine.rows_per_microbatch
  )
  steps = duration.steps(engine, programs(engine, chip), chip)
  return Choice(
    settings,
    bytes=sum(plan.values()),
    seconds=sum(x["step"] for x in steps.values()) / len(steps),
  )


def programs(engine: Engine, chip: Chip) -> list[dict[str, Any]]:
  """Returns the programs of a step as a summary has them, none compiled.

  Gathers of weights overlap with products; what `tensor` sums does not.

  Args:
    engine: of the run.
    chip: that they run on.
  """
  c, mesh, model = engine.config, engine.mesh, engine.model
  found = []

  def add(place, name, work, weights=0.0, activations=0.0, rows=None):
    found.append(
      {
        "name": name,
        "of": [place],
        "rows": rows,
        "by_hand": work._asdict(),
        **estimates.roofline(
          chip,
          work,
          activations / chip.interconnect,
          overlapped=weights / chip.interconnect,
        ),
      }
    )

  for arm in c.run_arms:
    largest = sizes.at_most(c, c.arms[arm])
    trees = by_hand.trees_of(c, c.arms[arm], largest)
    with ahead.compiling(_Nothing()):
      parts = setup.make_parts(engine, c.arms[arm], largest, seed=0)
    sent = Sent(engine, chip)
    with jax.set_mesh(mesh):
      layout = parts.learner.layout
      work = by_hand.update(parts.learner, trees["RL"], model, mesh)
      add(f"{arm}, RL", "update", work, *sent.update(layout, work.turns))
      if parts.scorer:
        work = by_hand.score(parts.scorer, trees["scoring"], model, mesh)
        passes = work.turns * parts.scorer.num_passes
        layout = parts.scorer.layout
        add(f"{arm}, scoring", "score", work, *sent.passes(layout, passes))
      if not parts.sampler:
        continue
      place, run = f"{arm}, rollouts", parts.sampler.programs
      add(
        place,
        "decode",
        by_hand.decode(run, model, mesh),
        activations=sent.summed(run.rows * run.lanes) * model.num_layers,
      )
      tokens = run.rows * run.trunk_length
      for name, is_last in (
        ("prefill a layer", False),
        ("prefill, last layer", True),
      ):
        add(
          place,
          name,
          by_hand.prefill(run, run.rows, model, mesh, is_last=is_last),
          activations=sent.summed(tokens),
          rows=run.rows,
        )
      whole = by_hand.weights(model, mesh)
      layers = model.num_layers
      each = {
        "hand over a layer": whole["layer"],
        "hand over the rest": whole["all"] - layers * whole["layer"],
      }
      for name, held in each.items():
        work = by_hand.Work(0.0, 2 * held)
        add(place, name, work, weights=held * sent.of_fsdp)
  return found


class _Nothing(ahead.Compiler):
  """Compiles nothing: a program that is called returns shapes."""

  def call(self, program: ahead.Program, args: tuple, kwargs: dict) -> Any:
    return program.lower(*args, **kwargs).out_info


class Sent:
  """Bytes that reach a device from others, counted by hand.

  Those from other slices count as often as their network is slower.

  Attributes:
    of_fsdp: the share of a weight that a device does not have itself.
  """

  def __init__(self, engine: Engine, chip: Chip):
    """Counts nothing yet.

    Args:
      engine: of the run.
      chip: that receives them.
    """
    several = num_slices(engine.mesh.devices.flat) > 1
    self._slower = chip.interconnect / chip.network if several else 1.0
    self._model, self._mesh = engine.model, engine.mesh
    self._size = jnp.dtype(engine.model.dtype).itemsize
    weights = by_hand.weights(engine.model, engine.mesh)
    self._weights, self._of_experts = weights["all"], weights["experts"]
    self.of_fsdp = self._others("fsdp")

  def _others(self, axis: str) -> float:
    return 1 - 1 / self._mesh.shape[axis]

  def summed(self, tokens: float) -> float:
    """Returns those of a layer's two sums over `tensor`, of all tokens' rows.

    And of tokens that are sent to the devices that have their experts.

    Args:
      tokens: of all devices.
    """
    a_device = tokens / sharding.num_row_shards(self._mesh)
    rows = a_device * self._model.width * self._size
    experts = self._mesh.shape["expert"] - 1
    return rows * (4 * self._others("tensor") + 2 * experts)

  def passes(self, layout, count: float) -> tuple[float, float]:
    """Returns those of forward passes: of weights, of activations.

    Args:
      layout: of a micro-batch.
      count: passes over one.
    """
    layers = self._model.num_layers
    return (
      count * self._weights * self.of_fsdp,
      count * layers * self.summed(layout.tokens_per_microbatch),
    )

  def update(self, layout, turns: float) -> tuple[float, float]:
    """Returns those of an update, likewise; gradients count as weights.

    Args:
      layout: of a micro-batch.
      turns: micro-batches.
    """
    mesh = self._mesh.shape
    passes = turns * (2 + (self._model.remat == "full"))
    weights, activations = self.passes(layout, passes)
    scattered = self._weights * self.of_fsdp
    # Devices that share experts each have their own of them, and of the rest
    # a replica.
    replicas = (
      (mesh["data"], self._of_experts),
      (mesh["data"] * mesh["expert"], self._weights - self._of_experts),
    )
    summed = sum(2 * (1 - 1 / n) * part for n, part in replicas)
    summed *= self._slower / mesh["fsdp"]
    return weights + turns * (scattered + summed), activations
