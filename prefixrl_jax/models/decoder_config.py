"""The shape of a decoder: what its layers have in common, and what differs."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Rotary frequencies made lower, so that more positions can be told apart.

  "linear" divides all of them by `factor`. "llama3" leaves those alone that
  turn `high_freq_factor` times or more within `original_length`, divides those
  that turn `low_freq_factor` times or less, and goes smoothly in between.
  """

  kind: str  # "linear" or "llama3"
  factor: float
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_length: int = 8192


@dataclasses.dataclass(frozen=True)
class LayerKind:
  """In what the layers of a decoder may differ."""

  window: int | None = None  # positions a query sees, its own included
  rope_base: float | None = 10_000.0  # None: the layer knows no positions
  rope_scaling: RopeScaling | None = None

  @property
  def rope(self) -> tuple[float | None, RopeScaling | None]:
    """How the layer rotates queries and keys."""
    return self.rope_base, self.rope_scaling


@dataclasses.dataclass(frozen=True)
class Lora:
  """Which weights have an adapter, and of what size; see adapters.py."""

  rank: int
  alpha: float  # a product counts alpha / rank
  targets: tuple[str, ...]  # of a layer's weights

  @property
  def scale(self) -> float:
    return self.alpha / self.rank

  def of(self, config: "TransformerConfig") -> "TransformerConfig":
    """Returns the decoder with these adapters."""
    return dataclasses.replace(config, lora=self)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """The shape of a decoder; a model family is a row of these settings."""

  num_layers: int
  width: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_width: int  # with experts: of each of them
  vocab_size: int
  # "gated_silu", "gated_gelu" or "gelu"; gelu is the one by tanh.
  mlp: str = "gated_silu"
  num_experts: int = 0  # 0: one MLP for every token
  experts_per_token: int = 0
  # The weights of a token's experts sum to 1, not to their share of all.
  norm_expert_weights: bool = False
  rope_base: float = 10_000.0
  # One a layer; none: all see everything and rotate by rope_base.
  layer_kinds: tuple[LayerKind, ...] = ()
  qkv_bias: bool = False
  # Norm of queries and keys before they are rotated: "none", of each "head", or
  # over the "width" of all heads.
  qk_norm: str = "none"
  query_scale: float | None = None  # of scores; None: head_dim ** -0.5
  attention_soft_cap: float | None = None  # scores become cap * tanh(s / cap)
  final_soft_cap: float | None = None  # logits likewise
  # Norms of attention and MLP: "pre", on what comes in; "post", on what is
  # added to the residual; or "both".
  norms: str = "pre"
  norm_plus_one: bool = False  # norms scale by 1 + their parameter
  norm_eps: float = 1e-5
  embed_scale: float = 1.0
  tied_head: bool = False
  dtype: str = "float32"  # of activations
  param_dtype: str = "float32"
  # "full": recompute each layer in the backward pass; "auto": if need be.
  remat: str = "none"
  lora: Lora | None = None  # adapters are trained, and nothing else
  # Layers per step of the scan. XLA:CPU keeps what a loop saves for the
  # backward pass at half the speed of straight code.
  scan_unroll: int = 1

  def __post_init__(self):
    assert len(self.layer_kinds) in (0, self.num_layers), self.layer_kinds
    assert self.mlp in ("gated_silu", "gated_gelu", "gelu"), self.mlp
    assert self.qk_norm in ("none", "head", "width"), self.qk_norm
    assert self.norms in ("pre", "post", "both"), self.norms

  @property
  def kinds(self) -> tuple[LayerKind, ...]:
    """One a layer."""
    same = LayerKind(rope_base=self.rope_base)
    return self.layer_kinds or (same,) * self.num_layers

  @property
  def windows(self) -> tuple[int | None, ...]:
    """The different windows there are, in the order of their first layers."""
    return tuple(dict.fromkeys(kind.window for kind in self.kinds))

  @property
  def ropes(self) -> tuple[tuple[float | None, RopeScaling | None], ...]:
    """The different ropes there are, likewise."""
    return tuple(dict.fromkeys(kind.rope for kind in self.kinds))


class LayerFlags(NamedTuple):
  """In what a layer differs from the others, as data; both int [] or [L]."""

  rope: jax.Array | int  # an index of config.ropes
  window: jax.Array | int  # an index of config.windows


def layer_flags(config: TransformerConfig, i: int) -> LayerFlags:
  """Returns the flags of layer i, int [] each."""
  kind = config.kinds[i]
  return LayerFlags(
    config.ropes.index(kind.rope), config.windows.index(kind.window)
  )


def stacked_flags(config: TransformerConfig) -> LayerFlags | None:
  """Returns the flags of all layers, int [L] each; None: all the same."""
  if len(set(config.kinds)) == 1:
    return None
  layers = [layer_flags(config, i) for i in range(config.num_layers)]
  return jax.tree.map(lambda *x: jnp.stack([*map(jnp.asarray, x)]), *layers)


def frequencies(config: TransformerConfig):
  """Returns radians a position, float32 [ropes, H/2]."""
  half = config.head_dim // 2
  return jnp.stack([_frequency(*rope, half) for rope in config.ropes])


def _frequency(base: float | None, scaling: RopeScaling | None, half: int):
  if base is None:
    return jnp.zeros(half, jnp.float32)
  frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if scaling is None:
    return frequency
  if scaling.kind == "linear":
    return frequency / scaling.factor
  assert scaling.kind == "llama3", scaling
  rotations = frequency * scaling.original_length / (2 * math.pi)
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  kept = jnp.clip((rotations - low) / (high - low), 0, 1)
  return frequency * (kept + (1 - kept) / scaling.factor)
