"""Estimators over judged samples, and over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def pass_at_k(
  num_samples: ArrayLike, num_correct: ArrayLike, k: int
) -> np.ndarray:
  """Estimates the chance that one of k samples is correct, without bias.

  1 - C(n - c, k) / C(n, k) as a product of k factors in [0, 1], which neither
  overflows nor cancels (Chen et al. 2021, arXiv 2107.03374, eq. 1).

  Args:
    num_samples: n, broadcast against num_correct; usually [problems].
    num_correct: c, of each problem's n samples.
    k: number of samples allowed.

  Returns:
    float64 of the broadcast shape.

  Raises:
    ValueError: k is not in 1 to n, or c not in 0 to n.
  """
  n, c = np.broadcast_arrays(
    np.asarray(num_samples, np.float64), np.asarray(num_correct, np.float64)
  )
  if k < 1 or np.any(k > n):
    raise ValueError(f"pass@{k} needs 1 <= k <= num_samples, {n.min():.0f}")
  if np.any(c < 0) or np.any(c > n):
    raise ValueError("num_correct must be between 0 and num_samples")
  drawn = np.arange(k)
  n, c = n[..., None], c[..., None]
  # Once the wrong samples are used up a factor is 0, and the estimate 1.
  still_wrong = np.maximum(n - c - drawn, 0) / (n - drawn)
  return 1.0 - np.prod(still_wrong, axis=-1)


def bootstrap_interval(
  values: ArrayLike,
  *,
  confidence: float = 0.95,
  num_resamples: int = 2000,
  seed: int = 0,
) -> tuple[float, float]:
  """Returns the percentile bootstrap interval of a mean.

  Args:
    values: one per problem; problems are resampled, since samples of one
      problem are not independent.
    confidence: share of the resampled means that the interval holds.
    num_resamples: number of resamples.
    seed: seed for the draws.

  Returns:
    The lower and the upper end.

  Raises:
    ValueError: there are no values, or confidence is not between 0 and 1.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not values.size:
    raise ValueError(f"need a list of values, got shape {values.shape}")
  if not 0 < confidence < 1:
    raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
  rng = np.random.default_rng(seed)
  drawn = rng.integers(values.size, size=(num_resamples, values.size))
  tail = (1 - confidence) / 2
  low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail])
  return float(low), float(high)


def crossed_intervals(
  values: Sequence[Mapping[str, np.ndarray]],
  *,
  confidence: float = 0.95,
  num_resamples: int = 1000,
  seed: int = 0,
) -> np.ndarray:
  """Returns bootstrap intervals of means over problems, then over seeds.

  Seeds are resampled, and problems by their ids: a problem that several seeds
  have is drawn for all of them, so that what they share counts once. A seed
  without any of the problems drawn is left out of that draw's mean.

  Args:
    values: of each seed, {problem id: [quantities]}; none of them is empty.
    confidence: share of the resampled means that an interval holds.
    num_resamples: number of resamples.
    seed: seed for the draws.

  Returns:
    float64 [2, quantities]: the lower and the upper ends.
  """
  places = {p: i for i, p in enumerate(sorted({p for v in values for p in v}))}
  of_problems = resampling_weights(
    len(places), num_resamples=num_resamples, seed=seed
  )
  of_seeds = resampling_weights(
    len(values), num_resamples=num_resamples, seed=seed + 1
  )
  total, weight = 0.0, 0.0
  for of_seed, by_problem in zip(of_seeds.T, values):
    drawn = of_problems[:, [places[p] for p in by_problem]]
    mass = drawn.sum(axis=1)
    mean = drawn @ np.stack([*by_problem.values()])
    mean /= np.where(mass == 0, 1, mass)[:, None]
    there = of_seed * (mass > 0)
    total = total + there[:, None] * mean
    weight = weight + there
  means = total / np.where(weight == 0, np.nan, weight)[:, None]
  tail = (1 - confidence) / 2
  return np.nanquantile(means, [tail, 1 - tail], axis=0)


def spread(values: Iterable[float | None]) -> dict[str, Any]:
  """Returns mean, min, max, std and num of the values that are not None.

  std is the sample's; None for a single value. Without values all but num are
  None.
  """
  defined = [value for value in values if value is not None]
  if not defined:
    return dict.fromkeys(("mean", "min", "max", "std"), None) | {"num": 0}
  return {
    "mean": float(np.mean(defined)),
    "min": min(defined),
    "max": max(defined),
    "std": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
    "num": len(defined),
  }


def resampling_weights(
  num: int, *, num_resamples: int = 2000, seed: int = 0
) -> np.ndarray:
  """Returns how often each of num items is drawn in a resample, as a share.

  The mean of a resample is then the product with one row.

  Args:
    num: number of items; as many are drawn, with replacement.
    num_resamples: rows.
    seed: seed for the draws.

  Returns:
    float64 [num_resamples, num]; each row sums to 1.
  """
  rng = np.random.default_rng(seed)
  return rng.multinomial(num, np.full(num, 1 / num), num_resamples) / num
