"""Which completion each sampler row and lane works on. Numpy alone.

In this module a row is a sampler row.

A row holds one trunk and serves all requests that fork from it. A lane that
finishes is given the next completion its row still owes; a row that owes
nothing is given the next trunk.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.types import UserError

_NO_TRUNK = np.zeros(0, np.int32)


class Piece(NamedTuple):
  """A completion that a lane works on, or has finished.

  Attributes:
    number: of the request, in the order they came.
    attempt: of the request's completions.
  """

  number: int
  attempt: int


@dataclasses.dataclass
class _Row:
  """What one row is doing."""

  owed: collections.deque[Piece]
  lanes: list[Piece | None]  # None is idle

  @property
  def is_busy(self) -> bool:
    return any(lane is not None for lane in self.lanes)


class Plan(NamedTuple):
  """What the device is to do before it decodes on.

  Attributes:
    prefills: (row, trunk) of trunks that are not in their row's cache.
    lanes: bool [R, G], those that start, or stop where their limit is 0.
    fork: int32 [R, G], trunk tokens that a lane sees.
    limit: int32 [R, G], tokens to sample at most.
    key_ids: uint32 [R, G, 3], of each completion: step, problem, attempt.
    dropped: (request number, tokens sampled) of completions given up.
  """

  prefills: list[tuple[int, np.ndarray]]
  lanes: np.ndarray
  fork: np.ndarray
  limit: np.ndarray
  key_ids: np.ndarray
  dropped: list[tuple[int, int]]


class Grid:
  """Rows and lanes, and the requests they serve."""

  def __init__(
    self, rows: int, lanes: int, *, trunk_length: int, completion_length: int
  ):
    """Starts with nothing to do.

    Args:
      rows: R.
      lanes: G, of each row.
      trunk_length: P, trunk tokens that a row has room for.
      completion_length: C, tokens that a lane has room for.
    """
    self._shape = rows, lanes
    self._trunk_length = trunk_length
    self._completion_length = completion_length
    self.forget()
    self.begin([])

  def forget(self) -> None:
    """Notes that the caches hold no trunk any more."""
    self._cached = [_NO_TRUNK] * self._shape[0]

  def begin(self, trunks: Iterable[Sequence[Request]]) -> None:
    """Takes up new work.

    Args:
      trunks: see `Sampler.run`.
    """
    self._waiting: Iterator[Sequence[Request]] | None = iter(trunks)
    self._rows: list[_Row | None] = [None] * self._shape[0]
    self._lengths = np.zeros(self._shape, np.int32)  # last seen
    self._cancelled: dict[int, int] = {}
    self.requests: list[Request] = []  # by number

  def cancel(self, number: int, above: int) -> None:
    """Drops the request's completions whose attempt is above a number.

    Args:
      number: of the request.
      above: the last attempt that is still wanted.
    """
    self._cancelled[number] = min(above, self._cancelled.get(number, above))

  @property
  def is_busy(self) -> bool:
    """Whether any lane has work."""
    return any(row is not None and row.is_busy for row in self._rows)

  @property
  def has_more(self) -> bool:
    """Whether there may be work that no lane has yet."""
    return self._waiting is not None or any(
      row is not None and row.owed for row in self._rows
    )

  def plan(self) -> Plan:
    """Gives idle rows and lanes work.

    Raises:
      UserError: a trunk is longer than there is room for.
    """
    plan = Plan(
      prefills=[],
      lanes=np.zeros(self._shape, bool),
      fork=np.ones(self._shape, np.int32),
      limit=np.zeros(self._shape, np.int32),
      key_ids=np.zeros((*self._shape, 3), np.uint32),
      dropped=[],
    )
    for r, row in enumerate(self._rows):
      if row is None:
        continue
      self._drop_cancelled(r, row, plan)
      if not row.owed and not row.is_busy:
        self._rows[r] = None
    self._admit(plan)
    for r, row in enumerate(self._rows):
      if row is not None:
        self._start(r, row, plan)
    return plan

  def settle(
    self, active: np.ndarray, lengths: np.ndarray
  ) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
    """Frees the lanes that have finished.

    Args:
      active: bool [R, G], the lanes that go on.
      lengths: int [R, G], tokens they have sampled.

    Returns:
      (request number, attempt, length) of what has finished, and where: row,
      lane.
    """
    self._lengths = lengths
    done, places = [], []
    for r, row in enumerate(self._rows):
      for g, piece in enumerate(row.lanes if row else ()):
        if row is not None and piece is not None and not active[r, g]:
          done.append((*piece, int(lengths[r, g])))
          places.append((r, g))
          row.lanes[g] = None
    return done, places

  def _drop_cancelled(self, r: int, row: _Row, plan: Plan) -> None:
    """Forgets what is not wanted any more, and stops its lanes."""
    if not self._cancelled:
      return

    def is_unwanted(piece: Piece) -> bool:
      last = self._cancelled.get(piece.number, piece.attempt)
      return piece.attempt > last

    row.owed = collections.deque(p for p in row.owed if not is_unwanted(p))
    for g, piece in enumerate(row.lanes):
      if piece is not None and is_unwanted(piece):
        row.lanes[g] = None
        plan.lanes[r, g] = True  # its limit is 0
        plan.dropped.append((piece.number, int(self._lengths[r, g])))

  def _admit(self, plan: Plan) -> None:
    """Fills free rows; a trunk that is in a row's cache is not run again."""
    free = [r for r, row in enumerate(self._rows) if row is None]
    while free and self._waiting is not None:
      requests = next(self._waiting, None)
      if requests is None:
        self._waiting = None
        return
      trunk = self._checked(requests[0].trunk)
      is_cached = lambda r, trunk=trunk: np.array_equal(self._cached[r], trunk)
      r = next(filter(is_cached, free), free[0])
      free.remove(r)
      if not is_cached(r):
        plan.prefills.append((r, trunk))
        self._cached[r] = trunk
      owed: collections.deque[Piece] = collections.deque()
      for request in requests:
        number = len(self.requests)
        self.requests.append(request)
        owed.extend(
          Piece(number, request.first_attempt + i)
          for i in range(request.num_completions)
        )
      self._rows[r] = _Row(owed, [None] * self._shape[1])

  def _checked(self, trunk: np.ndarray) -> np.ndarray:
    if not 0 < len(trunk) <= self._trunk_length:
      raise UserError(
        f"a trunk of {len(trunk)} tokens does not fit into the sampler's"
        f" {self._trunk_length}; raise config.rollouts.max_prompt_length."
      )
    return trunk

  def _start(self, r: int, row: _Row, plan: Plan) -> None:
    """Gives a row's idle lanes what it owes."""
    for g, lane in enumerate(row.lanes):
      if lane is not None or not row.owed:
        continue
      row.lanes[g] = piece = row.owed.popleft()
      request = self.requests[piece.number]
      plan.lanes[r, g] = True
      plan.fork[r, g] = len(request.trunk)
      plan.limit[r, g] = min(
        request.max_tokens or self._completion_length, self._completion_length
      )
      plan.key_ids[r, g] = request.step, request.problem, piece.attempt
