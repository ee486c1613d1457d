"""Mixture of experts: every token runs through the few experts it is sent to.

No token is ever dropped: what is sent to one expert is brought together, as
much as it is, and multiplied group by group (`jax.lax.ragged_dot`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from prefixrl_jax.distributed import sharding

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Bool, Float, Float32, Int32


class Routes(NamedTuple):
  """Where tokens are sent."""

  probs: Float32[Array, "*B E"]
  expert: Int32[Array, "*B k"]  # different ones
  weight: Float32[Array, "*B k"]  # of the experts' outputs


def route(config, logits: Float[Array, "*B E"]) -> Routes:
  """Sends each token to the experts with the largest logits.

  Args:
    config: TransformerConfig.
    logits: of the router.
  """
  probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
  # One after another: XLA is slow to compile a sort for TPU, and these few
  # passes take no time beside the experts.
  left, chosen = probs, []
  for _ in range(config.experts_per_token):
    chosen.append(jnp.argmax(left, axis=-1).astype(jnp.int32))
    is_chosen = jnp.arange(config.num_experts) == chosen[-1][..., None]
    left = jnp.where(is_chosen, -1.0, left)
  expert = jnp.stack(chosen, axis=-1)
  weight = jnp.take_along_axis(probs, expert, axis=-1)
  if config.norm_expert_weights:
    weight /= jnp.sum(weight, axis=-1, keepdims=True)
  return Routes(probs, expert, weight)


def load(routes: Routes, valid: Bool[Array, "*B"]) -> Float32[Array, "2 E"]:
  """Returns what each expert is sent, and how likely it was.

  Both are sums over tokens, so those of several batches may be added up.

  Args:
    routes: of tokens.
    valid: tokens that count.
  """
  sent = jax.nn.one_hot(routes.expert, routes.probs.shape[-1]).mean(-2)
  both = jnp.stack([sent, routes.probs])
  over_tokens = tuple(range(1, 1 + valid.ndim))
  return jnp.sum(jnp.where(valid[..., None], both, 0.0), axis=over_tokens)


def balance(load: Float32[Array, "*B 2 E"]) -> Float32[Array, "*B"]:
  """Returns how unevenly experts are used: 1 is evenly, E is one for all.

  E times the sum over experts of their share of what is sent and their mean
  probability (Switch Transformer, arXiv 2101.03961, equation 4).

  Args:
    load: from the function of that name.
  """
  share = load / jnp.sum(load, axis=-1, keepdims=True)
  return load.shape[-1] * jnp.sum(jnp.prod(share, axis=-2), axis=-1)


def run(
  activate: Callable,
  y: Float[Array, "B *T D"],
  routes: Routes,
  up: tuple[Float[Array, "E D F"], ...],
  down: Float[Array, "E F D"],
) -> Float[Array, "B *T D"]:
  """Returns the weighted sum of the experts' outputs.

  On a mesh each device has its own experts and, with `tensor`, a part of their
  width. Rows are gathered along `expert`, so that every device sees all tokens
  that its experts may be asked for.

  Args:
    activate: (*products with `up`) -> what `down` takes; all [tokens, F].
    y: the tokens.
    routes: of y's tokens.
    up: one or two weights.
    down: the weight of the output.
  """
  local = functools.partial(_run, activate)
  arrays = (y, routes.expert, routes.weight, up, down)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(*arrays)
  rows = sharding.fitted(mesh, y.shape, "rows")
  of_up = sharding.fitted(mesh, up[0].shape, "experts", None, "mlp")
  of_down = sharding.fitted(mesh, down.shape, "experts", "mlp", None)
  expert_axis, width_axis, _ = of_down
  is_shared_out = rows[0] is not None and expert_axis in rows[0]

  def one_device(y, expert, weight, up, down):
    if expert_axis and is_shared_out:
      y, expert, weight = (
        jax.lax.all_gather(x, expert_axis, tiled=True)
        for x in (y, expert, weight)
      )
    if expert_axis:
      # Those of other devices become too large, or negative.
      expert -= jax.lax.axis_index(expert_axis) * down.shape[0]
    out = local(y, expert, weight, up, down)
    if width_axis:
      out = jax.lax.psum(out, width_axis)
    if expert_axis and is_shared_out:
      return jax.lax.psum_scatter(out, expert_axis, tiled=True)
    return jax.lax.psum(out, expert_axis) if expert_axis else out

  return jax.shard_map(
    one_device,
    in_specs=(rows, rows, rows, (of_up,) * len(up), of_down),
    out_specs=rows,
    check_vma=False,
  )(*arrays)


def _run(activate, y, expert, weight, up, down):
  """One device's experts; numbers of those that are not here are no index."""
  per_token, num_experts = expert.shape[-1], down.shape[0]
  num_sent = math.prod(expert.shape)
  expert = expert.reshape(-1, per_token)
  sizes, place, order = _by_expert(expert, num_experts)
  # After the last group comes what is for other devices.
  is_here = (jnp.arange(num_sent) < jnp.sum(sizes))[:, None]
  sent = _ordered(y.reshape(-1, y.shape[-1]), order, place)
  sent = jnp.where(is_here, sent, 0)
  inner = [jax.lax.ragged_dot(sent, w, sizes) for w in up]
  inner = jax.checkpoint(activate, prevent_cse=False)(*inner)
  out = jnp.where(is_here, jax.lax.ragged_dot(inner, down, sizes), 0)
  out = _ordered(out, place, order).reshape(*expert.shape, -1)
  weight = weight.reshape(*expert.shape, 1).astype(out.dtype)
  return jnp.sum(out * weight, axis=1).reshape(y.shape)


def _by_expert(expert, num_experts):
  """Brings together what is sent to one expert, in the tokens' order.

  A stable sort, without one: see `block_map.true_first`.

  Args:
    expert: int [tokens, k]; what is outside [0, num_experts) comes last.
    num_experts: E.

  Returns:
    sizes [E], how much each is sent; place, order: int32 [tokens k], each
    other's inverse.
  """
  is_here = (expert >= 0) & (expert < num_experts)
  known = jnp.where(is_here, expert, num_experts)
  sent = jax.nn.one_hot(known.ravel(), num_experts + 1, dtype=jnp.int32)
  sent = sent.reshape(*expert.shape, -1)
  # Only those of other devices may be several of one token's.
  of_token = jnp.sum(sent, axis=1)
  sizes = jnp.sum(of_token, axis=0)
  first = jnp.cumsum(sizes) - sizes + jnp.cumsum(of_token, axis=0) - of_token
  within = jnp.sum((jnp.cumsum(sent, axis=1) - sent) * sent, axis=-1)
  place = jnp.take_along_axis(first, known, axis=1) + within
  place = place.ravel()
  index = jnp.arange(place.size, dtype=jnp.int32)
  order = jnp.zeros_like(place).at[place].set(index, unique_indices=True)
  return sizes[:-1], place, order


@jax.custom_vjp
def _ordered(x, order, place):
  """Returns x's rows in an order, every row as often as there is room for.

  The gradient is gathered too: scattered, it would be slower.

  Args:
    x: [n, D].
    order: int [n m], of x's rows repeated m times each.
    place: its inverse.
  """
  return x[order // (order.size // x.shape[0])]


def _ordered_fwd(x, order, place):
  return _ordered(x, order, place), (place, x.shape)


def _ordered_bwd(kept, d_out):
  place, shape = kept
  d_x = d_out[place].reshape(shape[0], -1, shape[1])
  return jnp.sum(d_x, axis=1), None, None


_ordered.defvjp(_ordered_fwd, _ordered_bwd)
