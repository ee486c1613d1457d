"""The host side of the sampler: keeps rows of trunks and lanes at work.

A row holds one trunk. A lane that finishes is given the next completion its
row still owes; a row that owes nothing is given the next request.
"""

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from prefixrl_jax.batches import KVCache
from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import transformer
from prefixrl_jax.rollouts import decoding
from prefixrl_jax.types import Completion, UserError

# The first component of a completion's key.
PURPOSES = {"screening": 0, "collection": 1, "sampling": 2, "evaluation": 3}


@dataclasses.dataclass(frozen=True)
class Request:
  """Completions asked of one fork; the trunk ends there.

  Attributes:
    trunk: int32 [fork], prompt and prefix.
    num_completions: how many.
    step: training step or other stamp, part of the completions' keys.
    problem: the problem's index, part of the keys.
    first_attempt: number of the first completion, part of the keys.
    max_tokens: where a completion is truncated; 0 is the sampler's length.
  """

  trunk: np.ndarray
  num_completions: int
  step: int
  problem: int
  first_attempt: int = 0
  max_tokens: int = 0


@dataclasses.dataclass
class Usage:
  """What sampling cost, for the ledger."""

  completions: int = 0
  input_tokens: int = 0  # trunk tokens, counted for every completion
  output_tokens: int = 0
  prefill_tokens: int = 0  # executed: padding included, shared trunks once
  decode_tokens: int = 0  # executed: idle lanes included
  seconds: float = 0.0


@dataclasses.dataclass
class _Row:
  """What one row is doing."""

  number: int  # of the request
  request: Request
  next_attempt: int
  attempts: list[int | None]  # per lane; None is idle


class Sampler:
  """Samples completions on a mesh, from the parameters last loaded."""

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
      config: of the transformer.
      mesh: rows are sharded over its data and fsdp axes.
      rows: R. lanes: G. trunk_length: P. completion_length: C.
      steps_per_dispatch: tokens decoded between two looks at the lanes.
      temperature: 0 is greedy.
      top_k: 0 is off. top_p: 1 is off.
      stop_tokens: end a completion.
    """
    self.config, self.mesh = config, mesh
    self.rows, self.lanes = rows, lanes
    self.trunk_length = trunk_length
    self.completion_length = completion_length
    self.stop_tokens = stop_tokens
    self.usage = Usage()
    shape = dict(
      rows=rows,
      lanes=lanes,
      trunk_length=trunk_length,
      completion_length=completion_length,
    )
    abstract = jax.eval_shape(
      functools.partial(decoding.init_state, config, **shape)
    )
    state_shardings = _state_shardings(mesh, abstract)
    whole = sharding.replicated(mesh)
    jit = functools.partial(jax.jit, donate_argnames="state")
    self._init = jax.jit(
      functools.partial(decoding.init_state, config, **shape),
      out_shardings=state_shardings,
    )
    # Decoding multiplies a few tokens by all weights, and XLA:CPU is
    # particular about how they lie.
    decoder = dataclasses.replace(
      config, outputs_first=mesh.devices.flat[0].platform == "cpu"
    )
    self._unstack = jax.jit(functools.partial(transformer.unstack, decoder))
    self._admit = jit(
      functools.partial(decoding.admit, config), out_shardings=state_shardings
    )
    self._start = jit(decoding.start, out_shardings=state_shardings)
    self._decode = jit(
      functools.partial(
        decoding.decode,
        decoder,
        num_steps=steps_per_dispatch,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_tokens=stop_tokens,
      ),
      out_shardings=(state_shardings, whole),
    )
    # Two widths: a fresh start fills every row, a refill only a few.
    self._admit_widths = sorted({-(-rows // 4), rows})
    self._params: Any = None  # as loaded, for prefilling
    self._decoder_params: Any = None
    self._state: Any = None  # SamplerState, made at the first run
    self._cancelled: dict[int, int] = {}
    self._dropped: list[tuple[int, int]] = []
    self._forks = np.ones((rows, lanes), np.int32)

  def load(self, params: dict) -> None:
    """Takes the policy to sample from; caches of another one are dropped."""
    self._params = params
    with jax.set_mesh(self.mesh):
      self._decoder_params = self._unstack(params)

  def warm_up(self, params: dict) -> None:
    """Compiles every program and runs it once; later calls compile nothing."""
    self.load(params)
    grid = (self.rows, self.lanes)
    with jax.set_mesh(self.mesh):
      state = self._state or self._init()
      for width in self._admit_widths:
        state = self._admit(
          self._params,
          state=state,
          row_ids=np.full(width, self.rows, np.int32),  # beyond the last
          trunks=np.zeros((width, self.trunk_length), np.int32),
        )
      state = self._start(
        state=state,
        lanes=np.zeros(grid, bool),
        fork=np.ones(grid, np.int32),
        limit=np.zeros(grid, np.int32),
        seed=np.uint32(0),
        key_ids=np.zeros((*grid, 4), np.uint32),
      )
      self._state, _ = self._decode(
        self._decoder_params, state=state, min_active=np.int32(0)
      )

  def pop_usage(self) -> Usage:
    """Returns what was spent since the last call."""
    usage, self.usage = self.usage, Usage()
    return usage

  def cancel(self, number: int, above: int = -1) -> None:
    """Drops the request's completions whose attempt is above a number.

    Those below go on, so that which completion comes first does not depend
    on which lane was quicker.
    """
    self._cancelled[number] = min(above, self._cancelled.get(number, above))

  def run(
    self, requests: Iterable[Request], *, purpose: str, seed: int
  ) -> Iterator[list[tuple[int, int, Completion]]]:
    """Yields lists of (request number, attempt, completion) as lanes finish.

    Args:
      requests: taken one by one, as rows become free.
      purpose: a key of PURPOSES; part of every completion's key.
      seed: likewise.

    Raises:
      UserError: a trunk is longer than the sampler's.
    """
    queue = enumerate(requests)
    rows: list[_Row | None] = [None] * self.rows
    self._cancelled = {}
    started = time.perf_counter()
    with jax.set_mesh(self.mesh):
      if self._state is None:
        self._state = self._init()
      elif any(jax.device_get(self._state.active).flat):
        self._state = self._init()  # the last run was left early
      exhausted = False
      while True:
        exhausted = self._fill(rows, queue, exhausted, purpose, seed)
        active = sum(a is not None for row in rows if row for a in row.attempts)
        if not active:
          break
        owed = not exhausted or any(row and self._owes(row) for row in rows)
        min_active = int(0.75 * active) if owed else 0
        self._state, steps = self._decode(
          self._decoder_params, state=self._state, min_active=np.int32(min_active)
        )
        finished = self._fetch(rows, int(steps))
        self.usage.seconds += time.perf_counter() - started
        yield finished
        started = time.perf_counter()
    self.usage.seconds += time.perf_counter() - started

  def sample(
    self, requests: list[Request], *, purpose: str, seed: int
  ) -> list[list[Completion]]:
    """Returns each request's completions, in the order of their attempts."""
    found: list[dict[int, Completion]] = [{} for _ in requests]
    for finished in self.run(requests, purpose=purpose, seed=seed):
      for number, attempt, completion in finished:
        found[number][attempt] = completion
    return [[group[a] for a in sorted(group)] for group in found]

  def _owes(self, row: _Row) -> bool:
    last = row.request.first_attempt + row.request.num_completions
    above = self._cancelled.get(row.number, last)
    return row.next_attempt < last and row.next_attempt <= above

  def _fill(self, rows, queue, exhausted, purpose, seed) -> bool:
    """Gives idle rows and lanes work; True when no request is left."""
    grid = (self.rows, self.lanes)
    chosen = np.zeros(grid, bool)
    fork = np.ones(grid, np.int32)
    limit = np.zeros(grid, np.int32)
    key_ids = np.zeros((*grid, 4), np.uint32)
    admitted: list[tuple[int, np.ndarray]] = []
    for r in range(self.rows):
      row = rows[r]
      if row is not None:
        above = self._cancelled.get(row.number)
        for g, attempt in enumerate(row.attempts):
          if attempt is not None and above is not None and attempt > above:
            row.attempts[g] = None
            chosen[r, g] = True  # limit 0: idle
            self._dropped.append((r, g))
        if not self._owes(row) and not any(a is not None for a in row.attempts):
          row = rows[r] = None
      if row is None and not exhausted:
        number, request = next(queue, (-1, None))
        exhausted = request is None
        if request is not None:
          row = rows[r] = _Row(
            number, request, request.first_attempt, [None] * self.lanes
          )
          admitted.append((r, self._checked(request.trunk)))
      if row is None:
        continue
      for g in range(self.lanes):
        if row.attempts[g] is None and self._owes(row):
          row.attempts[g] = row.next_attempt
          chosen[r, g] = True
          fork[r, g] = len(row.request.trunk)
          limit[r, g] = min(
            row.request.max_tokens or self.completion_length,
            self.completion_length,
          )
          key_ids[r, g] = (
            PURPOSES[purpose],
            row.request.step,
            row.request.problem,
            row.next_attempt,
          )
          row.next_attempt += 1
    if self._dropped:
      lengths = jax.device_get(self._state.length)
      for r, g in self._dropped:
        self._charge(self._forks[r, g], lengths[r, g])
      self._dropped.clear()
    self._forks = np.where(limit > 0, fork, self._forks)
    self._admit_rows(admitted)
    if chosen.any():
      self._state = self._start(
        state=self._state,
        lanes=chosen,
        fork=fork,
        limit=limit,
        seed=np.uint32(seed),
        key_ids=key_ids,
      )
    return exhausted

  def _checked(self, trunk):
    if not 0 < len(trunk) <= self.trunk_length:
      raise UserError(
        f"a trunk of {len(trunk)} tokens does not fit into the sampler's"
        f" {self.trunk_length}; raise config.rollouts.max_prompt_length."
      )
    return trunk

  def _admit_rows(self, admitted) -> None:
    """Prefills new trunks, a few rows at a time."""
    while admitted:
      width = next(
        (w for w in self._admit_widths if w >= len(admitted)), self.rows
      )
      now, admitted = admitted[:width], admitted[width:]
      row_ids = np.full(width, self.rows, np.int32)
      trunks = np.zeros((width, self.trunk_length), np.int32)
      for i, (r, trunk) in enumerate(now):
        row_ids[i] = r
        trunks[i, : len(trunk)] = trunk
      self._state = self._admit(
        self._params, state=self._state, row_ids=row_ids, trunks=trunks
      )
      self.usage.prefill_tokens += trunks.size

  def _fetch(self, rows, steps: int):
    """Returns what finished during the last dispatch, and frees its lanes."""
    self.usage.decode_tokens += steps * self.rows * self.lanes
    active, lengths = jax.device_get((self._state.active, self._state.length))
    done = [
      (r, g)
      for r, row in enumerate(rows)
      if row
      for g, attempt in enumerate(row.attempts)
      if attempt is not None and not active[r, g]
    ]
    if not done:
      return []
    tokens, logprobs = jax.device_get(
      (self._state.tokens, self._state.logprobs)
    )
    finished = []
    for r, g in done:
      n = int(lengths[r, g])
      completion = Completion(
        tokens=tokens[r, g, :n].copy(),
        logprobs=logprobs[r, g, :n].copy(),
        truncated=int(tokens[r, g, n - 1]) not in self.stop_tokens,
      )
      row = rows[r]
      finished.append((row.number, row.attempts[g], completion))
      row.attempts[g] = None
      self._charge(len(row.request.trunk), n)
    return finished

  def _charge(self, input_tokens, output_tokens) -> None:
    self.usage.completions += 1
    self.usage.input_tokens += int(input_tokens)
    self.usage.output_tokens += int(output_tokens)


def _state_shardings(mesh, abstract):
  """Rows over data and fsdp, heads over tensor."""
  rows_only = lambda x: sharding.sharding(
    mesh, x.shape, "rows", *[None] * (x.ndim - 1)
  )
  shardings = jax.tree.map(rows_only, abstract)
  of_cache = {
    "trunk_key": ("rows", "kv_heads", "head_dim", "length"),
    "trunk_value": ("rows", "kv_heads", "length", "head_dim"),
    "lane_key": ("rows", "lanes", "kv_heads", "head_dim", "length"),
    "lane_value": ("rows", "lanes", "kv_heads", "length", "head_dim"),
  }
  return dataclasses.replace(
    shardings,
    caches=tuple(
      KVCache(
        **{
          name: sharding.sharding(mesh, getattr(cache, name).shape, *axes)
          for name, axes in of_cache.items()
        }
      )
      for cache in abstract.caches
    ),
  )
