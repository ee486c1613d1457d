"""Products by groups: rows that follow each other, times their own weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

from prefixrl_jax.distributed import backends

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Float, Int32

# Rows, inputs and outputs: a group has some hundred rows, and a tile of the
# gradient stays in vector memory while they pass.
_TILE = (256, 1024, 1024)


@jax.custom_vjp
def product(
  x: Float[Array, "n D"], w: Float[Array, "E D F"], sizes: Int32[Array, "E"]
) -> Float[Array, "n F"]:
  """Returns each group's rows times its weight; what comes after is undefined.

  Args:
    x: the groups, from the first row.
    w: a weight for each.
    sizes: of the groups.
  """
  return jax.lax.ragged_dot(x, w, sizes)


def _product_fwd(x, w, sizes):
  return product(x, w, sizes), (x, w, sizes)


def _product_bwd(kept, d_out):
  x, w, sizes = kept
  of_x = lambda x: jax.lax.ragged_dot(x, w, sizes)
  (d_x,) = jax.vjp(of_x, x)[1](d_out)
  if backends.current_backend().has_groups_kernel:
    return d_x, weights_gradient(x, d_out, sizes, w.dtype), None
  of_w = lambda w: jax.lax.ragged_dot(x, w, sizes)
  return d_x, *jax.vjp(of_w, w)[1](d_out), None


product.defvjp(_product_fwd, _product_bwd)


def weights_gradient(
  x: Float[Array, "n D"],
  d_out: Float[Array, "n F"],
  sizes: Int32[Array, "E"],
  dtype: Any,
  interpret: bool = False,
) -> Float[Array, "E D F"]:
  """Returns the gradient of `product` by its weights, from a kernel for TPU.

  Of `ragged_dot` libtpu makes a product of all rows for each weight.

  Args:
    x, sizes: as `product` took them.
    d_out: the cotangent of what it returned.
    dtype: of the gradient.
    interpret: run without a TPU, slowly.
  """
  # The kernel takes whole tiles of rows.
  beyond = -len(x) % _TILE[0]
  x, d_out = (jnp.pad(x, ((0, beyond), (0, 0))) for x in (x, d_out))
  shape = (len(x), x.shape[1], d_out.shape[1])
  tile = tuple(map(min, _TILE, shape))
  return tgmm(x.T, d_out, sizes, dtype, tile, interpret=interpret)
