"""A tree's loss and gradients are those of its separate sequences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scoring
from optimizers import plain_adamw

from prefixrl_jax.distributed import sharding
from prefixrl_jax.learner import losses, segments, update
from prefixrl_jax.learner.logprobs import action_logprobs
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.packing import Lane, Layout, Tree, join_trees, pack
from prefixrl_jax.models import (
  parameters,
  tree_attention,
)


def _trees(rng, model):
  """Nested forks, a lane of one token, a lane that fills its room."""
  token = lambda n: rng.integers(0, model.vocab_size, n).astype(np.int32)

  def lane(fork, n):
    return Lane(
      fork,
      token(n),
      -rng.random(n).astype(np.float32),
      rng.normal(size=n).astype(np.float32),
    )

  return [
    Tree(token(6), [lane(6, 4), lane(3, 1), lane(1, 2)], True),
    Tree(token(2), [lane(2, 3), lane(1, 4)], False),
    Tree(token(5), [lane(4, 2)], True),
  ]


def _loss(model, params, trees, layout):
  rows = jax.tree.map(
    lambda x: x[0],
    pack([Tree(t.trunk, t.lanes, False) for t in trees], layout),
  )
  attend, _ = tree_attention.for_layers(model, rows)
  actions = action_logprobs(
    model,
    params,
    rows=rows,
    temperature=0.8,
    chunk_length=3,
    attend=attend,
  )
  weighted = rows.advantages * actions.logprobs
  return -losses.masked_sum(weighted, rows.action_mask), (
    actions.logprobs,
    actions.entropy,
    rows,
  )


def _separate_loss(model, params, trees):
  """Every lane as a sequence of its own, plainly masked."""
  total = 0.0
  for tree in trees:
    for lane in tree.lanes:
      trunk = tree.trunk[: lane.fork]
      scores = scoring.log_softmax(model, params, trunk, lane.tokens, 0.8)
      logprobs = scores[jnp.arange(len(lane.tokens)), lane.tokens]
      total -= jnp.sum(lane.advantages * logprobs)
  return total


def _assert_trees_close(a, b, atol):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=1e-4), a, b
  )


def test_a_tree_equals_its_sequences(model, params, rng):
  trees = _trees(rng, model)
  (loss, _), grads = jax.jit(
    jax.value_and_grad(
      lambda p: _loss(model, p, trees, Layout(30, 1, 1)), has_aux=True
    )
  )(params)
  expected, expected_grads = jax.jit(
    jax.value_and_grad(lambda p: _separate_loss(model, p, trees))
  )(params)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  _assert_trees_close(grads, expected_grads, 1e-5)


def test_padding_and_order_change_nothing(model, params, rng):
  trees = _trees(rng, model)
  grad = lambda trees, layout: jax.jit(
    jax.value_and_grad(lambda p: _loss(model, p, trees, layout)[0])
  )(params)
  loss, grads = grad(trees, Layout(30, 1, 1))
  shuffled = [Tree(t.trunk, t.lanes[::-1], t.is_prefixed) for t in trees[::-1]]
  for some, layout in (
    (trees, Layout(13, 3, 1)),  # every tree a row of its own
    (trees, Layout(200, 2, 1)),  # more than one block of attention
    (shuffled, Layout(30, 1, 1)),
  ):
    other, other_grads = grad(some, layout)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    _assert_trees_close(other_grads, grads, 1e-5)


def test_one_trunk_for_all_its_forks(model, params, rng):
  """Prefixes of one trace become one tree, and nothing else changes."""
  token = lambda n: rng.integers(0, model.vocab_size, n).astype(np.int32)
  trunk = token(9)
  lane = lambda fork: Lane(fork, token(3), np.zeros(3), rng.normal(size=3))
  trees = [Tree(trunk[:n], [lane(n), lane(n)], True) for n in (4, 9, 6)]
  trees.append(Tree(trunk[:4], [lane(4)], False))  # of another kind
  trees.append(Tree(token(5), [lane(5)], True))  # of another problem
  joined = join_trees(trees, max_tokens=40)
  assert sorted(t.num_tokens for t in joined) == [7, 8, 9 + 6 * 3]
  assert len(join_trees(trees, max_tokens=26)) == 4
  grad = lambda trees: jax.jit(
    jax.grad(lambda p: _loss(model, p, trees, Layout(96, 1, 1))[0])
  )(params)
  _assert_trees_close(grad(joined), grad(trees), 1e-5)


def test_arrays_are_aligned_with_tokens(model, params, rng):
  trees = _trees(rng, model)
  _, (logprobs, entropy, rows) = _loss(model, params, trees, Layout(30, 1, 1))
  sampled = sum(len(lane.tokens) for t in trees for lane in t.lanes)
  assert int(rows.action_mask.sum()) == sampled
  # Trunks take 6 + 5 + 2 tokens, and never count as actions.
  assert not rows.action_mask[rows.branch == 0].any()
  assert (rows.branch[rows.tree > 0] == 0).sum() == 13
  assert not np.asarray(logprobs)[~rows.action_mask].any()
  assert not np.asarray(entropy)[~rows.action_mask].any()
  assert (np.asarray(logprobs)[rows.action_mask] < 0).all()
  assert (np.asarray(entropy)[rows.action_mask] <= np.log(17) + 1e-6).all()
  # The first tree is the longest: lanes of 4, 1 and 2 tokens behind a trunk
  # of 6. A lane's first token is predicted by the last trunk token it sees.
  np.testing.assert_array_equal(rows.parent[0, 6:13], [5, 6, 7, 8, 2, 0, 11])


def test_what_is_to_come_of_a_completion_ends_with_it(model, rng):
  """Lanes lie one behind another, and trees do: sums stop between them."""
  trees = _trees(rng, model)
  rows = jax.tree.map(lambda x: x[0], pack(trees[::2], Layout(40, 1, 1)))
  goes_on = np.asarray(update._goes_on(rows))
  lengths = [4, 1, 2, 2]  # of the lanes, as they lie
  expected = [on for n in lengths for on in (*[True] * (n - 1), False)]
  assert goes_on[rows.action_mask].tolist() == expected
  assert not goes_on[~rows.action_mask].any()
  ones = np.where(rows.action_mask, 1.0, 0.0).astype(np.float32)
  to_come = np.asarray(segments.sum_to_end(ones, goes_on))
  expected = [left for n in lengths for left in range(n, 0, -1)]
  assert to_come[rows.action_mask].tolist() == expected


def _run(model, params, trees, mesh, layout, kl=0.0, steps=2):
  optimizer = plain_adamw(clip_norm=1.0)
  with jax.set_mesh(mesh):
    params = jax.tree.map(
      lambda x, like: jax.device_put(np.asarray(x), like.sharding),
      params,
      parameters.abstract_params(model, mesh),
    )
    abstract = update.abstract_state(params, optimizer)
    step = update.make_update(
      model,
      optimizer,
      abstract,
      make_loss("policy_gradient", kl_coefficient=kl),
      temperature=0.8,
      chunk_length=5,
      mixed=len({t.is_prefixed for t in trees}) > 1,
      norms_by_kind=True,
    )
    reference = jax.tree.map(lambda x: x * 0.9, params)
    state = update.make_init(optimizer, abstract)(params)
    batch = sharding.put_rows(mesh, pack(trees, layout), axis=1)
    for _ in range(steps):
      state, metrics = step(state, batch, reference if kl else None)
      # What belongs to a parameter lies where it lies, before and after.
      jax.tree.map(
        lambda x, like: (
          x.sharding.is_equivalent_to(like.sharding, x.ndim)
          or pytest.fail(f"{x.sharding} is not {like.sharding}")
        ),
        state,
        abstract,
      )
  assert step._jitted._cache_size() == 1
  return jax.device_get(state.params), jax.device_get(metrics)


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_micro_batches_change_nothing(model, params, rng, one_device, kl):
  trees = _trees(rng, model)
  whole, metrics = _run(model, params, trees, one_device, Layout(30, 2, 2), kl)
  split, split_metrics = _run(
    model, params, trees, one_device, Layout(13, 1, 7), kl
  )
  _assert_trees_close(whole, split, 1e-5)
  assert metrics["num_microbatches"] == 2
  assert (
    split_metrics["num_microbatches"] == 3
  )  # of 7: those without trees are left out
  for name in metrics.keys() - set(update.WORK):
    np.testing.assert_allclose(
      metrics[name], split_metrics[name], rtol=1e-3, atol=1e-6, err_msg=name
    )
  assert (metrics.get("kl", 0) > 0) == (kl > 0)


def test_eight_devices_update_as_one(
  model, params, rng, one_device, eight_devices
):
  trees = _trees(rng, model)
  a, metrics = _run(model, params, trees, one_device, Layout(16, 4, 2))
  b, other = _run(model, params, trees, eight_devices, Layout(16, 4, 2))
  _assert_trees_close(a, b, 1e-5)
  # A device goes through as many chunks of logits as its fullest row has: where
  # each has a row of its own, no row waits for another.
  sampled = sum(len(lane.tokens) for tree in trees for lane in tree.lanes)
  assert sampled <= other["logit_tokens"] < metrics["logit_tokens"]
  for name in metrics.keys() - {"logit_tokens"}:
    np.testing.assert_allclose(
      metrics[name], other[name], rtol=1e-3, atol=1e-6, err_msg=name
    )


def test_metrics_tell_prefixed_from_no_prefix(model, params, rng, one_device):
  trees = _trees(rng, model)
  silent = [
    Tree(
      t.trunk,
      [Lane(x.fork, x.tokens, x.logprobs, 0 * x.advantages) for x in t.lanes],
      True,
    )
    if t.is_prefixed
    else t
    for t in trees
  ]
  _, metrics = _run(
    model, params, silent, one_device, Layout(16, 2, 2), steps=1
  )
  assert metrics["prefixed/grad_norm"] == 0
  np.testing.assert_allclose(
    metrics["no_prefix/grad_norm"], metrics["grad_norm"], rtol=1e-6
  )
  assert metrics["prefixed/entropy"] > 0


@pytest.mark.parametrize(
  ("advantage", "said"),
  [
    (np.nan, "loss nan, gradient norm nan"),
    (1e25, "gradient norm inf"),  # whose square is beyond float32
  ],
)
def test_an_update_that_is_not_finite_leaves_the_state_if_asked_to(
  model, params, one_device, rng, advantage, said
):
  optimizer = plain_adamw(clip_norm=1.0)
  whole = _trees(rng, model)[:1]
  lane, *others = whole[0].lanes
  beyond = dataclasses.replace(
    lane, advantages=np.full_like(lane.advantages, advantage)
  )
  broken = [dataclasses.replace(whole[0], lanes=[beyond, *others])]
  layout = Layout(30, 1, 1)
  with jax.set_mesh(one_device):
    put = lambda x, like: jax.device_put(np.asarray(x), like.sharding)
    params = jax.tree.map(
      put, params, parameters.abstract_params(model, one_device)
    )
    abstract = update.abstract_state(params, optimizer)
    step = update.make_update(
      model,
      optimizer,
      abstract,
      make_loss("policy_gradient"),
      temperature=1.0,
      chunk_length=5,
      skip_nonfinite=True,
    )
    state, metrics = step(
      update.make_init(optimizer, abstract)(params), pack(whole, layout), None
    )
    assert update.nonfinite(metrics) == ""
    before = jax.device_get(state)
    assert (before.params["embedding"] != params["embedding"]).any()
    state, metrics = step(state, pack(broken, layout), None)
  assert update.nonfinite(metrics) == said
  after = jax.device_get(state)
  for name in ("params", "opt_state"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(after, name), getattr(before, name)
    )
