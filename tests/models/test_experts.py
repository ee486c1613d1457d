"""Mixture of experts: nothing is dropped, wherever the experts are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner import update
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.packing import Lane, Layout, Tree, pack
from prefixrl_jax.models import (
  attention,
  experts,
  layers,
  parameters,
  transformer,
)
from prefixrl_jax.models.flops import flops_per_token

_ACTIVATE = layers.activation("gated_silu")


@pytest.fixture(scope="module")
def moe(model):
  return dataclasses.replace(
    model,
    num_experts=4,
    experts_per_token=3,
    norm_expert_weights=True,
    mlp_width=10,
  )


def _weights(rng, num_experts=4, width=6, hidden=10):
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  up = (draw(num_experts, width, hidden), draw(num_experts, width, hidden))
  return up, draw(num_experts, hidden, width)


def _one_by_one(y, routes, up, down):
  """Token by token, expert by expert, in float64."""
  out = np.zeros(y.shape)
  for place in np.ndindex(y.shape[:-1]):
    for e, weight in zip(routes.expert[place], routes.weight[place]):
      x, gate = y[place] @ up[0][e], y[place] @ up[1][e]
      out[place] += weight * ((gate / (1 + np.exp(-gate)) * x) @ down[e])
  return out


def test_experts_equal_a_loop_over_tokens(moe, rng):
  up, down = _weights(rng)
  y = rng.normal(size=(2, 7, 6)).astype(np.float32)
  scores = rng.normal(size=(2, 7, 4)).astype(np.float32)
  scores[..., 2] -= 9  # is sent nothing
  routes = experts.route(dataclasses.replace(moe, experts_per_token=2), scores)
  assert not (routes.expert == 2).any()
  np.testing.assert_allclose(routes.weight.sum(-1), 1, rtol=1e-6)
  out = experts.run(_ACTIVATE, y, routes, up, down)
  expected = _one_by_one(y, jax.device_get(routes), up, down)
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_weights_are_shares_of_all_unless_they_are_normed(moe, rng):
  scores = rng.normal(size=(5, 4)).astype(np.float32)
  plain = dataclasses.replace(moe, norm_expert_weights=False)
  probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  routes = experts.route(plain, scores)
  best = np.argsort(-probs, axis=-1)[:, :3]
  np.testing.assert_array_equal(routes.expert, best)
  expected = np.take_along_axis(probs, best, -1)
  np.testing.assert_allclose(routes.weight, expected, rtol=1e-6)


@pytest.mark.parametrize("num_rows", [8, 3])  # shared out, or whole everywhere
def test_experts_on_other_devices(moe, rng, num_rows):
  up, down = _weights(rng)
  y = rng.normal(size=(num_rows, 5, 6)).astype(np.float32)
  scores = rng.normal(size=(num_rows, 5, 4)).astype(np.float32)
  pull = rng.normal(size=y.shape).astype(np.float32)

  def loss(y, scores, up, down):
    routes = experts.route(moe, scores)
    return jnp.sum(pull * experts.run(_ACTIVATE, y, routes, up, down))

  run = lambda: jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
  expected = run()(y, scores, up, down)
  with jax.set_mesh(make_mesh(data=1, fsdp=2, tensor=2, expert=2)):
    found = run()(y, scores, up, down)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, expected
  )


def test_a_model_on_a_mesh_with_experts(moe, rng):
  mask = jnp.tri(6, dtype=bool)[None]
  position = jnp.broadcast_to(jnp.arange(6), (4, 6))
  tokens = rng.integers(0, moe.vocab_size, (4, 6)).astype(np.int32)

  @jax.jit
  def run(params):
    attend = lambda q, k, v, _: attention.dense_attention(q, k, v, mask)
    return transformer.forward(moe, params, tokens, position, attend)[0]

  init = jax.jit(lambda key: parameters.init(moe, key))
  params = jax.device_get(init(jax.random.key(0)))
  hidden = run(params)
  mesh = make_mesh(data=1, fsdp=2, tensor=2, expert=2)
  placed = parameters.put_params(moe, mesh, params)
  up = placed["layers"]["expert_up"]
  assert up.sharding.shard_shape(up.shape) == (2, 2, 12, 5)
  with jax.set_mesh(mesh):
    sharded = run(placed)
  np.testing.assert_allclose(sharded, hidden, atol=1e-5)


def test_load_balance_by_hand():
  probs = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0, 0, 1]])
  routes = experts.Routes(
    probs.astype(np.float32), np.array([[0, 1], [1, 0], [2, 0]]), None
  )
  # Of two tokens' four routes, two go to either of the first experts.
  load = experts.load(routes, np.array([True, True, False]))
  np.testing.assert_allclose(load, [[1, 1, 0], [0.75, 0.75, 0.5]])
  balance = experts.balance(load)
  np.testing.assert_allclose(balance, 3 * (0.5 * 0.375 + 0.5 * 0.375))
  even = experts.Routes(
    np.full((3, 3), 1 / 3, np.float32), np.array([[0], [1], [2]]), None
  )
  load = experts.load(even, np.ones(3, bool))
  np.testing.assert_allclose(experts.balance(load), 1, rtol=1e-6)


def test_load_balance_of_a_model(moe, rng):
  """A router that knows no difference sends all to the first three of four."""
  tokens = rng.integers(0, moe.vocab_size, (2, 5)).astype(np.int32)
  init = jax.jit(lambda key: parameters.init(moe, key))
  params = init(jax.random.key(0))
  params["layers"]["router"] *= 0

  @jax.jit
  def balance(params):
    attend = lambda q, k, v, _: q
    position = jnp.broadcast_to(jnp.arange(5), (2, 5))
    _, load = transformer.forward(
      moe, params, tokens, position, attend, valid=tokens > 3
    )
    return experts.balance(load)

  # Mean probabilities are a quarter each, shares a third: 4 x 3 x 1/12.
  np.testing.assert_allclose(balance(params), [1, 1], rtol=1e-5)


def test_an_update_says_how_even_the_load_is(moe, rng):
  """Over two micro-batches, padding left out."""
  token = lambda n: rng.integers(0, moe.vocab_size, n).astype(np.int32)
  lane = Lane(3, token(4), -np.ones(4, np.float32), np.ones(4))
  trees = [Tree(token(3), [lane], False), Tree(token(5), [lane], False)]
  params = jax.jit(lambda key: parameters.init(moe, key))(jax.random.key(0))
  mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
  params = parameters.put_params(moe, mesh, params)
  optimizer = optax.sgd(0.0)
  state = update.abstract_state(params, optimizer)
  step = update.make_update(
    moe,
    optimizer,
    state,
    make_loss("policy_gradient"),
    temperature=1.0,
    chunk_length=4,
  )
  batch = pack(trees, Layout(10, 1, 2))
  assert (batch.tree[:, 0] > 0).sum(-1).tolist() in ([9, 7], [7, 9])
  with jax.set_mesh(mesh):
    started = update.make_init(optimizer, state)(params)
    _, metrics = step(started, batch, None)

  def load_of(tree):
    tokens = np.concatenate([tree.trunk, lane.tokens])[None]
    position = np.r_[: len(tree.trunk), 3:7][None]
    branch = np.r_[[0] * len(tree.trunk), [1] * 4]
    # A lane sees three tokens of its trunk.
    sees = np.tri(len(branch), dtype=bool)
    sees[len(tree.trunk) :, 3 : len(tree.trunk)] = False
    _, load = transformer.forward(
      moe,
      params,
      tokens,
      position,
      lambda q, k, v, _: attention.dense_attention(q, k, v, sees[None]),
      valid=np.ones(tokens.shape, bool),
    )
    return load

  expected = experts.balance(load_of(trees[0]) + load_of(trees[1]))
  np.testing.assert_allclose(
    metrics["load_balance"], expected.mean(), rtol=1e-5
  )
  np.testing.assert_allclose(
    metrics["load_balance_max"], expected.max(), rtol=1e-5
  )


def test_what_a_token_costs_by_hand(moe):
  expert = 3 * 24 * 10
  attention = 24 * 8 * (6 + 2 * 2) + 6 * 8 * 24
  layer = attention + 3 * expert + 24 * 4
  assert flops_per_token(moe, head=False) == 2 * 2 * layer
  norms, ends = 2 * 24, 24 + 2 * 24 * 17
  assert parameters.num_active_params(moe) == 2 * (layer + norms) + ends
  assert parameters.num_params(moe) == 2 * (layer + expert + norms) + ends
