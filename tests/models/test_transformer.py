"""The decoder against float64 numpy, and its fast paths against each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefixrl_jax.models import attention, parameters, transformer
from prefixrl_jax.models.decoder_config import layer_flags


def _norm(x, scale, eps):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def _rotate(x, positions, base):
  """Complex-number form: halves are real and imaginary parts."""
  half = x.shape[-1] // 2
  z = x[..., :half] + 1j * x[..., half:]
  angle = positions[:, None, None] * base ** (-np.arange(half) / half)
  z = z * np.exp(1j * angle)
  return np.concatenate([z.real, z.imag], -1)


def _reference_logits(config, params, tokens):
  """One sequence, no cache, head by head, in float64."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = p["embedding"][tokens]
  n = len(tokens)
  positions = np.arange(n)
  for i in range(config.num_layers):
    layer = jax.tree.map(lambda w, i=i: w[i], p["layers"])
    y = _norm(x, layer["attention_norm"]["scale"], config.norm_eps)
    q, k, v = (
      np.einsum("td,dnh->tnh", y, layer[w]) for w in ("query", "key", "value")
    )
    q = _rotate(q, positions, config.rope_base)
    k = _rotate(k, positions, config.rope_base)
    for head in range(config.num_heads):
      kv = head // (config.num_heads // config.num_kv_heads)
      scores = q[:, head] @ k[:, kv].T / np.sqrt(config.head_dim)
      scores[np.triu_indices(n, 1)] = -np.inf
      weights = np.exp(scores - scores.max(-1, keepdims=True))
      weights /= weights.sum(-1, keepdims=True)
      x = x + weights @ v[:, kv] @ layer["output"][head]
    y = _norm(x, layer["mlp_norm"]["scale"], config.norm_eps)
    up = y @ layer["up"]
    if config.mlp == "gated_silu":
      gate = y @ layer["gate"]
      up = gate / (1 + np.exp(-gate)) * up
    else:
      up = (
        0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
      )
    x = x + up @ layer["down"]
  x = _norm(x, p["final_norm"]["scale"], config.norm_eps)
  return x @ (p["embedding"].T if config.tied_head else p["head"])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mlp", ["gated_silu", "gelu"])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_logits_equal_a_float64_reference(model, rng, tied, mlp, remat):
  config = dataclasses.replace(model, tied_head=tied, mlp=mlp, remat=remat)
  params = parameters.init(config, jax.random.key(1))
  tokens = rng.integers(0, config.vocab_size, 11)
  mask = jnp.tri(11, dtype=bool)[None]
  hidden, _ = transformer.forward(
    config,
    params,
    tokens[None],
    jnp.arange(11)[None],
    lambda q, k, v, _: attention.dense_attention(q, k, v, mask),
  )
  logits = transformer.logits(config, params, hidden)[0]
  expected = _reference_logits(config, params, tokens)
  np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_visible_is_the_rule_of_trunks_and_lanes():
  # Trunk of 3, one lane forked at 2, one at 3, one token of padding.
  mask = attention.visible(
    tree=np.array([1, 1, 1, 1, 1, 1, 0]),
    branch=np.array([0, 0, 0, 1, 1, 2, 2]),
    position=np.array([0, 1, 2, 2, 3, 3, 4]),
    fork=np.array([0, 0, 0, 2, 2, 3, 3]),
  )
  expected = [
    "1000000",
    "1100000",
    "1110000",
    "1101000",
    "1101100",
    "1110010",
    "0000000",
  ]
  assert ["".join(map(str, row)) for row in mask.astype(int)] == expected


def test_a_window_reaches_from_a_lane_into_the_trunk():
  # Trunk of 3, a lane of 3 forked at 2.
  mask = attention.visible(
    tree=np.ones(6, int),
    branch=np.array([0, 0, 0, 1, 1, 1]),
    position=np.array([0, 1, 2, 2, 3, 4]),
    fork=np.array([0, 0, 0, 2, 2, 2]),
    window=3,
  )
  expected = ["100000", "110000", "111000", "110100", "010110", "000111"]
  assert ["".join(map(str, row)) for row in mask.astype(int)] == expected


def test_dense_attention_caps_scores_and_is_zero_where_nothing_is_seen(rng):
  q, k, v = rng.normal(size=(3, 1, 4, 1, 8)).astype(np.float32) * 3
  mask = np.tri(4, dtype=bool)[None] & (np.arange(4) < 3)[None, :, None]
  scores = q[0, :, 0] @ k[0, :, 0].T / np.sqrt(8)
  weights = np.exp(2 * np.tanh(scores / 2)) * mask[0]
  weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-9)
  out = attention.dense_attention(q, k, v, jnp.asarray(mask), soft_cap=2.0)
  np.testing.assert_allclose(out[0, :, 0], weights @ v[0, :, 0], atol=1e-5)
  assert not out[0, 3].any()


def test_long_caches_lie_in_blocks(change_backend):
  """By hand: 513 keys take five blocks of 128, the least that hold them."""
  change_backend(key_block=128, whole_cache=512)
  assert attention.key_blocks(512) == (1, 512)
  assert attention.key_blocks(513) == (5, 103)


@pytest.mark.parametrize("block", [128, 3])
def test_decoding_equals_the_forward_pass(
  model, params, rng, change_backend, block
):
  """Lanes with different forks on one trunk, teacher-forced.

  Caches are one block, or blocks of three keys, the last with room to spare.
  """
  change_backend(key_block=block, whole_cache=0)
  trunk = rng.integers(0, model.vocab_size, (1, 8))
  forks, steps = np.array([[8, 3, 1]]), 4
  lanes = rng.integers(0, model.vocab_size, (1, 3, steps))
  unstacked = parameters.unstack(model, params)
  x, cos_sin = transformer.embed_trunks(model, unstacked, trunk)
  empty = transformer.init_caches(
    model, rows=1, lanes=3, trunk_length=8, completion_length=steps
  )
  caches = ()
  for i, cache in enumerate(empty):
    x, cache = transformer.prefill_layer(
      model,
      unstacked["layers"][i],
      x,
      cos_sin,
      cache,
      np.array([0]),
      layer_flags(model, i),
    )
    caches += (cache,)
  token = np.take_along_axis(trunk, forks - 1, 1)
  for step in range(steps):
    length = np.full((1, 3), step)
    reach = attention.decode_reach(
      caches[0], fork=forks, length=length, active=forks > 1
    )
    # Of 7 keys of the trunk, and two a block of the lanes' four.
    assert reach == ((3, 1 + step // 2) if block == 3 else (1, 1))
    cos_sin = transformer.decode_cos_sin(model, fork=forks, length=length)
    logits, caches = transformer.decode_step(
      model, unstacked, token, cos_sin, caches, reach, fork=forks, length=length
    )
    for lane, fork in enumerate(forks[0]):
      sequence = np.concatenate([trunk[0, :fork], lanes[0, lane, :step]])
      expected = _reference_logits(model, params, sequence)[-1]
      np.testing.assert_allclose(logits[:, 0, lane], expected, atol=1e-4)
    token = lanes[:, :, step]


def test_bfloat16_stays_near_float32(model, params, rng):
  tokens = rng.integers(0, model.vocab_size, (2, 9))
  mask = jnp.tri(9, dtype=bool)[None]
  logits = [
    transformer.logits(
      config,
      params,
      transformer.forward(
        config,
        params,
        tokens,
        jnp.broadcast_to(jnp.arange(9), (2, 9)),
        lambda q, k, v, _: attention.dense_attention(q, k, v, mask),
      )[0],
    )
    for config in (model, dataclasses.replace(model, dtype="bfloat16"))
  ]
  assert logits[1].dtype == jnp.float32
  np.testing.assert_allclose(*logits, atol=5e-2)
