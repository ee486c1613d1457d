"""The sampler: has the programs do what the grid of rows and lanes plans.

The device decodes on while finished tokens travel to the host and are judged
there.
"""

import dataclasses
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.profiler import TraceAnnotation

from prefixrl_jax.distributed import backends
from prefixrl_jax.models import transformer
from prefixrl_jax.rollouts.grid import Grid, Plan
from prefixrl_jax.rollouts.programs import programs_of
from prefixrl_jax.rollouts.requests import (
  Request,
  bundle_by_trunk,
  fill_rows,
)
from prefixrl_jax.types import (
  Completion,
  NonFiniteError,
  SamplingUsage,
)

# The first component of a completion's key, for each purpose of the ledger that
# samples. A changed number would change what is sampled.
PURPOSE_IDS = {"screening": 0, "collection": 1, "sampling": 2, "evaluation": 3}


@dataclasses.dataclass
class _Finished:
  """Completions on their way to the host."""

  done: list  # of (request number, attempt, length)
  arrays: tuple  # tokens, logprobs: [at least len(done), C], on the device


class Arena:
  """What samplers' arrays share: those of one of them are there at a time."""

  def __init__(self):
    self._holder: Callable[[], Sampler | None] = lambda: None

  def give_to(self, sampler: "Sampler") -> None:
    """Frees what another sampler has there."""
    holder = self._holder()
    if holder is not None and holder is not sampler:
      holder.release()
    self._holder = weakref.ref(sampler)


class Sampler:
  """Samples completions on a mesh, from the parameters last loaded.

  Its programs are shared by all samplers of its shape, and stay compiled when
  it is gone; its arrays (weights and caches) go with it, or are released.
  """

  def __init__(
    self,
    config: transformer.TransformerConfig,
    mesh: jax.sharding.Mesh,
    *,
    arena: Arena | None = None,
    **shape: Any,
  ):
    """Sets up the functions; compiles nothing and holds no array yet.

    Args:
      config: TransformerConfig.
      mesh: sampler rows are sharded over its data, fsdp and expert axes.
      arena: shared with other samplers; None: an arena of its own.
      **shape: see `programs.Programs`.
    """
    self.config, self.mesh = config, mesh
    self.programs = programs = programs_of(config, mesh, **shape)
    self.rows, self.lanes = programs.rows, programs.lanes
    self.trunk_length = programs.trunk_length
    self.completion_length = programs.completion_length
    self.stop_tokens = programs.stop_tokens
    self.usage = SamplingUsage()
    self._arena = arena or Arena()
    self._grid = Grid(
      self.rows,
      self.lanes,
      trunk_length=self.trunk_length,
      completion_length=self.completion_length,
    )
    self.release()

  def release(self) -> None:
    """Frees weights and caches; `load` is what comes next, if anything does."""
    self._params: Any = None  # unstacked
    self._drop_state()

  def _drop_state(self) -> None:
    self._state: Any = None  # SamplerState, made at the next run
    self._grid.forget()
    self._is_running = False

  def load(self, params: dict) -> None:
    """Takes the policy to sample from; caches of another one are dropped.

    Args:
      params: as from `transformer.init`, sharded.
    """
    self._arena.give_to(self)
    self._grid.forget()
    self._params = None  # before there are others
    with jax.set_mesh(self.mesh), TraceAnnotation("weight hand-over"):
      self._params = self.programs.unstack(params)

  def warm_up(self, params: dict) -> None:
    """Compiles every program and runs it once; later calls compile nothing.

    Args:
      params: see `load`.
    """
    self.load(params)
    with jax.set_mesh(self.mesh):
      state = self._state or self.programs.init()
      self._state = None  # used up
      self._state = self.programs.run_each(self._params, state)

  def pop_usage(self) -> SamplingUsage:
    """Returns what was spent since the last call."""
    usage, self.usage = self.usage, SamplingUsage()
    return usage

  def cancel(self, number: int, above: int = -1) -> None:
    """Drops the request's completions whose attempt is above a number.

    Those below go on, so that which completion comes first does not depend
    on which lane was quicker.

    Args:
      number: of the request, see `run`.
      above: the last attempt that is still wanted; -1 wants none.
    """
    self._grid.cancel(number, above)

  def run(
    self,
    trunks: Iterable[Sequence[Request]],
    *,
    purpose: str,
    seed: int,
  ) -> Iterator[list[tuple[int, int, Completion]]]:
    """Yields lists of (request number, attempt, completion) as lanes finish.

    While the caller works on one list, the device decodes the next.

    Args:
      trunks: taken one by one, as rows become free; each is the requests of
        one trunk, the longest first, which the others' trunks begin. They are
        numbered as they come.
      purpose: a key of PURPOSE_IDS; part of every completion's key.
      seed: seed for the sampling; likewise.

    Raises:
      UserError: a trunk is longer than the sampler's.
      NonFiniteError: the policy's logits are.
    """
    assert self._params is not None, "released, or nothing loaded yet"
    grid = self._grid
    grid.begin(trunks)
    started = time.perf_counter()
    finished = None
    with jax.set_mesh(self.mesh):
      if self._is_running:  # the last run was left early
        self._drop_state()
      self._state = self._state or self.programs.init()
      self._is_running = True
      while True:
        self._carry_out(grid.plan(), purpose, seed)
        is_busy = grid.is_busy
        if is_busy:
          sync_cost = backends.current_backend().sync_cost
          patience = int(sync_cost * self.rows * self.lanes)
          if not grid.has_more:
            patience = np.iinfo(np.int32).max
          with TraceAnnotation("decode"):
            self._state, status = self.programs.decode(
              self._params,
              state=self._state,
              patience=np.int32(patience),
            )
        if finished:
          completions = self._fetch(finished)
          self.usage.seconds += time.perf_counter() - started
          yield completions
          started = time.perf_counter()
        if not is_busy:
          break
        finished = self._synchronise(status)
    self._is_running = False
    self.usage.seconds += time.perf_counter() - started

  def sample(
    self, requests: Sequence[Request], *, purpose: str, seed: int
  ) -> list[list[Completion]]:
    """Returns each request's completions, in the order of their attempts.

    Requests that fork from one trunk share its row, and the longest expected
    start first.

    Args:
      requests: in any order.
      purpose: a key of PURPOSE_IDS; part of every completion's key.
      seed: seed for the sampling; likewise.

    Raises:
      UserError: a trunk is longer than the sampler's.
      NonFiniteError: the policy's logits are.
    """
    bundles = fill_rows(
      bundle_by_trunk(requests), rows=self.rows, lanes=self.lanes
    )
    owners = [i for shared in bundles for i, _ in shared]
    found: list[dict[int, Completion]] = [{} for _ in requests]
    for finished in self.run(
      [[request for _, request in shared] for shared in bundles],
      purpose=purpose,
      seed=seed,
    ):
      for number, attempt, completion in finished:
        found[owners[number]][attempt] = completion
    return [[group[a] for a in sorted(group)] for group in found]

  # -- before a dispatch -------------------------------------------------------

  def _carry_out(self, plan: Plan, purpose: str, seed: int) -> None:
    """Has the device do what was planned."""
    for number, length in plan.dropped:
      self._charge(number, length)
    self._prefill(plan.prefills)
    if plan.lanes.any():
      purposes = np.full(
        (*plan.lanes.shape, 1), PURPOSE_IDS[purpose], np.uint32
      )
      self._state = self.programs.start(
        state=self._state,
        lanes=plan.lanes,
        fork=plan.fork,
        limit=plan.limit,
        seed=np.uint32(seed),
        key_ids=np.concatenate([purposes, plan.key_ids], axis=-1),
      )

  def _prefill(self, admitted: list[tuple[int, np.ndarray]]) -> None:
    """Runs new trunks, a few rows at a time."""
    while admitted:
      width = max(w for w in self.programs.admit_widths if w <= len(admitted))
      now, admitted = admitted[:width], admitted[width:]
      trunks = np.zeros((width, self.trunk_length), np.int32)
      for i, (_, trunk) in enumerate(now):
        trunks[i, : len(trunk)] = trunk
      with TraceAnnotation("prefill"):
        self._state = self.programs.admit(
          self._params,
          self._state,
          row_ids=np.array([r for r, _ in now], np.int32),
          trunks=trunks,
        )
      self.usage.prefill_tokens += trunks.size
      self.usage.pairs += width * self.programs.trunk_pairs

  # -- after a dispatch --------------------------------------------------------

  def _synchronise(self, status) -> _Finished | None:
    """Waits for the dispatch, and frees the lanes that have finished."""
    with TraceAnnotation("wait for decode"):
      steps, keys, active, lengths = jax.device_get(status)
    self.usage.decode_tokens += int(steps) * self.rows * self.lanes
    self.usage.pairs += float(keys) * self.rows * self.lanes
    done, places = self._grid.settle(active, lengths)
    for number, _, length in done:
      self._charge(number, length)
    if not done:
      return None
    width = next(w for w in self.programs.pick_widths if w >= len(done))
    index = np.zeros((2, width), np.int32)
    index[:, : len(done)] = np.transpose(places)
    with TraceAnnotation("pick"):
      arrays = self.programs.pick(self._state, index)
      for array in arrays:
        array.copy_to_host_async()
    return _Finished(done, arrays)

  def _fetch(self, finished: _Finished) -> list[tuple[int, int, Completion]]:
    tokens, logprobs = jax.device_get(finished.arrays)
    for i, (number, _, n) in enumerate(finished.done):
      trunk = self._grid.requests[number].trunk
      if not np.isfinite(logprobs[i, :n]).all():
        raise NonFiniteError(
          "the logits of the policy that is sampled from are NaN or infinite"
          f" (token {n} after a trunk of {len(trunk)});"
          " its weights cannot be used."
        )
    return [
      (
        number,
        attempt,
        Completion(
          tokens=tokens[i, :n].copy(),
          logprobs=logprobs[i, :n].copy(),
          truncated=int(tokens[i, n - 1]) not in self.stop_tokens,
        ),
      )
      for i, (number, attempt, n) in enumerate(finished.done)
    ]

  def _charge(self, number: int, output_tokens: int) -> None:
    self.usage.completions += 1
    self.usage.input_tokens += len(self._grid.requests[number].trunk)
    self.usage.output_tokens += output_tokens
