"""The layers of the decoder: norm, rotary embedding, attention and MLP."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import experts
from prefixrl_jax.models.decoder_config import (
  LayerFlags,
  TransformerConfig,
  frequencies,
)
from prefixrl_jax.models.linear import Linear, rows_of

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Bool, Float, Float32, Int

  # Cosines and sines of tokens' angles, for each of the model's ropes.
  CosSin = tuple[Float32[Array, "ropes *B H/2"], Float32[Array, "ropes *B H/2"]]


class RMSNorm(nn.Module):
  """Root-mean-square norm over the last axes, computed in float32.

  [..., *axes] -> the same shape and dtype.
  """

  config: TransformerConfig
  axes: tuple[str, ...] = ("features",)

  @nn.compact
  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    plus_one = self.config.norm_plus_one
    initializer = nn.initializers.zeros if plus_one else nn.initializers.ones
    scale: Any = self.param(
      "scale",
      nn.with_logical_partitioning(initializer, self.axes),
      x.shape[-len(self.axes) :],
      jnp.dtype(self.config.param_dtype),
    )
    scale = scale.astype(jnp.float32)
    if plus_one:
      scale = 1 + scale
    x32 = x.astype(jnp.float32)
    over = tuple(range(-len(self.axes), 0))
    variance = jnp.mean(jnp.square(x32), axis=over, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(variance + self.config.norm_eps)
    return (x32 * scale).astype(x.dtype)


def rotary_cos_sin(
  config: TransformerConfig, position: Int[Array, "*B"]
) -> CosSin:
  """Returns cosines and sines of tokens' angles.

  They are to be computed outside the loop or program that has the layers:
  inside, XLA:CPU would fuse them with what uses them, and compute them, number
  by number, for every head.

  Args:
    config: TransformerConfig.
    position: of each token in its sequence.
  """
  by_rope = frequencies(config)
  by_rope = by_rope.reshape(len(by_rope), *[1] * position.ndim, -1)
  angle = position[..., None].astype(jnp.float32) * by_rope
  return jnp.cos(angle), jnp.sin(angle)


def rotate(
  x: Float[Array, "*B N H"],
  cos_sin: tuple[Float32[Array, "*B H/2"], Float32[Array, "*B H/2"]],
  scale: float = 1.0,
) -> Float[Array, "*B N H"]:
  """Applies the rotary embedding, halves layout.

  Args:
    x: queries or keys.
    cos_sin: of one of the ropes.
    scale: what the result is multiplied by.

  Returns:
    The rotated heads, in x's dtype.
  """
  cos, sin = (x[..., None, :] for x in cos_sin)
  x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)
  if scale != 1.0:
    rotated *= scale
  return rotated.astype(x.dtype)


class Block(nn.Module):
  """Attention and MLP, each with its norms and added to the residual.

  Attributes:
    config: TransformerConfig.
    attend: (q, k, v, window) -> (out, kept) decides what is seen, and what is
      kept of the keys and values (nothing, all of them, or an updated cache);
      q, out: [..., N, H]; k, v: [..., K, H]; window: an index of
      config.windows.
    axes: logical axes of the residual.
    linear: the memory layout of the weights.
  """

  config: TransformerConfig
  attend: Callable
  axes: tuple[str, ...] = ("rows", "residual", "features")
  linear: type[Linear] = Linear

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "*B D"],
    cos_sin: CosSin,
    flags: LayerFlags,
    valid: Bool[Array, "*B"] | None = None,
  ) -> tuple[Float[Array, "*B D"], Any]:
    """Runs the layer.

    Args:
      x: the residual before the layer.
      cos_sin: from `rotary_cos_sin`, of the tokens' positions.
      flags: of the layer.
      valid: tokens that count as the experts' load, which is left in the
        collection "load"; None: none do.

    Returns:
      The residual after the layer, and what `attend` kept.
    """
    y = self._norm_in("attention_norm", x)
    y, kept = self._attention(y, cos_sin, flags)
    x = x + self._norm_out("attention_post_norm", y)
    if self.config.num_experts:
      y = self._experts(self._norm_before("mlp_norm", x), valid)
    else:
      y = self._mlp(self._norm_in("mlp_norm", x))
    return x + self._norm_out("mlp_post_norm", y), kept

  def _attention(self, y, cos_sin, flags):
    c, linear = self.config, self._linear
    cos_sin = jax.tree.map(lambda x: x[flags.rope], cos_sin)
    embed = {"embed": c.width}
    heads = {"heads": c.num_heads, "head_dim": c.head_dim}
    kv_heads = {"kv_heads": c.num_kv_heads, "head_dim": c.head_dim}
    q = linear("query", y, embed, heads, bias=c.qkv_bias)
    q = self._qk_norm("query_norm", q, heads)
    k = linear("key", y, embed, kv_heads, bias=c.qkv_bias)
    k = self._qk_norm("key_norm", k, kv_heads)
    v = linear("value", y, embed, kv_heads, bias=c.qkv_bias)
    # Attention scales by the head's size; the rest is the queries' own.
    scale = 1.0
    if c.query_scale is not None:
      scale = c.query_scale * math.sqrt(c.head_dim)
    q, k = rotate(q, cos_sin, scale), rotate(k, cos_sin)
    out, kept = self.attend(q, k, v, flags.window)
    return linear("output", out, heads, embed), kept

  def _mlp(self, y):
    c, linear = self.config, self._linear
    embed, hidden = {"embed": c.width}, {"mlp": c.mlp_width}
    names = ("up", "gate") if c.mlp.startswith("gated") else ("up",)
    activate = jax.checkpoint(activation(c.mlp), prevent_cse=False)
    inner = linear.activated(activate, names, y, embed, hidden)
    return linear("down", inner, hidden, embed)

  def _experts(self, y, valid):
    c = self.config
    count = {"routes": c.num_experts}
    logits = self._linear("router", y, {"embed": c.width}, count)
    routes = experts.route(c, logits)
    if valid is not None:
      self.sow("load", "experts", experts.load(routes, valid))
    width, hidden = ("embed", c.width), ("mlp", c.mlp_width)
    up = [self._expert_weights("expert_up", width, hidden)]
    if c.mlp.startswith("gated"):
      up.append(self._expert_weights("expert_gate", width, hidden))
    down = self._expert_weights("expert_down", hidden, width)
    out = experts.run(
      activation(c.mlp),
      y,
      routes,
      tuple(up),
      down,
      tokens=self.axes[:-1],
      width=self.linear.width_axis,
    )
    return sharding.constrain(out, *self.axes)

  def _expert_weights(self, name, inputs, outputs):
    """Weights [E, inputs, outputs]; both are (logical axis, size)."""
    c = self.config
    names = ("experts", inputs[0], outputs[0])
    sizes = (c.num_experts, inputs[1], outputs[1])
    initializer = nn.initializers.normal(inputs[1] ** -0.5)
    weight: Any = self.param(
      name,
      nn.with_logical_partitioning(initializer, names),
      sizes,
      jnp.dtype(c.param_dtype),
    )
    return weight.astype(c.dtype)

  @property
  def _linear(self) -> Linear:
    return self.linear(self, self.axes)

  def _norm_in(self, name, x):
    # Gathered once for all heads, where the residual's tokens are shared out.
    x = self._norm_before(name, x)
    return sharding.constrain(x, *rows_of(self.axes), "features")

  def _norm_before(self, name, x):
    return x if self.config.norms == "post" else self._norm(name)(x)

  def _norm_out(self, name, y):
    return y if self.config.norms == "pre" else self._norm(name)(y)

  def _qk_norm(self, name, x, heads):
    if self.config.qk_norm == "none":
      return x
    is_wide = self.config.qk_norm == "width"
    return self._norm(name, tuple(heads) if is_wide else ("head_dim",))(x)

  def _norm(self, name, axes=("features",)):
    """What is cheap is computed again in the backward pass, not kept for it."""
    return nn.remat(RMSNorm, prevent_cse=False)(self.config, axes, name=name)


def activation(mlp: str) -> Callable:
  """Returns (up, gate) or (up,) -> what `down` takes; all [..., F]."""
  if mlp == "gelu":
    return jax.nn.gelu
  gelu_or_silu: Callable = jax.nn.silu if mlp == "gated_silu" else jax.nn.gelu
  return lambda up, gate: gelu_or_silu(gate) * up
