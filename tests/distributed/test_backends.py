"""Which library multiplies, and that results do not depend on company."""

import dataclasses
import math
import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import ours
from prefixrl_jax.distributed import backends, processor
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.models import parameters
from prefixrl_jax.models.linear import outputs_first_product
from prefixrl_jax.rollouts import decoding
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.run import memory_plan

_INTEL = {"avx2", "avx512f", "amx_tile"}
_is_x86 = pytest.mark.skipif(
  platform.machine() != "x86_64", reason="XLA has oneDNN for x86_64 alone"
)


@pytest.fixture
def onednn_options(monkeypatch):
  """Options for products by oneDNN; tests' own XLA_FLAGS turn it off."""
  monkeypatch.setenv("XLA_FLAGS", "")
  backend = backends.Backend(
    key_block=128, attention_blocks=(64, 64), onednn_from=0
  )
  return backend.sampler_options(0)


def test_onednn_is_for_processors_that_gain_by_it():
  # The demo's model is below that, the smallest real one above.
  assert 150_000 < backends.onednn_pays_from(_INTEL) < 135e6
  for others in (_INTEL - {"amx_tile"}, {"avx2"}, ()):
    assert backends.onednn_pays_from(others) == math.inf
  here = backends.onednn_pays_from(processor.features())
  assert backends.BACKENDS["cpu"].onednn_from == here
  assert backends.BACKENDS["tpu"].onednn_from == math.inf


def test_onednn_is_for_weights_that_stay_in_no_cache(
  monkeypatch, change_backend
):
  monkeypatch.delenv("XLA_FLAGS")
  change_backend(onednn_from=1000)
  cpu = backends.BACKENDS["cpu"]
  assert "xla_cpu_use_onednn" not in cpu.sampler_options(999)
  assert cpu.sampler_options(1000)["xla_cpu_use_onednn"]


def test_what_xla_flags_say_holds(monkeypatch, change_backend):
  change_backend(onednn_from=0, options={"xla_backend_optimization_level": 1})
  options = lambda: backends.BACKENDS["cpu"].sampler_options(0)
  monkeypatch.delenv("XLA_FLAGS")
  assert options() == {
    "xla_backend_optimization_level": 1,
    "xla_cpu_use_onednn": True,
    "xla_cpu_experimental_onednn_fusion_type": (
      "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    ),
  }
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_onednn=false")
  assert "xla_cpu_use_onednn" not in options()
  assert options()["xla_backend_optimization_level"] == 1
  monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
  assert "xla_backend_optimization_level" not in options()
  assert options()["xla_cpu_use_onednn"]
  # An update is kept between processes.
  assert not backends.BACKENDS["cpu"].compiler_options()


def _bytes_in_tiles(shape, order, size):
  """Of a TPU: the last two axes in memory are in tiles of up to 8 x 128."""
  *others, rows, columns = (shape[axis] for axis in order)
  tile = next((n for n in (2, 4, 8) if rows <= n), 8)
  rows, columns = -(-rows // tile) * tile, -(-columns // 128) * 128
  return size * math.prod(others) * rows * columns


@pytest.fixture
def caches_of_a_tpu(change_backend):
  """This backend's caches are laid out, and counted, as a TPU's."""
  tpu = backends.BACKENDS["tpu"]
  change_backend(
    key_block=tpu.key_block,
    whole_cache=tpu.whole_cache,
    cache_order=tpu.cache_order,
    lanes_of_one_head=tpu.lanes_of_one_head,
    tile=tpu.tile,
  )


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.usefixtures("caches_of_a_tpu")
def test_caches_fill_a_tpu_s_tiles_whatever_heads_a_device_has(model, heads):
  model = dataclasses.replace(
    model, num_heads=8, num_kv_heads=8, head_dim=128, dtype="bfloat16"
  )
  mesh = make_mesh(1, heads, 8 // heads)
  abstract = jax.eval_shape(
    lambda: decoding.init_state(
      model, rows=8, lanes=4, trunk_length=1024, completion_length=1536
    )
  )
  cache = abstract.caches[0]
  formats = decoding.state_shardings(mesh, abstract).caches[0]
  a_device = in_tiles = 0
  for name in ("trunk_key", "trunk_value", "lane_key", "lane_value"):
    x, its_format = getattr(cache, name), getattr(formats, name)
    shape = its_format.sharding.shard_shape(x.shape)
    order = its_format.layout.major_to_minor
    assert shape[1] == heads
    a_device += 2 * math.prod(shape)
    in_tiles += _bytes_in_tiles(shape, order, 2)
  assert in_tiles <= 1.02 * a_device


@pytest.mark.usefixtures("caches_of_a_tpu")
def test_the_plan_counts_what_half_empty_tiles_take(model):
  """Of three heads of 64 as on a TPU: by hand, in tiles of 4 x 128."""
  model = dataclasses.replace(
    model,
    num_layers=2,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    dtype="bfloat16",
    remat="none",
  )
  mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
  found = memory_plan._of_caches(model, mesh, 2, 4, 512, 512)
  of_lanes = 2 * (2 * 4 * 512) * (4 * 128)  # keys and values
  of_trunks = 2 * 3 * 512 * (64 + 128)  # keys fill theirs
  # Tokens, likelihoods, and six fields of a lane: no layout is set for them.
  beside = 2 * 512 * 4 + 2 * 4 * 512 * 8 + 2 * 4 * (4 * 4 + 1 + 8)
  assert found == 2 * 2 * (of_lanes + of_trunks) + beside


def _is_full_precision():
  """Returns whether a product of float32 is lowered so."""
  x = jnp.ones((2, 2))
  return jax.jit(lambda x: x @ x).lower(x).as_text().count("HIGHEST") > 0


@pytest.mark.parametrize(
  ("platform", "dtype", "is_full"),
  [
    ("gpu", "float32", True),
    ("gpu", "bfloat16", False),
    ("cpu", "float32", False),  # full as it is
  ],
)
def test_a_model_in_float32_is_multiplied_in_float32(
  default_precision, platform, dtype, is_full
):
  backends.BACKENDS[platform].keep_float32(dtype)
  assert _is_full_precision() == is_full


@pytest.mark.parametrize("said", ["default", "tensorfloat32"])
def test_the_user_s_precision_holds(default_precision, said):
  jax.config.update("jax_default_matmul_precision", said)
  backends.BACKENDS["gpu"].keep_float32("float32")
  assert jax.config.jax_default_matmul_precision == said


@_is_x86
def test_onednn_is_given_products_alone(onednn_options):
  """A sum fused into this product is a partition it cannot compile."""

  def run(weight, x):
    x = jax.lax.optimization_barrier(x + 0 * jnp.max(weight))
    return jnp.tanh(outputs_first_product(weight, x))

  weight, x = jnp.full((96, 48), 0.5), jnp.full((32, 48), 0.01)
  compiled = jax.jit(run, compiler_options=onednn_options)
  lines = compiled.lower(weight, x).compile().as_text().splitlines()
  (call,) = [line for line in lines if '"__onednn_fusion"' in line]
  fused = call.split("calls=")[1].split(",")[0]
  start = next(i for i, x in enumerate(lines) if x.startswith(fused + " ("))
  body = lines[start + 1 : lines.index("}", start)]
  assert [" parameter(" in x or " dot(" in x for x in body] == [True] * 3
  expected = np.tanh(48 * 0.5 * 0.01)
  np.testing.assert_allclose(compiled(weight, x), expected, rtol=1e-5)


@pytest.mark.skipif(
  backends.BACKENDS["cpu"].onednn_from == math.inf,
  reason="oneDNN is not used on this processor, where it need not hold",
)
@pytest.mark.parametrize("shape", [(1536, 576), (576, 1536), (192, 576)])
def test_onednn_s_products_do_not_depend_on_who_is_beside(
  onednn_options, rng, shape
):
  """Nor on the lane: a completion is a function of its key alone."""
  product = jax.jit(outputs_first_product, compiler_options=onednn_options)
  weight = jnp.asarray(rng.standard_normal(shape, np.float32))
  tokens = rng.standard_normal((1024, shape[1]), np.float32)
  of = lambda tokens: np.asarray(product(weight, jnp.asarray(tokens)))
  # A prefill's trunks, one of them or more.
  alone = of(tokens[:256])
  np.testing.assert_allclose(
    alone, (np.float64(weight) @ tokens[:256].T), atol=1e-3
  )
  for count in (512, 1024):
    np.testing.assert_array_equal(of(tokens[:count])[:, :256], alone)
  # A step's lanes.
  for lanes in (5, 32, 33):
    order = rng.permutation(lanes)
    np.testing.assert_array_equal(
      of(tokens[:lanes])[:, order], of(tokens[:lanes][order])
    )


@_is_x86
def test_a_sampler_s_products_are_onednn_s_and_right(
  model, params, one_device, monkeypatch, change_backend
):
  monkeypatch.setenv("XLA_FLAGS", "")

  def sampled(has_onednn):
    change_backend(
      onednn_from=0 if has_onednn else math.inf,
      options={"xla_backend_optimization_level": 0},
    )
    sampler = ours.make_sampler(
      model,
      one_device,
      rows=1,
      lanes=2,
      trunk_length=4,
      completion_length=3,
      steps_per_dispatch=3,
    )
    shapes = parameters.abstract_params(model, one_device)
    decode = ours.compiled(sampler, shapes)["decode"]
    assert ("__onednn_fusion" in decode.as_text()) == has_onednn
    sampler.warm_up(params)
    requests = [Request(np.arange(4, dtype=np.int32), 2, 0, 0)]
    return sampler.sample(requests, purpose="sampling", seed=0)[0]

  for found, expected in zip(sampled(True), sampled(False), strict=True):
    assert len(found.tokens) == 3
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)
