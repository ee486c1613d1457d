"""Products with weights, in the memory layout that suits who runs them.

A layer says `linear(name, x, inputs, outputs)`, whoever runs it: the learner
(`Linear`, with adapters beside the weights), the sampler's prefill
(`OutputsFirst`) or its decode step (`TokensLast`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from prefixrl_jax.distributed import sharding

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Float, Float32

# Up to here, transposing a product costs less than what it gains.
_FEW_TOKENS = 128


def rows_of(axes: tuple[str, ...]) -> tuple[str | None, ...]:
  """Returns the logical axes of what has all tokens of its rows.

  Args:
    axes: of the residual.
  """
  return ("rows", *[None] * (len(axes) - 2))


@dataclasses.dataclass(frozen=True)
class Linear:
  """Weights [*inputs, *outputs], as they are trained, and their adapters.

  Attributes:
    module: whose parameters they are; has a TransformerConfig.
    axes: logical axes of the residual.
  """

  module: nn.Module
  axes: tuple[str, ...]
  # Logical axis of the model's width in a weight.
  width_axis: ClassVar[str | None] = "embed"

  def __call__(
    self,
    name: str,
    x: Float[Array, "..."],
    inputs: dict[str, int],
    outputs: dict[str, int],
    *,
    bias: bool = False,
  ) -> Float[Array, "..."]:
    """Returns x times a weight, sharded like the residual or by its outputs.

    Args:
      name: of the weight.
      x: [..., *inputs].
      inputs, outputs: {logical axis: size}.
      bias: whether to add one, of the parameter NAME_bias.

    Returns:
      [..., *outputs], in x's dtype.
    """
    out = self._constrain(self._product(name, x, inputs, outputs), outputs)
    if not bias:
      return out
    added = self._param(
      f"{name}_bias", nn.initializers.zeros, tuple(outputs), outputs.values()
    )
    return out + added.astype(out.dtype)

  def activated(
    self,
    activate: Callable,
    names: tuple[str, ...],
    x: Float[Array, "..."],
    inputs: dict[str, int],
    outputs: dict[str, int],
  ) -> Float[Array, "..."]:
    """Returns `activate(*products)`, elementwise, of x with several weights.

    Args:
      activate: takes as many products as there are names.
      names: of the weights.
      x: [..., *inputs].
      inputs, outputs: {logical axis: size}.

    Returns:
      [..., *outputs], in x's dtype.
    """
    return activate(*(self(name, x, inputs, outputs) for name in names))

  def _product(self, name, x, inputs, outputs):
    config: Any = self.module.config
    weight = self._weight(name, inputs, outputs)
    out = jnp.tensordot(x, weight, axes=len(inputs))
    if self.module.has_variable("adapters", name):
      adapter: Any = self.module.get_variable("adapters", name)
      a, b = adapter["a"], adapter["b"]
      thin = jnp.tensordot(x, a.astype(config.dtype), axes=len(inputs))
      wide = jnp.tensordot(thin, b.astype(config.dtype), axes=1)
      out += config.lora.scale * wide
    return out

  def _weight(self, name, inputs, outputs):
    shape, axes = self._shape_and_axes(inputs, outputs)
    fan_in = math.prod(inputs.values())
    initializer = nn.initializers.normal(fan_in**-0.5)
    weight = self._param(name, initializer, axes, shape)
    return weight.astype(self.module.config.dtype)

  def _shape_and_axes(self, inputs, outputs):
    return (*inputs.values(), *outputs.values()), (*inputs, *outputs)

  def _param(self, name, initializer, axes, shape) -> Any:
    return self.module.param(
      name,
      nn.with_logical_partitioning(initializer, axes),
      tuple(shape),
      jnp.dtype(self.module.config.param_dtype),
    )

  def _constrain(self, out, outputs):
    if "routes" in outputs:
      return sharding.constrain(out, *self.axes)
    if "embed" not in outputs:
      return sharding.constrain(out, *rows_of(self.axes), *outputs)
    # What is summed has its rows, and then its tokens: told of these alone, XLA
    # brings the rows of all devices together.
    out = sharding.constrain(out, *rows_of(self.axes), "features")
    return sharding.constrain(out, *self.axes)


class OutputsFirst(Linear):
  """Weights are `parameters.unstack`'s matrices [outputs, inputs]."""

  width_axis = None

  def _product(self, name, x, inputs, outputs):
    weight = self._weight(name, inputs, outputs)
    out = outputs_first_product(weight, x).T
    return out.reshape(*x.shape[: x.ndim - len(inputs)], *outputs.values())

  def _shape_and_axes(self, inputs, outputs):
    shape = math.prod(outputs.values()), math.prod(inputs.values())
    return shape, (None, None)


class TokensLast(OutputsFirst):
  """Products stay [outputs, tokens] until they are activated.

  Not for prefill: how XLA:CPU sums the product after that would depend on the
  number of tokens, and so a trunk's keys on the trunks beside it.
  """

  def activated(self, activate, names, x, inputs, outputs):
    # Transposed afterwards: XLA:CPU does not vectorize what it also transposes.
    weights = [self._weight(name, inputs, outputs) for name in names]
    out = activate(*(outputs_first_product(w, x) for w in weights)).T
    lead = x.shape[: x.ndim - len(inputs)]
    return self._constrain(out.reshape(*lead, *outputs.values()), outputs)


def outputs_first_product(
  weight: Float[Array, "outputs inputs"],
  x: Float[Array, "..."],
  dtype: Any = None,
) -> Float[Array, "outputs tokens"]:
  """Returns a matrix's product with every token, tokens last.

  XLA:CPU multiplies a few tokens by a large matrix half as fast again with the
  weight first, and for TPU it need not move the weights before the decode
  loop. The barrier keeps the compiler from turning it back.

  Args:
    weight: all outputs and all inputs as one axis each.
    x: [..., *inputs].
    dtype: of the result; None: x's.
  """
  contract_last = (((1,), (1,)), ((), ()))
  product = functools.partial(
    jax.lax.dot_general,
    dimension_numbers=contract_last,
    preferred_element_type=jnp.float32,
  )
  dtype = dtype or x.dtype
  x = x.reshape(-1, weight.shape[1])
  if len(x) > _FEW_TOKENS:
    return product(x, weight).astype(dtype).T
  return jax.lax.optimization_barrier(product(weight, x)).astype(dtype)


def with_adapter(
  config, weight: Float[Array, "..."], adapter: dict
) -> Float32[Array, "..."]:
  """Returns one layer's weight with its adapter added in.

  Args:
    config: TransformerConfig.
    weight: [*inputs, *outputs], of the base.
    adapter: {"a": [*inputs, r], "b": [r, *outputs]}.

  Returns:
    [*inputs, *outputs].
  """
  product = jnp.tensordot(adapter["a"], adapter["b"], axes=1)
  return weight.astype(jnp.float32) + config.lora.scale * product
