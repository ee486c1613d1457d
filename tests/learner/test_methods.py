"""Updates of every method: in trees as in separate sequences, 1 device as 8."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scoring

from prefixrl_jax.distributed import sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner import critic as critics
from prefixrl_jax.learner import update
from prefixrl_jax.learner.critic import Critic
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.learner.logprobs import action_logprobs
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.packing import Lane, Layout, Tree, pack
from prefixrl_jax.learner.scoring import Scorer
from prefixrl_jax.models import (
  parameters,
  transformer,
  tree_attention,
)

_TEMPERATURE = 0.8
_PPO = dict(
  name="ppo", clip_low=0.2, clip_high=0.2, value_clip=0.2, value_coefficient=0.5
)
# Name: the loss, the critic.
_METHODS = {
  "entropy": (dict(name="policy_gradient", entropy_coefficient=0.3), None),
  "gspo": (
    dict(
      name="policy_gradient",
      importance="sequence",
      clip_low=0.5,
      clip_high=0.5,
      normalization="sequence",
    ),
    None,
  ),
  "trajectory": (
    dict(
      name="policy_gradient",
      importance="trajectory",
      detached=True,
      normalization="length",
    ),
    None,
  ),
  "ppo": (_PPO, Critic()),
  "ppo_frozen_trunk": (_PPO, Critic(trunk_gradient=False)),
  "ppo_own_trunk": (_PPO, Critic(has_trunk=True)),
  "luffy": (dict(name="luffy", shaping="ratio", normalization="length"), None),
  "sft_loss": (dict(name="luffy", shaping="log", trace_mean=True), None),
}


def _trees(rng, model):
  """Nested forks of two trunks; a trace among the lanes of each."""
  token = lambda n: rng.integers(0, model.vocab_size, n).astype(np.int32)
  draw = lambda n: rng.normal(size=n).astype(np.float32)

  def lane(fork, n, is_trace=False):
    return Lane(
      fork,
      token(n),
      -3 + draw(n) / 3,
      draw(n),
      is_trace=is_trace,
      values=draw(n),
      returns=draw(n),
    )

  return [
    Tree(token(6), [lane(6, 4), lane(3, 1), lane(1, 2, True)], True),
    Tree(token(2), [lane(2, 3), lane(1, 4, True)], False),
  ]


def _with_advantages(trees, factor):
  """The trees with each lane's advantages times a factor of it."""
  scaled = lambda lane: dataclasses.replace(
    lane, advantages=factor(lane) * lane.advantages
  )
  return [
    dataclasses.replace(t, lanes=[scaled(x) for x in t.lanes]) for t in trees
  ]


def _alone(trees):
  """Every lane behind its own copy of what it sees."""
  return [
    Tree(t.trunk[: x.fork], [x], t.is_prefixed) for t in trees for x in t.lanes
  ]


def _learner(model, mesh, layout, loss, critic):
  return Learner(
    model,
    mesh,
    layout,
    optax.sgd(1.0),  # a step is the gradient
    make_loss(**loss),
    base_params=None,
    temperature=_TEMPERATURE,
    chunk_length=5,
    completion_length=9,
    critic=critic,
    mixed=True,
  )


def _with_head(state, rng_seed=0):
  """Gives the critic a head that says something."""
  if "value" not in state.params:
    return state
  head = state.params["value"]["head"]
  values = np.random.default_rng(rng_seed).normal(size=head.shape)
  placed = jax.device_put(values.astype(np.float32), head.sharding)
  value = dict(state.params["value"], head=placed)
  return state.replace(params=dict(state.params, value=value))


def _step(model, params, mesh, layout, loss, critic, trees):
  """Returns the gradient, and the metrics, of one update."""
  placed = parameters.put_params(model, mesh, jax.device_get(params))
  learner = _learner(model, mesh, layout, loss, critic)
  state = _with_head(learner.init(placed))
  before = jax.device_get(state.params)
  state, metrics, usage = learner.step(state, trees)
  after = jax.device_get(state.params)
  assert usage.has_critic_trunk == bool(critic and critic.has_trunk)
  return jax.tree.map(np.subtract, before, after), metrics


def _assert_close(a, b, atol=2e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=1e-3), a, b
  )


@pytest.mark.parametrize("method", _METHODS)
def test_trees_equal_sequences_and_one_device_eight(
  model, params, rng, one_device, eight_devices, method
):
  loss, critic = _METHODS[method]
  trees = _trees(rng, model)
  run = lambda mesh, layout, trees: _step(
    model, params, mesh, layout, loss, critic, trees
  )
  grads, metrics = run(one_device, Layout(24, 2, 2), trees)
  assert optax.tree.norm(grads) > 0
  apart, of_apart = run(one_device, Layout(13, 1, 7), _alone(trees))
  _assert_close(grads, apart)
  sharded, of_sharded = run(eight_devices, Layout(24, 4, 2), trees)
  _assert_close(grads, sharded)
  for name in metrics.keys() - {"logprob_gap_max"}:
    for other in (of_apart, of_sharded):
      np.testing.assert_allclose(
        metrics[name], other[name], rtol=2e-3, atol=1e-5, err_msg=name
      )


def test_a_frozen_trunk_has_no_gradient_of_the_critic(
  model, params, rng, one_device
):
  trees = _with_advantages(_trees(rng, model), lambda lane: 0.0)
  norms = {}
  for name in ("ppo", "ppo_frozen_trunk", "ppo_own_trunk"):
    loss, critic = _METHODS[name]
    layout = Layout(24, 2, 2)
    grads, _ = _step(model, params, one_device, layout, loss, critic, trees)
    norms[name] = optax.tree.norm(grads["policy"])
    assert optax.tree.norm(grads["value"]["head"]) > 0
    if critic.has_trunk:
      assert optax.tree.norm(grads["value"]["trunk"]) > 0
  assert norms["ppo"] > 0
  assert norms["ppo_frozen_trunk"] == norms["ppo_own_trunk"] == 0


def _dense(model, params, tree):
  """Yields each lane with what its tokens are predicted from, plainly."""
  for lane in tree.lanes:
    trunk = tree.trunk[: lane.fork]
    yield lane, scoring.predictors(model, params, trunk, lane.tokens)


def _mesh_of_vocabulary():
  """Two devices that share a layer and the vocabulary."""
  return make_mesh(data=2, fsdp=2, tensor=2)


@pytest.mark.parametrize("where", ["one device", "shared vocabulary"])
def test_entropy_and_values_by_plain_autodiff(
  model, params, rng, one_device, where
):
  """Any weights of log-probabilities, entropy and values; dense, by JAX."""
  trees = _trees(rng, model)
  head = rng.normal(size=model.width).astype(np.float32)
  mesh = one_device if where == "one device" else _mesh_of_vocabulary()

  def packed(params, head):
    rows = jax.tree.map(
      lambda x: x[0],
      pack(
        [dataclasses.replace(t, is_prefixed=False) for t in trees],
        Layout(24, 2, 1),
        needs=["values"],
      ),
    )
    attend, _ = tree_attention.for_layers(model, rows)
    actions = action_logprobs(
      model,
      params,
      rows=rows,
      temperature=_TEMPERATURE,
      chunk_length=5,
      attend=attend,
      entropy_gradient=True,
      value_head=head,
    )
    return jnp.sum(
      rows.advantages * actions.logprobs
      + rows.old_values * actions.entropy
      + rows.returns * actions.values
    )

  def separate(params, head):
    total = 0.0
    for tree in trees:
      for lane, predictors in _dense(model, params, tree):
        logits = transformer.logits(model, params, predictors[None])[0]
        logp = jax.nn.log_softmax(logits / _TEMPERATURE)
        entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
        own = logp[jnp.arange(len(lane.tokens)), lane.tokens]
        total += jnp.sum(
          lane.advantages * own
          + lane.values * entropy
          + lane.returns * (predictors @ head)
        )
    return total

  placed = parameters.put_params(model, mesh, jax.device_get(params))
  with jax.set_mesh(mesh):
    value, grads = jax.jit(jax.value_and_grad(packed, argnums=(0, 1)))(
      placed, head
    )
  expected, expected_grads = jax.jit(
    jax.value_and_grad(separate, argnums=(0, 1))
  )(params, head)
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  _assert_close(jax.device_get(grads), jax.device_get(expected_grads))


@pytest.mark.parametrize("critic", [Critic(), Critic(has_trunk=True)])
def test_scored_values_are_those_of_the_update(
  model, params, rng, one_device, eight_devices, critic
):
  """What a scorer says before the first update, the update's loss sees."""
  trees = _trees(rng, model)
  head = rng.normal(size=model.width).astype(np.float32)
  expected = {
    id(lane): np.asarray(predictors @ head)
    for tree in trees
    for lane, predictors in _dense(model, params, tree)
  }
  for mesh in (one_device, eight_devices):
    placed = parameters.put_params(model, mesh, jax.device_get(params))
    trained = {"policy": placed, "value": {"head": head}}
    if critic.has_trunk:
      other = jax.tree.map(lambda x: 0 * x, placed)
      trained = {"policy": other, "value": {"head": head, "trunk": placed}}
    scorer = Scorer(
      model,
      mesh,
      Layout(24, 4, 2),
      ["values"],
      temperature=_TEMPERATURE,
      chunk_length=5,
      critic=critic,
    )
    scores, usage = scorer.score(trained, trees)
    for tree in trees:
      for lane in tree.lanes:
        np.testing.assert_allclose(
          scores["values"][id(lane)], expected[id(lane)], atol=2e-5
        )
    assert usage.passes == 1
    assert usage.work["logit_tokens"] == 0
    assert usage.tokens == sum(
      x.fork + len(x.tokens) for t in trees for x in t.lanes
    )


def test_normalizers_by_hand(model, params, rng, one_device):
  """Five lanes of 14 tokens, none longer than nine."""
  trees = _trees(rng, model)
  lengths = [len(x.tokens) for t in trees for x in t.lanes]
  assert (len(lengths), sum(lengths)) == (5, 14)
  run = lambda trees, **loss: _step(
    model,
    params,
    one_device,
    Layout(24, 2, 2),
    dict(name="policy_gradient", **loss),
    None,
    trees,
  )[0]
  scaled = lambda grads, by: jax.tree.map(lambda x: x * by, grads)
  token = run(trees)
  _assert_close(run(trees, normalization="length"), scaled(token, 14 / 45))
  by_length = _with_advantages(trees, lambda lane: 1 / len(lane.tokens))
  _assert_close(
    run(trees, normalization="sequence"), scaled(run(by_length), 14 / 5)
  )


def test_an_update_without_signal_can_leave_everything(
  model, params, rng, one_device
):
  """Adam's moments do not decay through a drought."""
  trees = _trees(rng, model)
  silent = _with_advantages(trees, lambda lane: 0.0)
  placed = parameters.put_params(model, one_device, jax.device_get(params))
  for holds in (False, True):
    learner = Learner(
      model,
      one_device,
      Layout(24, 2, 2),
      optax.adamw(0.1, weight_decay=0.1),
      make_loss("policy_gradient", entropy_coefficient=0.1),
      base_params=None,
      temperature=_TEMPERATURE,
      chunk_length=5,
      mixed=True,
      hold_without_signal=holds,
    )
    state, _, _ = learner.step(learner.init(placed), trees)
    before = jax.device_get((state.params, state.opt_state))
    state, _, usage = learner.step(state, silent)
    after = jax.device_get((state.params, state.opt_state))
    same = jax.tree.leaves(
      jax.tree.map(lambda x, y: np.array_equal(x, y), before, after)
    )
    assert all(same) == holds
    assert usage.work["num_microbatches"] > 0  # it was computed, and costs
    assert int(state.step) == 2


def test_critic_and_policy_have_learning_rates_of_their_own(
  model, params, one_device
):
  critic = Critic(has_trunk=True)
  optimizer = critics.by_part(optax.sgd(0.5), optax.sgd(2.0))
  abstract = update.abstract_state(
    critics.abstract_trained(critic, model, one_device), optimizer
  )
  placed = parameters.put_params(model, one_device, jax.device_get(params))
  state = update.make_init(optimizer, abstract, model, critic)(placed)
  assert not np.any(state.params["value"]["head"])
  ones = jax.tree.map(jnp.ones_like, state.params)
  updates, _ = optimizer.update(ones, state.opt_state, state.params)
  for part, rate in (("policy", 0.5), ("value", 2.0)):
    for leaf in jax.tree.leaves(updates[part]):
      np.testing.assert_array_equal(leaf, -rate)
  assert critics.policy_of(critic, state.params) is state.params["policy"]
  whole = sharding.replicated(one_device)
  assert abstract.params["value"]["head"].sharding == whole
