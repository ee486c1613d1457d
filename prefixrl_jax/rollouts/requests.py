"""What is asked of the sampler, and which requests share a sampler row."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Request:
  """Completions asked of one fork; the trunk ends there.

  Attributes:
    trunk: int32 [fork], prompt and prefix.
    num_completions: how many completions.
    step: training step, or another number in its place; part of the
      completions' keys.
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


Bundle = list[tuple[int, Request]]  # (place among the requests, request)


def bundle_by_trunk(requests: Sequence[Request]) -> list[Bundle]:
  """Puts requests together whose trunks begin the bundle's first, longest one.

  Bundles are ordered by the longest completion that may be asked of them.

  Args:
    requests: in any order.
  """
  shortest = min((len(r.trunk) for r in requests), default=0)
  # Only those that begin alike are compared.
  alike: dict[bytes, list[Bundle]] = {}
  for i in sorted(range(len(requests)), key=lambda i: -len(requests[i].trunk)):
    trunk = requests[i].trunk
    bundles = alike.setdefault(trunk[:shortest].tobytes(), [])
    for shared in bundles:
      if np.array_equal(shared[0][1].trunk[: len(trunk)], trunk):
        shared.append((i, requests[i]))
        break
    else:
      bundles.append([(i, requests[i])])
  order = lambda b: (-max(r.max_tokens for _, r in b), min(i for i, _ in b))
  return sorted((b for bs in alike.values() for b in bs), key=order)


def fill_rows(bundles: list[Bundle], *, rows: int, lanes: int) -> list[Bundle]:
  """Halves the largest bundles until there is one for each sampler row.

  One that fits into a row's lanes stays whole.

  Args:
    bundles: from `bundle_by_trunk`.
    rows: R.
    lanes: G.
  """
  size = lambda shared: sum(r.num_completions for _, r in shared)
  bundles = list(bundles)
  while 0 < len(bundles) < rows:
    largest = max(range(len(bundles)), key=lambda b: size(bundles[b]))
    total = size(bundles[largest])
    if total <= lanes:
      break
    first: Bundle = []
    second: Bundle = []
    room = max(total // 2, lanes)
    for i, request in bundles[largest]:
      n = min(room, request.num_completions)
      room -= n
      split = lambda start, count, request=request: dataclasses.replace(
        request,
        num_completions=count,
        first_attempt=request.first_attempt + start,
      )
      if n:
        first.append((i, split(0, n)))
      if n < request.num_completions:
        second.append((i, split(n, request.num_completions - n)))
    bundles[largest : largest + 1] = [first, second]
  return bundles
