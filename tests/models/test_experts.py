"""Mixture of experts: nothing is dropped, wherever the experts are."""

import dataclasses
import functools

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
  grouped,
  layers,
  parameters,
  transformer,
)
from prefixrl_jax.models.flops import flops_per_token
from prefixrl_jax.run import memory_plan

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


@pytest.mark.parametrize(
  ("num_rows", "length", "hidden", "width", "a_turn"),
  [
    (8, 6, 10, "embed", 8192),
    (8, 6, 10, None, 7),
    (3, 6, 10, "embed", 7),  # rows are whole everywhere
    (8, 5, 10, "embed", 7),  # lengths are
    (8, 6, 9, "embed", 8192),  # experts' width is
  ],
)
def test_experts_on_other_devices(
  moe, rng, monkeypatch, num_rows, length, hidden, width, a_turn
):
  up, down = _weights(rng, hidden=hidden)
  y = rng.normal(size=(num_rows, length, 6)).astype(np.float32)
  scores = rng.normal(size=(num_rows, length, 4)).astype(np.float32)
  pull = rng.normal(size=y.shape).astype(np.float32)

  def loss(y, scores, up, down):
    routes = experts.route(moe, scores)
    axes = ("rows", "residual")
    out = experts.run(_ACTIVATE, y, routes, up, down, tokens=axes, width=width)
    return jnp.sum(pull * out)

  run = lambda: jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
  expected = run()(y, scores, up, down)
  monkeypatch.setattr(experts, "TOKENS_A_TURN", a_turn)
  with jax.set_mesh(make_mesh(data=1, fsdp=2, tensor=2, expert=2)):
    found = run()(y, scores, up, down)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, expected
  )


def test_what_is_for_other_devices_may_be_anything(moe, rng, monkeypatch):
  """A TPU's product leaves rows after the last group as it found them."""
  up, down = _weights(rng)
  y = rng.normal(size=(7, 6)).astype(np.float32)
  routes = experts.route(moe, rng.normal(size=(7, 4)).astype(np.float32))
  here = slice(1, 3)  # of the experts
  pull = rng.normal(size=y.shape).astype(np.float32)

  def loss(y, weight, up, down):
    local = routes.expert - here.start
    out = experts._run(_ACTIVATE, y, local, weight, up, down)
    return jnp.sum(pull * out)

  def run():
    own = tuple(w[here] for w in up), down[here]
    of_all = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))
    return of_all(y, routes.weight, *own)

  expected = run()
  plain = jax.lax.ragged_dot
  beyond = lambda x, sizes: (jnp.arange(len(x)) >= jnp.sum(sizes))[:, None]

  @jax.custom_vjp
  def product(x, w, sizes):
    out = plain(x, w, sizes)
    return jnp.where(beyond(x, sizes), jnp.nan, out)

  def backward(kept, d_out):
    x, w, sizes = kept
    d_x, d_w = jax.vjp(lambda x, w: plain(x, w, sizes), x, w)[1](d_out)
    return jnp.where(beyond(x, sizes), jnp.nan, d_x), d_w, None

  product.defvjp(lambda *args: (product(*args), args), backward)
  monkeypatch.setattr(jax.lax, "ragged_dot", product)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), run(), expected
  )


@pytest.mark.parametrize("sizes", [(200, 0, 90, 31), (0, 0, 0, 0), (0, 321, 0)])
def test_the_kernel_for_weights_gradients(rng, monkeypatch, sizes):
  """By hand; rows beyond the groups are anything, and tiles are cut off."""
  monkeypatch.setattr(grouped, "_TILE", (128, 128, 128))
  x = rng.normal(size=(321, 40)).astype(np.float32)
  d_out = rng.normal(size=(321, 200)).astype(np.float32)
  x[sum(sizes) :] = d_out[sum(sizes) :] = np.nan
  found = grouped.weights_gradient(
    x, d_out, np.int32(sizes), np.float32, interpret=True
  )
  ends = np.cumsum(sizes)
  for out, start, end in zip(found, ends - sizes, ends):
    of_group = slice(start, end)
    expected = x[of_group].astype(np.float64).T @ d_out[of_group]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("a_turn", [50, 20])
def test_of_experts_little_is_kept(moe, rng, monkeypatch, a_turn):
  """Not a token for each of its experts, nor what `down` makes of it."""
  up, down = _weights(rng, width=100, hidden=3)
  y = rng.normal(size=(50, 100)).astype(np.float32)
  routes = experts.route(moe, rng.normal(size=(50, 4)).astype(np.float32))
  run = lambda y, up, down: experts.run(_ACTIVATE, y, routes, up, down)
  kept = jax.tree.leaves(
    jax.eval_shape(lambda *a: jax.vjp(run, *a)[1], y, up, down)
  )
  weights = 3 * 4 * 100 * 3
  # The tokens, both products, where they are sent and what they weigh; what is
  # divided into turns may be there twice.
  least = 50 * 100 + weights + 150 * (2 * 3 + 3)
  assert least <= sum(x.size for x in kept) <= 2 * least < 150 * 100 + least


@pytest.mark.parametrize("num_rows", [4, 8])  # one of a device, or two
@pytest.mark.parametrize("num_experts", [4, 0])
def test_a_model_on_a_mesh_with_experts(moe, rng, num_rows, num_experts):
  moe = dataclasses.replace(moe, num_experts=num_experts)
  mask = jnp.tri(6, dtype=bool)[None]
  position = jnp.broadcast_to(jnp.arange(6), (num_rows, 6))
  tokens = rng.integers(0, moe.vocab_size, position.shape).astype(np.int32)
  pull = rng.normal(size=(*position.shape, moe.width)).astype(np.float32)

  def run():
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
      attend = lambda q, k, v, _: attention.dense_attention(q, k, v, mask)
      args = (tokens, position, attend, position < 5)
      hidden, load = transformer.forward(moe, params, *args)
      return jnp.sum(pull * hidden), (hidden, load)

    return jax.jit(loss)

  init = jax.jit(lambda key: parameters.init(moe, key))
  params = jax.device_get(init(jax.random.key(0)))
  expected = run()(params)
  mesh = make_mesh(data=1, fsdp=2, tensor=2, expert=2)
  placed = parameters.put_params(moe, mesh, params)
  if num_experts:
    up = placed["layers"]["expert_up"]
    assert up.sharding.shard_shape(up.shape) == (2, 2, 12, 5)
  with jax.set_mesh(mesh):
    sharded = run()(placed)
  np.testing.assert_allclose(sharded[0][1][0], expected[0][1][0], atol=1e-5)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4),
    sharded,
    expected,
  )


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


def test_the_plan_counts_what_experts_keep_and_room_they_take(
  moe, change_backend
):
  """By hand, of two devices that share experts and two their width."""
  moe = dataclasses.replace(moe, remat="none")
  dense = dataclasses.replace(moe, num_experts=0, mlp_width=1)
  mesh = make_mesh(data=1, fsdp=2, tensor=2, expert=2)
  # The token, its three experts' places, orders and weights, and its chances.
  routed = 4 * (24 + 3 * 3 + 4)
  products = 4 * 2 * 3 * 10
  found = memory_plan.kept_of_layer(moe, mesh)
  least = memory_plan.kept_of_layer(dense, mesh) + 2 * (routed + products / 2)
  assert least <= found <= 1.25 * least
  change_backend(expert_order=(0, 1, 2), tile=(8, 128))
  layer = parameters.abstract_unstacked(moe, mesh)["layers"][0]
  up, down = layer["expert_up"], layer["expert_down"]
  assert memory_plan.bytes_of(up, mesh) == 4 * 2 * 24 * 128
  assert memory_plan.bytes_of(down, mesh) == 4 * 2 * 8 * 128
  assert memory_plan.bytes_of(layer["query"], mesh) == 4 * 48 * 24 / 2
