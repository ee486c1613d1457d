"""Which blocks of keys a block of queries needs, found on the device.

The map is exact: a block is active if and only if it holds a pair that the
rule of `attention.sees` lets see each other. A kernel does not walk the map
but a list of visits, one for each active block, so that its grid is as long as
there is work to do.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from prefixrl_jax.batches import Array
from prefixrl_jax.models import attention

# A visit is one int32, since scalar memory is small: outer block, inner block
# and these flags.
ACTIVE, FIRST, LAST, NEW_MASK = 1, 2, 4, 8
_FLAG_BITS, _BLOCK_BITS = 4, 13


class BlockMap(NamedTuple):
  """What the blocks of queries need of the blocks of keys."""

  active: Array  # bool [B, nq, nk], some pair is visible
  full: Array  # bool [B, nq, nk], every pair is visible


@flax.struct.dataclass
class Visits:
  """The blocks of each row in the order in which a kernel takes them.

  All active blocks of the first outer block, then those of the second, and so
  on. An outer block without any is visited once, inactive, to write its zeros.
  """

  code: Array  # int32 [B, S], S = outer blocks x inner blocks
  count: Array  # int32 [B], visits that count; the others repeat the last one


@flax.struct.dataclass
class BlockSchedule:
  """The visits of all kernels, and what they were made for."""

  by_query: Visits  # outer blocks are queries: forward, dq
  by_key: Visits  # outer blocks are keys: dk, dv
  block_q: int = flax.struct.field(pytree_node=False)
  block_kv: int = flax.struct.field(pytree_node=False)
  window: int | None = flax.struct.field(pytree_node=False)


class Skipped(NamedTuple):
  """Shares of blocks that are never touched, over all rows."""

  of_all: Array  # float32 [], of the whole square
  of_causal: Array  # float32 [], of the blocks that causal attention takes


def outer_of(code):
  """Returns the outer block of visits; code: int32 [...], as in `Visits`."""
  return code >> (_FLAG_BITS + _BLOCK_BITS)


def inner_of(code):
  """Returns the inner block of visits; code: int32 [...], as in `Visits`."""
  return (code >> _FLAG_BITS) & (2**_BLOCK_BITS - 1)


def pad_to_multiple(x, size: int, axis: int = -1):
  """Returns x with zeros after it along `axis`, to a multiple of `size`.

  Args:
    x: [..., n, ...], n on `axis`.
    size: n becomes the next multiple of it.
    axis: which one is padded.
  """
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % size)
  return jnp.pad(x, widths)


def block_map(
  tree, branch, position, fork, *, block_q, block_kv, window=None
) -> BlockMap:
  """Compares all pairs, one block of queries at a time; [T, T] never exists.

  Args:
    tree, branch, position, fork: int [B, T], as in TrainBatch.
    block_q, block_kv: tokens in a block; the last ones may stick out.
    window: as in `attention.visible`.
  """
  places = jnp.stack([tree, branch, position, fork])
  key = pad_to_multiple(places, block_kv)[:, :, None]
  query = pad_to_multiple(places, block_q)
  query = query.reshape(*query.shape[:2], -1, block_q)

  def one(query):
    seen = attention.sees(query[..., None], key, window)
    blocks = lambda x: x.reshape(x.shape[0], -1, block_kv)
    return blocks(seen.any(1)).any(-1), blocks(seen.all(1)).all(-1)

  active, full = jax.lax.map(one, jnp.moveaxis(query, 2, 0))
  return BlockMap(jnp.moveaxis(active, 0, 1), jnp.moveaxis(full, 0, 1))


def true_first(mask):
  """Returns the order that puts what is true first, and each one's new place.

  A stable sort, without one: XLA takes minutes to compile those for TPU.

  Args:
    mask: bool [B, N].

  Returns:
    order, place: int32 [B, N], each other's inverse.
  """
  count = lambda x: jnp.cumsum(x, axis=1, dtype=jnp.int32)
  num_true = jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.int32)
  place = jnp.where(mask, count(mask), num_true + count(~mask)) - 1
  row = jnp.arange(mask.shape[0])[:, None]
  index = jnp.arange(mask.shape[1], dtype=jnp.int32)
  order = jnp.zeros_like(place).at[row, place].set(index, unique_indices=True)
  return order, place


def make_visits(active, full) -> Visits:
  """Lists the active blocks of each row.

  Args:
    active, full: bool [B, outer blocks, inner blocks].
  """
  rows, num_outer, num_inner = active.shape
  assert max(num_outer, num_inner) <= 2**_BLOCK_BITS, active.shape
  flat = lambda x: x.reshape(rows, -1)
  take = lambda x, index: jnp.take_along_axis(x, index, axis=1)
  is_first_inner = jnp.arange(num_inner)[None, None] == 0
  needs_zeros = ~active.any(-1, keepdims=True) & is_first_inner
  visited = flat(active | needs_zeros)
  count = visited.sum(-1, dtype=jnp.int32)

  step = jnp.arange(visited.shape[1], dtype=jnp.int32)[None]
  last_step = count[:, None] - 1
  order, _ = true_first(visited)
  order = take(order, jnp.minimum(step, last_step))
  is_active = take(flat(active), order) & (step <= last_step)
  is_full = take(flat(full), order) & is_active
  outer, inner = order // num_inner, order % num_inner
  # Without work to do, stay at the block that is already there.
  inner = take(inner, jax.lax.cummax(jnp.where(is_active, step, 0), axis=1))

  changes = outer[:, 1:] != outer[:, :-1]
  edge = jnp.ones((rows, 1), bool)
  before = jnp.concatenate([~edge, is_full[:, :-1]], axis=1)
  code = (outer << _BLOCK_BITS | inner) << _FLAG_BITS
  for flag, holds in (
    (ACTIVE, is_active),
    (FIRST, jnp.concatenate([edge, changes], axis=1)),
    (LAST, jnp.concatenate([changes, ~edge], axis=1) | (step == last_step)),
    # The mask of a full block serves the full blocks right after it.
    (NEW_MASK, is_active & ~(is_full & before)),
  ):
    code |= jnp.where(holds, flag, 0)
  return Visits(code, count)


def make_block_schedule(
  tree, branch, position, fork, *, block_q, block_kv, window=None
) -> BlockSchedule:
  """Returns what the kernels walk; one serves all layers of a forward pass.

  Args:
    tree, branch, position, fork, block_q, block_kv, window: as in `block_map`.
  """
  sizes = dict(block_q=block_q, block_kv=block_kv, window=window)
  blocks = block_map(tree, branch, position, fork, **sizes)
  by_key = [x.swapaxes(1, 2) for x in blocks]
  return BlockSchedule(make_visits(*blocks), make_visits(*by_key), **sizes)


def skipped(active, *, block_q, block_kv) -> Skipped:
  """Returns the share of blocks that the map saves.

  Args:
    active: bool [B, nq, nk], from `block_map`.
    block_q, block_kv: what it was made with.
  """
  rows, num_q, num_kv = active.shape
  last_query = (jnp.arange(num_q) + 1) * block_q - 1
  first_key = jnp.arange(num_kv) * block_kv
  causal = jnp.sum(first_key[None] <= last_query[:, None])
  taken = jnp.sum(active) / rows
  return Skipped(1 - taken / (num_q * num_kv), 1 - taken / causal)
