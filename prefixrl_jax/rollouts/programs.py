"""What samplers of one shape run: compiled once, and no arrays in it."""

import functools
from typing import Any

import jax
import numpy as np

from prefixrl_jax.distributed import backends, sharding
from prefixrl_jax.distributed.ahead import Program
from prefixrl_jax.models import parameters, transformer, tree_attention
from prefixrl_jax.rollouts import decoding
from prefixrl_jax.rounding import ceil_div


class Programs:
  """The functions of `decoding`, jitted for a shape and a mesh."""

  def __init__(
    self,
    config: transformer.TransformerConfig,
    mesh: jax.sharding.Mesh,
    *,
    rows: int,
    lanes: int,
    trunk_length: int,
    completion_length: int,
    steps_per_dispatch: int,
    temperature: float,
    top_k: int,
    top_p: float,
    stop_tokens: tuple[int, ...],
  ):
    """Sets up the functions; compiles nothing yet.

    Args:
      config: TransformerConfig.
      mesh: sampler rows are sharded over its data, fsdp and expert axes.
      rows: R.
      lanes: G.
      trunk_length: P.
      completion_length: C.
      steps_per_dispatch: tokens decoded between two synchronisations with the
        host, if no lane falls idle before.
      temperature: see `decoding.decode`.
      top_k: see `decoding.decode`.
      top_p: see `decoding.decode`.
      stop_tokens: see `decoding.decode`.
    """
    self.config, self.mesh = config, mesh
    self.rows, self.lanes = rows, lanes
    self.trunk_length = trunk_length
    self.completion_length = completion_length
    self.stop_tokens = stop_tokens
    init = functools.partial(
      decoding.init_state,
      config,
      rows=rows,
      lanes=lanes,
      trunk_length=trunk_length,
      completion_length=completion_length,
    )
    whole = sharding.replicated(mesh)
    shardings = decoding.state_shardings(mesh, jax.eval_shape(init))
    donate = functools.partial(
      Program,
      donate_argnames="state",
      compiler_options=backends.of_mesh(mesh).sampler_options(
        parameters.num_params(config)
      ),
    )
    self.init = Program("sampler's state", init, out_shardings=shardings)
    self.unstack = parameters.make_unstack(config, mesh)
    self.admit = decoding.make_admit(config, shardings)
    self.start = donate("start", decoding.start, out_shardings=shardings)
    self.decode = donate(
      "decode",
      functools.partial(
        decoding.decode,
        config,
        num_steps=steps_per_dispatch,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_tokens=stop_tokens,
      ),
      out_shardings=(shardings, whole),
    )
    # Whole on every process: what they decide, they decide alike.
    self.pick = Program("pick", decoding.pick, out_shardings=whole)
    # Few widths, so that few programs are compiled: one for a refill, one for
    # a fresh start.
    self.admit_widths = sorted({1, ceil_div(rows, 4), rows})
    self.pick_widths = sorted({ceil_div(rows * lanes, 8), rows * lanes})
    # The last layer's queries meet nothing: see `decoding.jit_prefill_layer`.
    with jax.set_mesh(mesh):
      pairs = tree_attention.trunk_pairs(config, trunk_length)
    self.trunk_pairs = pairs * (1 - 1 / config.num_layers)

  def run_each(self, params: dict, state: Any) -> Any:
    """Runs every program once, on nothing; compiles what is not yet.

    Args:
      params: unstacked parameters.
      state: SamplerState, which is used up.

    Returns:
      The state, in which every lane is idle.
    """
    grid = (self.rows, self.lanes)
    for width in self.admit_widths:
      state = self.admit(
        params,
        state,
        row_ids=np.full(width, self.rows, np.int32),  # beyond the last
        trunks=np.zeros((width, self.trunk_length), np.int32),
      )
    state = self.start(
      state=state,
      lanes=np.zeros(grid, bool),
      fork=np.ones(grid, np.int32),
      limit=np.zeros(grid, np.int32),
      seed=np.uint32(0),
      key_ids=np.zeros((*grid, 4), np.uint32),
    )
    state, _ = self.decode(params, state=state, patience=np.int32(0))
    for width in self.pick_widths:
      self.pick(state, np.zeros((2, width), np.int32))
    return state


def programs_of(config, mesh: jax.sharding.Mesh, **shape: Any) -> Programs:
  """Returns the programs of this shape, the same ones every time.

  Args:
    config: TransformerConfig.
    mesh: see `Programs`.
    **shape: R, G, P, C and the rest of `Programs`' arguments.
  """
  return _programs(backends.of_mesh(mesh), config, mesh, **shape)


@functools.cache
def _programs(backend, config, mesh, **shape) -> Programs:
  del backend  # what they are traced for
  return Programs(config, mesh, **shape)
