"""The fast paths against the dense reference; the kernels, compiled."""

import functools
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefixrl_jax.models import (
  attention,
  attention_kernel,
  attention_xla,
  block_map,
  tree_attention,
)
from prefixrl_jax.types import UserError

LENGTH = 100


def _inputs(rng, places, num_heads, num_kv_heads, head_dim, dtype="float32"):
  """q, k, v and the output's cotangent; the padding is large, to be noticed."""
  shape = places.tree.shape
  is_padding = (places.tree == 0)[:, :, None, None]
  draw = lambda n: rng.normal(size=(*shape, n, head_dim))
  return [
    jnp.asarray(np.where(is_padding, 1e9, draw(n)), dtype)
    for n in (num_heads, num_kv_heads, num_kv_heads, num_heads)
  ]


# The time of these tests is the compiler's.
@functools.partial(
  jax.jit,
  static_argnums=0,
  compiler_options={"xla_backend_optimization_level": 0},
)
def _with_gradients(attend, q, k, v, cotangent, places):
  out, pull = jax.vjp(lambda *x: attend(*x, places), q, k, v)
  return out, *pull(cotangent.astype(out.dtype))


def _dense(q, k, v, places, *, soft_cap=None, window=None):
  mask = attention.visible(*places, window=window)
  return attention.dense_attention(q, k, v, mask, soft_cap)


IMPLEMENTATIONS = {
  "kernel": functools.partial(
    attention_kernel.tree_flash_attention, interpret=True
  ),
  "xla": attention_xla.tree_block_attention,
}


def _blockwise(name, q, k, v, places, *, soft_cap=None, **sizes):
  schedule = block_map.make_block_schedule(*places, **sizes)
  return IMPLEMENTATIONS[name](places, schedule, q, k, v, soft_cap=soft_cap)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize(
  ("heads", "dtype", "block_q", "block_kv", "options"),
  [
    ((2, 2, 128), "float32", 16, 32, {}),
    ((6, 2, 80), "float32", 32, 16, dict(soft_cap=2.0, window=11)),
    ((4, 1, 8), "float32", 25, 50, dict(window=1)),
    ((2, 1, 256), "float32", 128, 128, dict(soft_cap=1.0)),
    ((2, 1, 64), "bfloat16", 32, 32, dict(soft_cap=5.0, window=30)),
  ],
)
def test_blockwise_equals_dense(
  rng, packed_rows, name, heads, dtype, block_q, block_kv, options
):
  blockwise = functools.partial(
    _blockwise, name, block_q=block_q, block_kv=block_kv, **options
  )
  dense = functools.partial(_dense, **options)
  tolerance = 1e-5 if dtype == "float32" else 2e-2
  for _ in range(2):
    places = packed_rows(rng, LENGTH, 3)
    inputs = _inputs(rng, places, *heads, dtype)
    exact = [x.astype(jnp.float32) for x in inputs]
    for a, b in zip(
      _with_gradients(blockwise, *inputs, places),
      _with_gradients(dense, *exact, places),
    ):
      assert a.dtype == dtype
      a = np.asarray(a.astype(jnp.float32))
      np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)
      assert not a[places.tree == 0].any()


# In the third case each block of keys is visited: no code is left over that
# could fill the last turn.
@pytest.mark.parametrize(
  ("visits", "block_q", "in_turn"),
  [
    (1, 32, False),
    (4, 32, True),
    (5, LENGTH, False),
    (5, LENGTH, True),
    (7, 16, False),
  ],
)
def test_rows_side_by_side_equal_dense(
  rng, packed_rows, change_backend, in_turn, visits, block_q
):
  """As on a GPU: in step, and several visits in a turn of the loop."""
  change_backend(rows_in_turn=in_turn, visits_a_turn=visits)
  places = packed_rows(rng, LENGTH, 3)
  inputs = _inputs(rng, places, 6, 2, 8)
  blockwise = functools.partial(_blockwise, "xla", block_q=block_q, block_kv=16)
  for a, b in zip(
    _with_gradients(blockwise, *inputs, places),
    _with_gradients(_dense, *inputs, places),
  ):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


def test_rows_that_scalar_memory_cannot_list():
  """Seen when traced, where the compiler would speak of an allocation."""

  def trace(rows, length):
    place = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    heads = jax.ShapeDtypeStruct((rows, length, 1, 128), jnp.bfloat16)

    def run(place, heads):
      places = attention.Places(place, place, place, place)
      schedule = block_map.make_block_schedule(
        *places, block_q=512, block_kv=512
      )
      return attention_kernel.tree_flash_attention(
        places, schedule, heads, heads, heads
      )

    return jax.eval_shape(run, place, heads).shape

  assert trace(7, 2**16) == (7, 2**16, 1, 128)
  with pytest.raises(UserError, match="16 rows of 65536 tokens"):
    trace(16, 2**16)


def test_dense_reference_is_zero_where_nothing_is_seen(rng):
  nothing = np.zeros((1, LENGTH), np.int32)
  places = attention.Places(nothing, nothing, nothing, nothing)
  inputs = _inputs(rng, places, 2, 1, 8)
  for x in _with_gradients(_dense, *inputs, places):
    assert not np.asarray(x).any()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("num_kv_heads", [2, 1])  # divided by the mesh, or not
def test_sharded_equals_dense(
  rng, packed_rows, eight_devices, name, num_kv_heads
):
  places = packed_rows(rng, LENGTH, 3)
  inputs = _inputs(rng, places, 4, num_kv_heads, 8)

  def sharded(q, k, v, places):
    return tree_attention.attend(
      places,
      block_map.make_block_schedule(*places, block_q=32, block_kv=32),
      q,
      k,
      v,
      implementation=IMPLEMENTATIONS[name],
    )

  with jax.set_mesh(eight_devices):
    result = _with_gradients(sharded, *inputs, places)
  for a, b in zip(result, _with_gradients(_dense, *inputs, places)):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
  assert jax.eval_shape(sharded, *inputs[:3], places) == jax.eval_shape(
    _dense, *inputs[:3], places
  )  # without a mesh


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_scanned_and_recomputed(rng, packed_rows, name):
  """As the layers of a decoder are."""
  places = packed_rows(rng, LENGTH, 0)
  inputs = _inputs(rng, places, 2, 1, 8)

  def layers(attend, q, k, v, places):
    @jax.checkpoint
    def layer(q, _):
      return attend(q, k, v, places), None

    return jax.lax.scan(layer, q, length=2)[0]

  blockwise = functools.partial(_blockwise, name, block_q=32, block_kv=32)
  for a, b in zip(
    _with_gradients(functools.partial(layers, blockwise), *inputs, places),
    _with_gradients(functools.partial(layers, _dense), *inputs, places),
  ):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


_COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from prefixrl_jax.models import attention, attention_kernel, block_map

chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
chip = jax.sharding.SingleDeviceSharding(chips.devices[0])

def loss(q, k, v, places):
  schedule = block_map.make_block_schedule(
    *places, block_q=512, block_kv=512, window=window
  )
  out = attention_kernel.tree_flash_attention(
    places, schedule, q, k, v, soft_cap=cap
  )
  return jnp.sum(out.astype(jnp.float32) ** 2)

for length, dtype, head_dim, cap, window in (
  (4096, "bfloat16", 128, None, None),
  (4000, "float32", 64, 30.0, 1024),
):
  shape = lambda dtype, *x: jax.ShapeDtypeStruct((1, *x), dtype, sharding=chip)
  q = shape(dtype, length, 32, head_dim)
  kv = shape(dtype, length, 8, head_dim)
  places = attention.Places(*[shape(jnp.int32, length)] * 4)
  step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
  text = step.lower(q, kv, kv, places).compile().as_text()
  assert text.count("tpu_custom_call") >= 3
"""


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu to compile for TPU; no TPU is needed",
)
def test_compiles_for_tpu():
  """In a process of its own, since this one has eight CPU devices."""
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  env |= dict(
    JAX_ENABLE_COMPILATION_CACHE="false",
    TPU_SKIP_MDS_QUERY="1",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
  )
  done = subprocess.run(
    [sys.executable, "-c", _COMPILE], env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-4000:]
