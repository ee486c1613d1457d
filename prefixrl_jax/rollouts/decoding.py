"""The device side of the sampler: jitted functions of SamplerState."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout

from prefixrl_jax.batches import KVCache, SamplerState
from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.distributed.ahead import Program
from prefixrl_jax.models import attention, parameters, transformer
from prefixrl_jax.models.decoder_config import layer_flags
from prefixrl_jax.rollouts.drawing import draw

if TYPE_CHECKING:
  from jax import Array
  from jaxtyping import Bool, Float32, Int, Int32, UInt32


def init_state(
  config,
  *,
  rows: int,
  lanes: int,
  trunk_length: int,
  completion_length: int,
) -> SamplerState:
  """Returns a state in which every lane is idle.

  Args:
    config: TransformerConfig.
    rows: R.
    lanes: G.
    trunk_length: P.
    completion_length: C.
  """
  grid = (rows, lanes)
  return SamplerState(
    caches=transformer.init_caches(
      config,
      rows=rows,
      lanes=lanes,
      trunk_length=trunk_length,
      completion_length=completion_length,
    ),
    trunk_tokens=jnp.zeros((rows, trunk_length), jnp.int32),
    fork=jnp.ones(grid, jnp.int32),
    token=jnp.zeros(grid, jnp.int32),
    length=jnp.zeros(grid, jnp.int32),
    limit=jnp.zeros(grid, jnp.int32),
    active=jnp.zeros(grid, bool),
    key=jax.vmap(jax.vmap(jax.random.key))(jnp.zeros(grid, jnp.uint32)),
    tokens=jnp.zeros((*grid, completion_length), jnp.int32),
    logprobs=jnp.zeros((*grid, completion_length), jnp.float32),
  )


def state_shardings(mesh, abstract: SamplerState) -> SamplerState:
  """Returns a state's shardings, its caches' axes in the order of the backend.

  Args:
    mesh: of the sampler.
    abstract: shapes of `init_state`.
  """
  shardings = logical_shardings(mesh, abstract)
  keys = abstract.caches[0].lane_key.shape
  where = shardings.caches[0].lane_key
  order = backends.of_mesh(mesh).cache_order_of(where.shard_shape(keys)[1])

  def place(name, where):
    return Format(Layout(order[name]), where) if name in order else where

  return dataclasses.replace(
    shardings,
    caches=tuple(
      KVCache(**{name: place(name, getattr(c, name)) for name in _OF_CACHE})
      for c in shardings.caches
    ),
  )


_OF_CACHE = {
  "trunk_key": ("rows", "kv_heads", None, "head_dim", "length"),
  "trunk_value": ("rows", "kv_heads", None, "length", "head_dim"),
  "lane_key": ("rows", "kv_heads", "lanes", None, "head_dim", "length"),
  "lane_value": ("rows", "kv_heads", "lanes", None, "length", "head_dim"),
}


def logical_shardings(mesh, abstract: SamplerState) -> SamplerState:
  """Returns a state's shardings: rows as `AXIS_RULES` says, heads over tensor.

  Args:
    mesh: of the sampler; its devices may be absent.
    abstract: shapes of `init_state`.
  """
  rows_only = lambda x: sharding.rows_sharding(mesh, x.shape, axis=0)
  place = lambda name, x: sharding.sharding(mesh, x.shape, *_OF_CACHE[name])
  return dataclasses.replace(
    jax.tree.map(rows_only, abstract),
    caches=tuple(
      KVCache(**{name: place(name, getattr(c, name)) for name in _OF_CACHE})
      for c in abstract.caches
    ),
  )


def make_admit(config, shardings: SamplerState):
  """Returns what prefills new trunks into rows.

  One compiled layer serves all but the last.

  It is (params, state, row_ids, trunks) -> state, with unstacked parameters,
  int [r] rows to fill, of which numbers beyond the rows are ignored, and
  int [r, P] trunks; the state given is used up.

  Args:
    config: TransformerConfig.
    shardings: of a SamplerState.
  """

  def embed(trunk_tokens, embedding, row_ids, trunks):
    begun = transformer.embed_trunks(config, {"embedding": embedding}, trunks)
    return trunk_tokens.at[row_ids].set(trunks), begun

  begin = Program(
    "begin prefill",
    embed,
    donate_argnums=0,
    out_shardings=(shardings.trunk_tokens, None),
  )
  inner = jit_prefill_layer(config, shardings)
  last = jit_prefill_layer(config, shardings, is_last=True)
  run = [inner] * (config.num_layers - 1) + [last]
  flags = [layer_flags(config, i) for i in range(config.num_layers)]

  def admit(params, state, row_ids, trunks):
    trunk_tokens, (x, cos_sin) = begin(
      state.trunk_tokens, params["embedding"], row_ids, trunks
    )
    caches = []
    layers = zip(run, params["layers"], state.caches, flags)
    for run_layer, layer, cache, its_flags in layers:
      x, cache = run_layer(layer, x, cos_sin, cache, row_ids, its_flags)
      caches.append(cache)
    return dataclasses.replace(
      state, caches=tuple(caches), trunk_tokens=trunk_tokens
    )

  return admit


def jit_prefill_layer(
  config, shardings: SamplerState, *, is_last=False
) -> Program:
  """Returns `transformer.prefill_layer`, compiled; its cache is used up.

  After the last layer nothing is wanted but its cache: with `is_last` there is
  no residual, and XLA leaves out what would make one.

  Args:
    config: TransformerConfig.
    shardings: of a SamplerState.
    is_last: see above.
  """

  def run(params, x, cos_sin, cache, row_ids, flags):
    x, cache = transformer.prefill_layer(
      config, params, x, cos_sin, cache, row_ids, flags
    )
    return None if is_last else x, cache

  return Program(
    "prefill, last layer" if is_last else "prefill a layer",
    run,
    donate_argnames="cache",
    out_shardings=(None, shardings.caches[0]),
    compiler_options=backends.of_mesh(
      shardings.trunk_tokens.mesh
    ).sampler_options(parameters.num_params(config)),
  )


def start(
  state: SamplerState,
  lanes: Bool[Array, "R G"],
  fork: Int[Array, "R G"],
  limit: Int[Array, "R G"],
  seed: UInt32[Array, ""],
  key_ids: UInt32[Array, "R G 4"],
) -> SamplerState:
  """Starts a completion in the chosen lanes; a limit of 0 makes them idle.

  A completion's key is a function of (seed, key_ids) alone, never of the row,
  lane or time it is sampled at.

  Args:
    state: SamplerState.
    lanes: which lanes to start.
    fork: how many tokens of its row's trunk a lane sees.
    limit: tokens to sample at most.
    seed: seed for the sampling.
    key_ids: purpose, step, problem, attempt.

  Returns:
    The new SamplerState.
  """

  def lane_key(ids):
    fold = lambda key, number: (jax.random.fold_in(key, number), None)
    return jax.lax.scan(fold, jax.random.key(seed), ids)[0]

  pick = lambda new, old: jnp.where(lanes, new, old)
  first = jnp.take_along_axis(state.trunk_tokens, fork - 1, axis=1)
  return dataclasses.replace(
    state,
    fork=pick(fork, state.fork),
    token=pick(first, state.token),
    length=pick(0, state.length),
    limit=pick(limit, state.limit),
    active=pick(limit > 0, state.active),
    key=pick(jax.vmap(jax.vmap(lane_key))(key_ids), state.key),
  )


def decode(
  config,
  params: dict,
  state: SamplerState,
  patience: Int[Array, ""],
  *,
  num_steps: int,
  temperature: float,
  top_k: int,
  top_p: float,
  stop_tokens: Sequence[int],
) -> tuple[
  SamplerState,
  tuple[
    Int32[Array, ""],
    Float32[Array, ""],
    Bool[Array, "R G"],
    Int32[Array, "R G"],
  ],
]:
  """Samples until num_steps are done or lanes have waited long enough.

  Args:
    config: TransformerConfig.
    params: unstacked parameters.
    state: SamplerState.
    patience: return once finished lanes have idled for this many steps, summed
      over lanes.
    num_steps: maximum tokens per lane.
    temperature: what logits are divided by; 0 is greedy.
    top_k: sample among the k likeliest; 0 is off.
    top_p: sample from the smallest set with this mass (nucleus sampling); 1 is
      off.
    stop_tokens: tokens that end a completion (and belong to it).

  Returns:
    The new SamplerState, and for the host (steps done, keys that a lane's
    queries met in all of them, active, length).
  """
  cos_sin_of = lambda state: transformer.decode_cos_sin(
    config, fork=state.fork, length=state.length
  )

  def body(carry):
    step, waited, keys, cos_sin, state = carry
    reach = attention.decode_reach(
      state.caches[0], fork=state.fork, length=state.length, active=state.active
    )
    logits, caches = transformer.decode_step(
      config,
      params,
      state.token,
      cos_sin,
      state.caches,
      reach,
      fork=state.fork,
      length=state.length,
    )
    with jax.named_scope("draw"):
      token, logprob = draw(
        logits, state.key, state.length, temperature, top_k, top_p
      )
    state = _append(
      dataclasses.replace(state, caches=caches), token, logprob, stop_tokens
    )
    waited += busy - jnp.sum(state.active)
    keys += attention.num_keys(state.caches[0], reach).astype(jnp.float32)
    return step + 1, waited, keys, cos_sin_of(state), state

  def goes_on(carry):
    step, waited, *_, state = carry
    return (step < num_steps) & (waited <= patience) & jnp.any(state.active)

  busy = jnp.sum(state.active)
  zero = jnp.int32(0)
  step, _, keys, _, state = jax.lax.while_loop(
    goes_on, body, (zero, zero, jnp.float32(0), cos_sin_of(state), state)
  )
  return state, (step, keys, state.active, state.length)


def _append(state: SamplerState, token, logprob, stop_tokens) -> SamplerState:
  """Gives active lanes the token they have drawn, and stops those it ends.

  Args:
    state: SamplerState.
    token: int32 [R, G].
    logprob: float32 [R, G]; what is not finite ends a lane, for the host to
      see.
    stop_tokens: see `decode`.
  """
  # A lane's own write, so that no device asks another for it.
  write = jax.vmap(jax.vmap(lambda old, new, i: old.at[i].set(new)))
  # Out of bounds is not written: an idle lane keeps what it has.
  slot = jnp.where(state.active, state.length, state.tokens.shape[2])
  length = state.length + state.active
  stops = jnp.asarray(stop_tokens, jnp.int32)
  stopped = jnp.any(token[..., None] == stops, axis=-1)
  return dataclasses.replace(
    state,
    token=token,
    length=length,
    active=state.active
    & ~stopped
    & (length < state.limit)
    & jnp.isfinite(logprob),
    tokens=write(state.tokens, token, slot),
    logprobs=write(state.logprobs, logprob, slot),
  )


def pick(
  state: SamplerState, index: Int[Array, "2 n"]
) -> tuple[Int32[Array, "n C"], Float32[Array, "n C"]]:
  """Returns what some lanes have sampled.

  Args:
    state: SamplerState.
    index: rows and lanes.

  Returns:
    Tokens and their log-probabilities.
  """
  rows, lanes = index
  return state.tokens[rows, lanes], state.logprobs[rows, lanes]
