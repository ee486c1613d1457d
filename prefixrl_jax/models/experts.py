"""Mixture of experts: every token runs through the few experts it is sent to.

No token is ever dropped: what is sent to one expert is brought together, as
much as it is, and multiplied group by group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import grouped
from prefixrl_jax.rounding import ceil_div

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Bool, Float, Float32, Int32

# Tokens that a device's experts run through at a time. Each is there once for
# each of its experts, whether these are here or not: all at once would take
# most of a large model's memory. Of so many, a hundred experts get hundreds.
TOKENS_A_TURN = 8192
# What is kept for the backward pass: the tokens, not once for each expert that
# they are sent to, and the narrow products; of the weights a device's own part.
_keep = functools.partial(checkpoint_name, name="experts")
_keeping_little = functools.partial(
  jax.checkpoint,
  policy=jax.checkpoint_policies.save_only_these_names("experts"),
  prevent_cse=False,
)


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
  y: Float[Array, "*B D"],
  routes: Routes,
  up: tuple[Float[Array, "E D F"], ...],
  down: Float[Array, "E F D"],
  *,
  tokens: tuple[str, ...] = ("rows",),
  width: str | None = None,
) -> Float[Array, "*B D"]:
  """Returns the weighted sum of the experts' outputs, sharded like the tokens.

  On a mesh each device has its own experts and, with `tensor`, a part of their
  width. It gathers the tokens that its experts may be asked for, of all devices
  along these two axes; sums of outputs go back to the devices whose tokens they
  are. Gradients take the same ways back, so that none is summed where it is
  not needed.

  Args:
    activate: (*products with `up`) -> what `down` takes; all [tokens, F].
    y: the tokens.
    routes: of y's tokens.
    up: one or two weights.
    down: the weight of the output.
    tokens: logical axes of y, without its last.
    width: logical axis of the weights' D.
  """
  arrays = (y, routes.expert, routes.weight, up, down)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return _keeping_little(functools.partial(_run, activate))(*arrays)
  of_up = sharding.fitted(mesh, up[0].shape, "experts", width, "mlp")
  of_down = sharding.fitted(mesh, down.shape, "experts", "mlp", width)
  expert_axis, mlp_axis, width_axis = of_down
  # Where a device has experts' whole width, others have no part of its sums.
  tokens = tokens[: y.ndim - 1] if mlp_axis else tokens[:1]
  of_tokens = sharding.fitted(mesh, y.shape, *tokens)
  gather, add = _along(
    of_tokens, [axis for axis in (mlp_axis, expert_axis) if axis]
  )

  def one_device(y, expert, weight, up, down):
    y, expert, weight = (_keep(gather(x)) for x in (y, expert, weight))
    if width_axis:
      whole = functools.partial(jax.lax.all_gather, tiled=True)
      up = [whole(w, width_axis, axis=1) for w in up]
      down = whole(down, width_axis, axis=2)
    if expert_axis:
      # Those of other devices become too large, or negative.
      expert -= jax.lax.axis_index(expert_axis) * down.shape[0]
    return add(_run(activate, y, expert, weight, up, down))

  return jax.shard_map(
    _keeping_little(one_device),
    in_specs=(of_tokens,) * 3 + ((of_up,) * len(up), of_down),
    out_specs=of_tokens,
    check_vma=False,
  )(*arrays)


def _along(spec, mesh_axes):
  """Returns how tokens are brought together along mesh axes, and sums shared.

  Args:
    spec: of the tokens.
    mesh_axes: whose devices' tokens are gathered, and outputs summed.
  """

  def axis_of(mesh_axis):
    """Of the tokens, whose shards are along a mesh axis; None: none has."""
    is_here = lambda names: mesh_axis == names or mesh_axis in (names or ())
    return next((i for i, names in enumerate(spec) if is_here(names)), None)

  def gather(x):
    for mesh_axis in mesh_axes:
      axis = axis_of(mesh_axis)
      if axis is not None:
        x = jax.lax.all_gather(x, mesh_axis, axis=axis, tiled=True)
    return x

  def add(x):
    for mesh_axis in reversed(mesh_axes):
      axis = axis_of(mesh_axis)
      if axis is None:
        x = jax.lax.psum(x, mesh_axis)
      else:
        x = jax.lax.psum_scatter(
          x, mesh_axis, scatter_dimension=axis, tiled=True
        )
    return x

  return gather, add


def _run(activate, y, expert, weight, up, down):
  """One device's experts; numbers of those that are not here are no index."""
  tokens = y.reshape(-1, y.shape[-1])
  expert, weight = (x.reshape(-1, x.shape[-1]) for x in (expert, weight))
  some = functools.partial(_some_tokens, activate)
  turns = ceil_div(len(tokens), TOKENS_A_TURN)
  if turns == 1:
    return some(up, down, tokens, expert, weight).reshape(y.shape)
  # The weights' gradient is added up over turns: in full precision.
  wide = jax.tree.map(lambda w: w.astype(jnp.float32), (tuple(up), down))
  size = ceil_div(len(tokens), turns)
  beyond = size * turns - len(tokens)

  def in_turns(x, fill):
    x = jnp.pad(x, ((0, beyond), (0, 0)), constant_values=fill)
    return x.reshape(turns, size, x.shape[-1])

  @_keeping_little
  def one_turn(x):
    up, down = jax.tree.map(lambda w: w.astype(y.dtype), wide)
    return some(up, down, *x)

  in_order = in_turns(tokens, 0), in_turns(expert, -1), in_turns(weight, 0)
  out = jax.lax.map(one_turn, in_order)
  return out.reshape(-1, y.shape[-1])[: len(tokens)].reshape(y.shape)


def _some_tokens(activate, up, down, y, expert, weight):
  """tokens [n, D], experts [n, k], weights [n, k] -> outputs [n, D]."""
  sizes, place, order = map(_keep, _by_expert(expert, len(down)))
  # After the last group comes what is for other devices, and what products and
  # their gradients are there is not said.
  is_here = (jnp.arange(order.size) < jnp.sum(sizes))[:, None]
  here = lambda x: jnp.where(is_here, x, 0)
  sent = here(_ordered(y, order, place))
  products = (_keep(grouped.product(sent, w, sizes)) for w in up)
  inner = activate(*map(here, products))
  # Weighted before `down`, whose outputs are then not needed again.
  weight = _ordered(weight.reshape(-1, 1).astype(inner.dtype), order, place)
  out = here(grouped.product(here(inner * weight), down, sizes))
  out = _ordered(out, place, order).reshape(*expert.shape, -1)
  return jnp.sum(out, axis=1)


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
