"""A look-up in parts of a table is one in all of it, and sends less."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefixrl_jax.distributed import collectives, sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.models import embedding

_V, _D, _B, _T = 64, 16, 8, 12
_ROWS = ("rows", "residual", "features")
_TOKENS = ("tokens", "features")  # of all rows, as one axis


@pytest.fixture
def arrays(rng):
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  tokens = rng.integers(0, _V, (_B, _T)).astype(np.int32)
  return draw(_V, _D), tokens, draw(_B, _T, _D)


def _compiled(mesh, table, tokens, weight, axes=_ROWS):
  """The loss's value and gradient, and what devices send each other."""

  def loss(table, tokens, weight):
    found = embedding.look_up(table, tokens, axes)
    found = sharding.constrain(found, *axes)
    return jnp.sum(found * weight)

  with jax.set_mesh(mesh):
    where = sharding.sharding(mesh, table.shape, "vocab", "embed")
    args = (
      sharding.put(table, where),
      *sharding.put_rows(mesh, (tokens, weight)),
    )
    run = jax.jit(jax.value_and_grad(loss), out_shardings=(None, where))
    text = run.lower(*args).compile().as_text()
    return run(*args), collectives.traffic(text, mesh=mesh.shape)


def _by_hand(table, tokens, weight):
  gradient = np.zeros_like(table)
  np.add.at(gradient, tokens, weight)
  return np.sum(table[tokens] * weight), gradient


@pytest.mark.parametrize(
  "shape", [(2, 2, 2), (1, 4, 2), (1, 1, 4), (8, 1, 1), (1, 8, 1), (1, 2, 2, 2)]
)
def test_parts_of_a_table_are_looked_up_as_the_whole(arrays, shape):
  devices = jax.devices()[: int(np.prod(shape))]
  found, _ = _compiled(make_mesh(*shape, devices=devices), *arrays)
  for x, expected in zip(found, _by_hand(*arrays), strict=True):
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [(3, 12), (8, 5)])
def test_rows_and_lengths_that_the_mesh_does_not_divide(
  arrays, eight_devices, tokens
):
  rows, length = tokens
  table, tokens, weight = arrays
  some = (table, tokens[:rows, :length], weight[:rows, :length])
  found, _ = _compiled(eight_devices, *some)
  for x, expected in zip(found, _by_hand(*some), strict=True):
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [4, 8])  # one a device, two
def test_a_device_sends_parts_and_is_sent_its_own(arrays, eight_devices, rows):
  """Of data, fsdp and tensor two each: counted by hand, in bytes."""
  table, tokens, weight = arrays
  some = (table, tokens[:rows].ravel(), weight[:rows].reshape(-1, _D))
  values, found = _compiled(eight_devices, *some, _TOKENS)
  for x, expected in zip(values, _by_hand(*some), strict=True):
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)
  of_vocabulary, its_rows = 4 * _V * _D / 2, 4 * rows * _T * _D / 4
  # The other half of the features of its words; of the gradient likewise.
  gathered = found["all-gather"].by_axes
  scattered = found["reduce-scatter"].by_axes
  assert gathered["fsdp"] == scattered["fsdp"] == of_vocabulary / 2
  # What was found for half of the tokens; and back.
  assert gathered["tensor"] == scattered["tensor"] == its_rows / 2
  # Over replicas the gradient of a device's own part of the table.
  summed = found["all-reduce"].by_axes
  assert summed["data"] == 2 * 0.5 * of_vocabulary / 2
  assert sum(summed.values()) < 1.05 * summed["data"]  # the loss


@pytest.mark.parametrize("rows", [4, 8])  # one a device, two
def test_tokens_of_all_rows_are_looked_up_as_one_axis(
  arrays, eight_devices, rows
):
  """Of those of a device's rows, the first half is here, the other there."""
  table, tokens, _ = arrays
  tokens = tokens[:rows].reshape(-1)
  look_up = lambda *args: embedding.look_up(*args, _TOKENS)
  with jax.set_mesh(eight_devices):
    found = jax.jit(look_up)(table, tokens)
    program = str(jax.make_jaxpr(look_up)(table, tokens))
  # No axis of one row is before that of the tokens: see Transformer.
  assert re.findall(r"scatter_dimension=(\d)", program) == ["0"]
  np.testing.assert_allclose(found, table[tokens], rtol=1e-6)
  a_device = sharding.sharding(eight_devices, tokens.shape, "tokens")
  assert found.sharding.is_equivalent_to(a_device, found.ndim)


def test_one_device_looks_up_as_numpy_does(arrays, one_device):
  table, tokens, _ = arrays
  look_up = lambda *args: embedding.look_up(*args, _ROWS)
  with jax.set_mesh(one_device):
    on_mesh = jax.jit(look_up)(table, tokens)
  np.testing.assert_array_equal(on_mesh, table[tokens])
  np.testing.assert_array_equal(look_up(table, tokens), table[tokens])
