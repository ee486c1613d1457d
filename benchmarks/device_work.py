"""The work that a device is given, and who else is given the same."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from benchmarks import ours, shapes
from prefixrl_jax.learner.packing import Tree
from prefixrl_jax.models import parameters
from prefixrl_jax.models.transformer import TransformerConfig


class Recorder(Protocol):
  """Writes a line of figures at once."""

  def __call__(self, **figures: Any) -> None: ...


@dataclasses.dataclass(frozen=True)
class Decoding:
  """Completions of full rows, timed at two lengths; their difference is steps.

  Attributes:
    rows: trunks that are sampled from at the same time.
    lanes: completions of each.
    trunk_length: tokens of a trunk.
    completion_length: tokens that caches have room for.
    short, long: new tokens of the two calls.
    peer_long: those of a peer's long call.
    steps_per_dispatch: between two synchronisations.
  """

  rows: int
  lanes: int
  trunk_length: int
  completion_length: int
  short: int
  long: int
  peer_long: int
  steps_per_dispatch: int = 128

  @property
  def shape(self) -> dict[str, int]:
    """What a sampler is made for."""
    names = ("rows", "lanes", "trunk_length", "completion_length")
    return {name: getattr(self, name) for name in names}

  def trunks(self, config: TransformerConfig, seed: int) -> np.ndarray:
    """Returns random tokens, int32 [rows, trunk_length]."""
    lengths = (1,) * (self.rows * self.lanes)
    unit = ours.Unit(self.rows, self.lanes, self.trunk_length, lengths)
    return ours.trunks_of(config, unit, seed)

  def figures(self, short: float, long: float) -> dict[str, float]:
    """Returns what two calls of that many seconds say."""
    step = (long - short) / (self.long - self.short)
    return {
      "ms_a_step": 1e3 * step,
      "tokens_per_second": self.rows * self.lanes / step,
      "prefill_and_first_ms": 1e3 * short,
      "new_tokens": self.long,
    }

  def bytes_a_step(self, config: TransformerConfig) -> float:
    """Returns what a step reads: weights once, trunks once a row; bfloat16."""
    c = config
    own = self.lanes * (self.short + self.long) / 2  # keys, on average
    keys = self.rows * (self.trunk_length + own)
    of_a_key = 2 * c.num_layers * c.num_kv_heads * c.head_dim
    return 2.0 * (parameters.num_params(c) + keys * of_a_key)


@dataclasses.dataclass(frozen=True)
class Updating:
  """A packed row that one tree fills: a trunk and its lanes."""

  trunk_length: int
  lanes: int
  completion_length: int

  def trees(self, config: TransformerConfig) -> list[Tree]:
    """Returns the tree, of random tokens and advantages."""
    forks = (self.trunk_length,)
    unit = (self.trunk_length, forks, self.lanes, self.completion_length, 1)
    return ours.make_trees(config, unit)


def _small(config: TransformerConfig) -> TransformerConfig:
  """A model of the same kind that a CPU runs at once."""
  return dataclasses.replace(
    config,
    num_layers=2,
    width=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_width=128,
    vocab_size=512,
  )


def _in_bfloat16(config: TransformerConfig, small: bool) -> TransformerConfig:
  config = dataclasses.replace(config, dtype="bfloat16")
  return _small(config) if small else config


def decodings(
  small: bool,
) -> Iterator[tuple[str, TransformerConfig, Decoding]]:
  """Yields models, the smaller first, and what they sample."""
  work = Decoding(8, 8, 1024, 512, 1, 257, 33)
  if small:
    work = Decoding(2, 2, 32, 16, 1, 9, 9, steps_per_dispatch=8)
  for name in ("smol", "qwen3"):
    yield name, _in_bfloat16(shapes.MODELS[name], small), work


def updates(small: bool) -> Iterator[tuple[str, TransformerConfig, Updating]]:
  """Yields models, the smaller first, and what they learn from."""
  work = Updating(16, 7, 16) if small else Updating(1024, 7, 1024)
  for name in ("smol", "qwen3"):
    yield name, _in_bfloat16(shapes.MODELS[name], small), work


def swept(small: bool) -> tuple[TransformerConfig, Decoding, Updating]:
  """Returns a shallow model, compiled soon, for what is tried one by one."""
  config = dataclasses.replace(shapes.QWEN3, num_layers=8)
  if small:
    decoding = Decoding(2, 2, 64, 16, 1, 9, 9, steps_per_dispatch=8)
    return _in_bfloat16(config, True), decoding, Updating(16, 7, 16)
  decoding = Decoding(8, 8, 4096, 512, 1, 257, 33)
  return _in_bfloat16(config, False), decoding, Updating(512, 7, 512)
