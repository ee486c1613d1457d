"""The layers of the decoder: norm, rotary embedding, attention and MLP."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import experts
from prefixrl_jax.models.decoder_config import (
  OfLayer,
  TransformerConfig,
  frequencies,
)

# Up to here, turning a product costs less than what it gains.
_FEW_TOKENS = 128


class RMSNorm(nn.Module):
  """Root-mean-square norm over the last axes, computed in float32."""

  config: TransformerConfig
  axes: tuple[str, ...] = ("features",)

  @nn.compact
  def __call__(self, x):
    plus_one = self.config.norm_plus_one
    start = nn.initializers.zeros if plus_one else nn.initializers.ones
    scale: Any = self.param(
      "scale",
      nn.with_logical_partitioning(start, self.axes),
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


def rotations(config: TransformerConfig, position):
  """Returns cosines and sines of tokens' angles, [ropes, ..., H/2] each.

  To be handed over the border of a loop or a program to the layers: inside,
  XLA:CPU would fuse them with what uses them, and compute them, number by
  number, for every head.

  Args:
    config: TransformerConfig.
    position: [...].
  """
  of_ropes = frequencies(config)
  of_ropes = of_ropes.reshape(len(of_ropes), *[1] * position.ndim, -1)
  angle = position[..., None].astype(jnp.float32) * of_ropes
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x, rotation, scale: float = 1.0):
  """Rotary embedding, halves layout.

  Args:
    x: [..., N, H].
    rotation: cosines and sines of one of `rotations`, [..., H/2].
    scale: what the result is multiplied by.
  """
  cos, sin = (x[..., None, :] for x in rotation)
  x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)
  if scale != 1.0:
    rotated *= scale
  return rotated.astype(x.dtype)


def merged(config, weight, adapter):
  """Returns one layer's weight with its adapter added in, in float32."""
  product = jnp.tensordot(adapter["a"], adapter["b"], axes=1)
  return weight.astype(jnp.float32) + config.lora.scale * product


class Block(nn.Module):
  """Attention and MLP, each behind a norm and added to the residual.

  `attend(q, k, v, window) -> (out, kept)` decides what is seen and what is
  kept of the keys and values (nothing, all of them, or an updated cache);
  window is an index of config.windows. `turns` are `rotations` of the tokens;
  of those that are `valid`, experts say what they were sent (the collection
  "load"). `axes` are those of the residual. With `outputs_first`, weights are
  `unstack`'s matrices; with `tokens_last` too, the MLP is [features, tokens]
  inside. (Prefill's is not: how XLA:CPU sums `down` would depend on the tokens'
  number, and a trunk's keys on the trunks beside it.)
  """

  config: TransformerConfig
  attend: Callable
  axes: tuple[str, ...] = ("rows", "residual", "features")
  outputs_first: bool = False
  tokens_last: bool = False

  def _weight(self, name, inputs, outputs):
    """Returns [*inputs, *outputs], or a matrix if outputs are first.

    Both are {logical axis: size}.
    """
    c = self.config
    fan_in = math.prod(inputs.values())
    shape, axes = (*inputs.values(), *outputs.values()), (*inputs, *outputs)
    if self.outputs_first:
      shape, axes = (math.prod(outputs.values()), fan_in), (None, None)
    weight: Any = self.param(
      name,
      nn.with_logical_partitioning(nn.initializers.normal(fan_in**-0.5), axes),
      shape,
      jnp.dtype(c.param_dtype),
    )
    return weight.astype(c.dtype)

  def _project(self, name, y, inputs, outputs):
    """y [..., *inputs] -> [..., *outputs]; see `_weight`."""
    c = self.config
    weight = self._weight(name, inputs, outputs)
    if not self.outputs_first:
      out = jnp.tensordot(y, weight, axes=len(inputs))
      if self.has_variable("adapters", name):
        adapter: Any = self.get_variable("adapters", name)
        thin = jnp.tensordot(y, adapter["a"].astype(c.dtype), axes=len(inputs))
        wide = jnp.tensordot(thin, adapter["b"].astype(c.dtype), axes=1)
        assert c.lora is not None
        out += c.lora.scale * wide
    else:
      lead = y.shape[: y.ndim - len(inputs)]
      out = outputs_first_product(weight, y).T
      out = out.reshape(*lead, *outputs.values())
    if "embed" in outputs:
      return sharding.constrain(out, *self.axes)
    return sharding.constrain(out, self.axes[0], None, *outputs)

  def _biased(self, name, y, axes):
    """Adds a bias of each head."""
    bias: Any = self.param(
      name,
      nn.with_logical_partitioning(nn.initializers.zeros, axes),
      y.shape[-2:],
      jnp.dtype(self.config.param_dtype),
    )
    return y + bias.astype(y.dtype)

  def _norm(self, name, axes=("features",)):
    """What is cheap is computed again in the backward pass, not kept for it."""
    return nn.remat(RMSNorm, prevent_cse=False)(self.config, axes, name=name)

  def _incoming(self, name, x):
    if self.config.norms != "post":
      x = self._norm(name)(x)
    # Gathered once for all heads, where the residual's tokens are shared out.
    return sharding.constrain(x, self.axes[0], None, "features")

  def _outgoing(self, name, y):
    return y if self.config.norms == "pre" else self._norm(name)(y)

  @nn.compact
  def __call__(self, x, turns, own: OfLayer, valid=None):
    y = self._incoming("attention_norm", x)
    turn = jax.tree.map(lambda x: x[own.rope], turns)
    q, k, v = self._queries_keys_values(y, turn)
    out, kept = self.attend(q, k, v, own.window)
    c = self.config
    heads = {"heads": c.num_heads, "head_dim": c.head_dim}
    y = self._project("output", out, heads, {"embed": c.width})
    x = x + self._outgoing("attention_post_norm", y)
    y = self._mlp(self._incoming("mlp_norm", x), valid)
    return x + self._outgoing("mlp_post_norm", y), kept

  def _queries_keys_values(self, y, turn):
    c = self.config
    made = []
    for name, axis, size in (
      ("query", "heads", c.num_heads),
      ("key", "kv_heads", c.num_kv_heads),
      ("value", "kv_heads", c.num_kv_heads),
    ):
      heads = {axis: size, "head_dim": c.head_dim}
      one = self._project(name, y, {"embed": c.width}, heads)
      if c.qkv_bias:
        one = self._biased(f"{name}_bias", one, tuple(heads))
      if c.qk_norm != "none" and name != "value":
        axes = tuple(heads) if c.qk_norm == "width" else ("head_dim",)
        one = self._norm(f"{name}_norm", axes)(one)
      made.append(one)
    q, k, v = made
    # Attention scales by the head's size; the rest is the queries' own.
    scale = 1.0
    if c.query_scale is not None:
      scale = c.query_scale * math.sqrt(c.head_dim)
    return rotate(q, turn, scale), rotate(k, turn), v

  def _mlp(self, y, valid):
    c = self.config
    if c.num_experts:
      return self._experts(y, valid)
    width, hidden = {"embed": c.width}, {"mlp": c.mlp_width}
    names = ("up", "gate") if c.mlp.startswith("gated") else ("up",)
    activate = jax.checkpoint(activation(c.mlp), prevent_cse=False)
    if self.tokens_last:
      # Turned when it is done: XLA:CPU does not vectorize what it also turns.
      weights = [self._weight(name, width, hidden) for name in names]
      inner = activate(*(outputs_first_product(w, y) for w in weights)).T
      inner = inner.reshape(*y.shape[:-1], c.mlp_width)
      inner = sharding.constrain(inner, self.axes[0], None, *hidden)
    else:
      inner = activate(*(self._project(n, y, width, hidden) for n in names))
    return self._project("down", inner, hidden, width)

  def _experts(self, y, valid):
    c = self.config
    count = {"routes": c.num_experts}
    scores = self._project("router", y, {"embed": c.width}, count)
    routes = experts.route(c, scores)
    if valid is not None:
      self.sow("load", "experts", experts.load(routes, valid))
    width, hidden = ("embed", c.width), ("mlp", c.mlp_width)
    up = [self._expert_weights("expert_up", width, hidden)]
    if c.mlp.startswith("gated"):
      up.append(self._expert_weights("expert_gate", width, hidden))
    down = self._expert_weights("expert_down", hidden, width)
    out = experts.run(activation(c.mlp), y, routes, tuple(up), down)
    return sharding.constrain(out, *self.axes)

  def _expert_weights(self, name, inputs, outputs):
    """Weights [E, inputs, outputs]; both are (logical axis, size)."""
    c = self.config
    names = ("experts", inputs[0], outputs[0])
    sizes = (c.num_experts, inputs[1], outputs[1])
    start = nn.initializers.normal(inputs[1] ** -0.5)
    weight: Any = self.param(
      name,
      nn.with_logical_partitioning(start, names),
      sizes,
      jnp.dtype(c.param_dtype),
    )
    return weight.astype(c.dtype)


def activation(mlp: str) -> Callable:
  """Returns (up, gate) or (up,) -> what `down` takes."""
  if mlp == "gelu":
    return jax.nn.gelu
  gelu_or_silu: Callable = jax.nn.silu if mlp == "gated_silu" else jax.nn.gelu
  return lambda up, gate: gelu_or_silu(gate) * up


def outputs_first_product(weight, y, dtype=None):
  """weight [outputs, inputs], y [..., inputs] -> [outputs, tokens], y's dtype.

  XLA:CPU multiplies a few tokens by a large matrix half as fast again with the
  weight first, and for TPU it need not move the weights before the decode
  loop. The barrier keeps the compiler from turning it back.
  """
  contract_last = (((1,), (1,)), ((), ()))
  product = functools.partial(
    jax.lax.dot_general,
    dimension_numbers=contract_last,
    preferred_element_type=jnp.float32,
  )
  dtype = dtype or y.dtype
  y = y.reshape(-1, weight.shape[1])
  if len(y) > _FEW_TOKENS:
    return product(y, weight).astype(dtype).T
  return jax.lax.optimization_barrier(product(weight, y)).astype(dtype)
