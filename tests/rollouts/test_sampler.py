"""The sampler: exact log-probabilities, whatever the schedule."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scoring import teacher_forced

from benchmarks import ours
from prefixrl_jax.distributed.compilation import CompilationCounter
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.models import parameters
from prefixrl_jax.rollouts import drawing
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.rollouts.sampler import PURPOSE_IDS, Arena, Sampler
from prefixrl_jax.types import PURPOSES, NonFiniteError, UserError

_DEFAULTS = dict(
  rows=3,
  lanes=4,
  trunk_length=8,
  completion_length=6,
  steps_per_dispatch=2,
  temperature=1.0,
  top_k=0,
  top_p=1.0,
  stop_tokens=(5,),
)


def _sampler(model, mesh, params, **changes):
  sampler = Sampler(model, mesh, **{**_DEFAULTS, **changes})
  sampler.load(params)
  return sampler


def _requests(rng, model, count=5, completions=7):
  return [
    Request(
      rng.integers(0, model.vocab_size, 2 + i % 5).astype(np.int32),
      completions,
      0,
      i,
    )
    for i in range(count)
  ]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_the_teacher_forced_ones(
  model, params, one_device, rng, temperature
):
  sampler = _sampler(model, one_device, params, temperature=temperature)
  requests = _requests(rng, model)
  groups = sampler.sample(requests, purpose="sampling", seed=1)
  ends = set()
  for request, group in zip(requests, groups):
    assert len(group) == request.num_completions
    for c in group:
      assert len(c.tokens) == len(c.logprobs) <= 6
      assert 5 not in c.tokens[:-1]
      assert c.truncated == (c.tokens[-1] != 5)
      assert not c.truncated or len(c.tokens) == 6
      ends.add((len(c.tokens), c.truncated))
      np.testing.assert_allclose(
        c.logprobs,
        teacher_forced(model, params, request.trunk, c.tokens, temperature),
        atol=1e-5,
      )
  # Stopped at once, stopped with the last token allowed, never stopped.
  if temperature == 1.0:
    assert {(1, False), (6, False), (6, True)} <= ends


@pytest.mark.parametrize("block", [128, 4])
def test_order_and_refills_change_no_bit(
  model, params, one_device, rng, change_backend, block
):
  change_backend(key_block=block, whole_cache=0)
  requests = _requests(rng, model)
  samplers = [
    _sampler(model, one_device, params, steps_per_dispatch=steps)
    for steps in (2, 1, 6)
  ]
  expected = samplers[0].sample(requests, purpose="sampling", seed=1)
  for order in ([4, 2, 0, 3, 1], [1, 0, 3, 2, 4], [2, 0, 1, 4, 3]):
    for sampler in samplers:
      groups = sampler.sample(
        [requests[i] for i in order], purpose="sampling", seed=1
      )
      for i, group in zip(order, groups):
        for a, b in zip(group, expected[i], strict=True):
          np.testing.assert_array_equal(a.tokens, b.tokens)
          np.testing.assert_array_equal(a.logprobs, b.logprobs)


def test_results_do_not_depend_on_the_schedule(
  model, params, one_device, rng, change_backend
):
  requests = _requests(rng, model)
  expected = _sampler(model, one_device, params).sample(
    requests, purpose="sampling", seed=1
  )
  for order, rows, lanes, steps, block in (
    ([4, 2, 0, 3, 1], 2, 3, 1, 128),
    ([1, 0, 3, 2, 4], 5, 7, 6, 4),
    ([2, 0, 1, 4, 3], 1, 4, 3, 1),
  ):
    change_backend(key_block=block, whole_cache=0)
    sampler = _sampler(
      model,
      one_device,
      params,
      rows=rows,
      lanes=lanes,
      steps_per_dispatch=steps,
    )
    groups = sampler.sample(
      [requests[i] for i in order], purpose="sampling", seed=1
    )
    for i, group in zip(order, groups):
      for a, b in zip(group, expected[i], strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        # Programs of other shapes round otherwise: 1.4e-6 was seen.
        np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=1e-6, atol=1e-6)


def _assert_eight_sample_as_one(model, params, one_device, eight_devices, rng):
  requests = _requests(rng, model)
  groups = [
    _sampler(model, mesh, params, rows=4).sample(
      requests, purpose="sampling", seed=2
    )
    for mesh in (one_device, eight_devices)
  ]
  for a, b in zip(*map(itertools.chain.from_iterable, groups), strict=True):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_eight_devices_sample_what_one_samples(
  model, params, one_device, eight_devices, rng
):
  _assert_eight_sample_as_one(model, params, one_device, eight_devices, rng)


@pytest.mark.parametrize("order", [None, (0, 2, 1)])
def test_experts_on_a_mesh_sample_what_they_sample_on_one_device(
  model, one_device, rng, change_backend, order
):
  change_backend(expert_order=order)
  moe = dataclasses.replace(
    model, num_experts=4, experts_per_token=3, mlp_width=10
  )
  params = jax.device_get(parameters.init(moe, jax.random.key(0)))
  mesh = make_mesh(data=1, fsdp=2, tensor=2, expert=2)
  _assert_eight_sample_as_one(moe, params, one_device, mesh, rng)


def test_frequencies_are_the_policy_s(model, params, one_device):
  trunk = np.array([3, 1, 4], np.int32)
  sampler = _sampler(
    model,
    one_device,
    params,
    lanes=64,
    completion_length=1,
    steps_per_dispatch=1,
  )
  [group] = sampler.sample(
    [Request(trunk, 4000, 0, 0)], purpose="sampling", seed=0
  )
  counts = np.bincount([c.tokens[0] for c in group], minlength=17)
  probs = np.exp(
    [teacher_forced(model, params, trunk, np.array([t]))[0] for t in range(17)]
  )
  deviation = (counts - 4000 * probs) / np.sqrt(4000 * probs * (1 - probs))
  assert np.abs(deviation).max() < 4.5


def test_filters_choose_but_leave_the_logprobs(model, params, one_device, rng):
  for filters in ({"top_k": 3}, {"top_p": 0.4}):
    sampler = _sampler(model, one_device, params, **filters)
    [request, *_] = _requests(rng, model, completions=12)
    [group] = sampler.sample([request], purpose="sampling", seed=1)
    for c in group:
      expected = teacher_forced(model, params, request.trunk, c.tokens)
      np.testing.assert_allclose(c.logprobs, expected, atol=1e-5)
    first = {int(c.tokens[0]) for c in group}
    every = np.array(
      [
        teacher_forced(model, params, request.trunk, np.array([t]))[0]
        for t in range(17)
      ]
    )
    ranked = np.argsort(-every)
    allowed = (
      3
      if "top_k" in filters
      else 1 + int(np.sum(np.cumsum(np.exp(every[ranked])) < 0.4))
    )
    assert first <= set(ranked[:allowed].tolist())


_LEAST, _MOST = 0.0, float(np.nextafter(np.float32(1), np.float32(0)))


@pytest.mark.parametrize("uniform", [_LEAST, 1e-45, 0.5, _MOST])
@pytest.mark.parametrize("size", [3, 256, 700])
@pytest.mark.parametrize(
  ("top_k", "top_p"), [(0, 1.0), (2, 1.0), (0, 0.9), (2, 0.9)]
)
def test_no_number_draws_what_is_impossible(
  monkeypatch, uniform, size, top_k, top_p
):
  """Nor what is all but impossible, wherever it stands."""
  monkeypatch.setattr(
    jax.random, "uniform", lambda key, *args: jnp.float32(uniform)
  )
  logits = np.full((size, 1, 4), -300.0, np.float32)  # exp is 0
  likely = [[1], [size - 2], [0, size - 1], [size // 2, size // 2 + 1]]
  for lane, tokens in enumerate(likely):
    logits[tokens, 0, lane] = 0.0
  unlikely = np.where(logits == 0, logits, -60.0)  # exp is about 1e-26
  keys = jax.vmap(jax.random.key)(np.zeros(4, np.uint32))[None]
  for some in (logits, unlikely):
    token, logprob = drawing.draw(
      jnp.asarray(some), keys, jnp.zeros((1, 4), jnp.int32), 1.0, top_k, top_p
    )
    for lane, tokens in enumerate(likely):
      assert int(token[0, lane]) in tokens
    assert (logprob >= np.log(0.5) - 1e-5).all()


def test_tokens_are_drawn_in_proportion_at_every_number():
  """An inverse CDF, at both of its ends and on both sides of its steps."""
  weights = np.array([1, 0, 2, 0, 0, 5, 0], np.float32)
  uniform = np.array([0, 0.124, 0.126, 0.374, 0.376, _MOST], np.float32)
  found = drawing._invert(
    jnp.asarray(np.repeat(weights[:, None], 6, 1)), uniform, block_size=3
  )
  assert found.tolist() == [0, 0, 2, 2, 5, 5]
  # A step belongs to what is behind it, and nothing is drawn that weighs 0.
  weights = np.array([0, 3, 0, 1], np.float32)
  found = drawing._invert(
    jnp.asarray(np.repeat(weights[:, None], 2, 1)),
    np.array([0, 0.75], np.float32),
  )
  assert found.tolist() == [1, 3]


def test_every_place_of_a_completion_has_a_number_of_its_own():
  """And always the same one: by the completion's key, and the place."""
  keys = jax.vmap(jax.random.key)(np.repeat(np.uint32([1, 2]), 32))[None]
  places = jnp.tile(jnp.arange(32), 2)[None]
  draw = lambda: drawing.draw(
    jnp.zeros((5000, 1, 64)), keys, places, 1.0, 0, 1.0
  )[0][0].tolist()
  assert len(set(draw())) > 55
  assert draw() == draw()


def test_greedy_takes_the_likeliest(model, params, one_device, rng):
  sampler = _sampler(model, one_device, params, temperature=0.0)
  [request, *_] = _requests(rng, model, completions=2)
  [group] = sampler.sample([request], purpose="sampling", seed=1)
  np.testing.assert_array_equal(group[0].tokens, group[1].tokens)
  best = max(
    teacher_forced(model, params, request.trunk, np.array([t]))[0]
    for t in range(17)
  )
  np.testing.assert_allclose(group[0].logprobs[0], best, atol=1e-5)


def test_cancel_keeps_earlier_attempts(model, params, one_device, rng):
  [request, *_] = _requests(rng, model, completions=40)
  sampler = _sampler(model, one_device, params, rows=1)
  seen = []
  for finished in sampler.run([[request]], purpose="sampling", seed=1):
    seen += [attempt for _, attempt, _ in finished]
    if len(seen) >= 6:
      sampler.cancel(0, above=9)
  assert set(range(10)) <= set(seen)
  assert max(seen) < 40 - 4
  usage = sampler.pop_usage()
  assert usage.completions >= len(seen)
  assert usage.input_tokens == usage.completions * len(request.trunk)


def test_a_limit_cuts_a_completion_short(model, params, one_device, rng):
  sampler = _sampler(model, one_device, params)
  requests = _requests(rng, model)
  whole = sampler.sample(requests, purpose="sampling", seed=1)
  limits = (1, 2, 3, 5, 100)
  cut = sampler.sample(
    [
      dataclasses.replace(request, max_tokens=n)
      for request, n in zip(requests, limits)
    ],
    purpose="sampling",
    seed=1,
  )
  for n, long, short in zip(limits, whole, cut):
    for a, b in zip(long, short, strict=True):
      np.testing.assert_array_equal(a.tokens[:n], b.tokens)
      assert b.truncated == (b.tokens[-1] != 5)


def test_a_trunk_that_does_not_fit_is_an_error(model, params, one_device):
  sampler = _sampler(model, one_device, params)
  with pytest.raises(UserError, match="9 tokens"):
    sampler.sample(
      [Request(np.zeros(9, np.int32), 1, 0, 0)], purpose="sampling", seed=0
    )


def test_forks_of_one_trunk_share_its_prefill(model, params, one_device, rng):
  trunk = rng.integers(0, model.vocab_size, 8).astype(np.int32)
  nested = [Request(trunk[:n], 3, 0, n) for n in (5, 8, 2)]
  apart = [_sampler(model, one_device, params, rows=1) for _ in nested]
  expected = [
    sampler.sample([request], purpose="sampling", seed=1)[0]
    for sampler, request in zip(apart, nested)
  ]
  together = _sampler(model, one_device, params, rows=1)
  groups = together.sample(nested, purpose="sampling", seed=1)
  for group, other in zip(groups, expected):
    for a, b in zip(group, other, strict=True):
      np.testing.assert_array_equal(a.tokens, b.tokens)
      np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-6)
  assert together.pop_usage().prefill_tokens == 8
  # The trunk is still there, until other parameters are loaded.
  together.sample(nested[1:2], purpose="sampling", seed=1)
  assert together.pop_usage().prefill_tokens == 0
  together.load(jax.tree.map(lambda x: x * 0.9, params))
  together.sample(nested[1:2], purpose="sampling", seed=1)
  assert together.pop_usage().prefill_tokens == 8


def test_few_requests_are_spread_over_all_rows(model, params, one_device, rng):
  request = Request(np.array([1, 2], np.int32), 30, 0, 0)
  expected = _sampler(model, one_device, params, rows=1).sample(
    [request], purpose="sampling", seed=1
  )
  sampler = _sampler(model, one_device, params, rows=4, stop_tokens=())
  [group] = sampler.sample([request], purpose="sampling", seed=1)
  assert len(group) == 30
  # 30 completions of 6 tokens in 16 lanes: two waves, not eight.
  assert sampler.pop_usage().decode_tokens <= 2 * 8 * 16
  sampler = _sampler(model, one_device, params, rows=4)
  [spread] = sampler.sample([request], purpose="sampling", seed=1)
  for a, b in zip(spread, expected[0], strict=True):
    np.testing.assert_array_equal(a.tokens, b.tokens)


def test_the_longest_expected_start_first(model, params, one_device):
  trunks = np.arange(8, dtype=np.int32)[:, None] + 6
  limits = (1, 1, 1, 6, 1, 1, 1, 6)
  requests = [
    Request(trunk, 1, 0, i, max_tokens=n)
    for i, (trunk, n) in enumerate(zip(trunks, limits))
  ]
  sampler = _sampler(model, one_device, params, rows=2, lanes=1, stop_tokens=())
  groups = sampler.sample(requests, purpose="sampling", seed=0)
  assert tuple(len(group[0].tokens) for group in groups) == limits
  # 6 + 3 steps of 2 lanes, at most 2 more where a synchronisation comes late.
  assert sampler.pop_usage().decode_tokens <= 2 * (9 + 2)


@pytest.mark.parametrize(("sync_cost", "steps"), [(0.0, 6), (100.0, 8)])
def test_lanes_wait_for_work_no_longer_than_a_synchronisation_is_worth(
  model, params, one_device, change_backend, sync_cost, steps
):
  """One completion of 6 tokens, five of one, and two lanes for them."""
  change_backend(sync_cost=sync_cost)
  trunk = np.array([1, 2], np.int32)
  requests = [
    Request(trunk, 1, 0, 0, max_tokens=6),
    Request(trunk, 5, 0, 1, max_tokens=1),
  ]
  sampler = _sampler(
    model,
    one_device,
    params,
    rows=1,
    lanes=2,
    steps_per_dispatch=6,
    stop_tokens=(),
  )
  sampler.sample(requests, purpose="sampling", seed=0)
  # At once: one lane has 6 tokens, the other 5 of one. Or the other lane has
  # one and waits for five, and both have two more.
  assert sampler.pop_usage().decode_tokens == 2 * steps


def test_schedules_never_compile_after_warm_up(model, params, one_device, rng):
  sampler = _sampler(model, one_device, params)
  sampler.warm_up(params)
  with CompilationCounter() as compilations:
    for count, completions in ((5, 7), (1, 1), (2, 20)):
      sampler.sample(
        _requests(rng, model, count, completions), purpose="sampling", seed=0
      )
  assert compilations.count == 0


def _live_bytes():
  return sum(x.nbytes for x in jax.live_arrays())


def test_one_sampler_of_an_arena_has_arrays(model, params, one_device, rng):
  arena = Arena()
  requests = _requests(rng, model)
  sample = lambda s: s.sample(requests, purpose="sampling", seed=1)
  before = _live_bytes()
  first = _sampler(model, one_device, params, arena=arena)
  expected = sample(first)
  of_one = _live_bytes() - before
  assert of_one > 0
  second = _sampler(model, one_device, params, arena=arena)
  sample(second)
  assert _live_bytes() - before == of_one
  # The first has nothing left to sample from, until it is loaded again.
  with pytest.raises(AssertionError, match="released"):
    sample(first)
  first.load(params)
  for a, b in zip(sample(first), expected, strict=True):
    for x, y in zip(a, b, strict=True):
      np.testing.assert_array_equal(x.tokens, y.tokens)
      np.testing.assert_array_equal(x.logprobs, y.logprobs)
  assert _live_bytes() - before == of_one
  first.release()
  assert _live_bytes() == before


def test_another_of_its_shape_compiles_nothing(model, params, one_device, rng):
  sampler = _sampler(model, one_device, params)
  sampler.warm_up(params)
  before = _live_bytes()
  del sampler
  assert _live_bytes() < before  # its arrays go with it
  with CompilationCounter() as compilations:
    again = _sampler(model, one_device, params)
    again.sample(_requests(rng, model), purpose="sampling", seed=0)
  assert compilations.count == 0


def test_a_pod_s_decode_step_gathers_nothing(model, eight_devices):
  """Lowered from shapes; of collectives, sums over `tensor` alone remain."""
  sampler = Sampler(model, eight_devices, **{**_DEFAULTS, "rows": 4})
  programs = ours.compiled(
    sampler, parameters.abstract_params(model, eight_devices)
  )
  collectives = [
    line
    for line in programs["decode"].as_text().splitlines()
    if re.search(r"(all-|collective-)\w+\(.*while/body", line)
  ]
  assert collectives
  assert all("all-reduce" in line for line in collectives), collectives
  assert "all-to-all" not in programs["prefill a layer"].as_text()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_policy_that_is_no_number_is_an_error_at_once(
  model, params, one_device, rng, value, temperature
):
  broken = params | {"embedding": params["embedding"] * value}
  sampler = _sampler(model, one_device, broken, temperature=temperature)
  syncs = []
  synchronise = sampler._synchronise
  sampler._synchronise = lambda *args: syncs.append(1) or synchronise(*args)
  with pytest.raises(NonFiniteError, match=r"NaN or infinite \(token 1 "):
    sampler.sample(_requests(rng, model), purpose="sampling", seed=1)
  assert len(syncs) == 1  # not at the end of a completion


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  "settings", [(0.0, 0, 1.0), (1.0, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.9)]
)
def test_no_token_is_drawn_beyond_the_vocabulary(value, settings):
  logits = jnp.full((30, 2, 3), value)
  keys = jax.vmap(jax.vmap(jax.random.key))(jnp.zeros((2, 3), jnp.uint32))
  token, logprob = drawing.draw(
    logits, keys, jnp.zeros((2, 3), jnp.int32), *settings
  )
  assert ((token >= 0) & (token < 30)).all()
  assert not np.isfinite(logprob).any()


def test_purposes_that_sample_keep_their_numbers():
  """Another number would be another sample, and another result."""
  assert PURPOSE_IDS.keys() <= set(PURPOSES)
  assert PURPOSE_IDS == {
    "screening": 0,
    "collection": 1,
    "sampling": 2,
    "evaluation": 3,
  }
