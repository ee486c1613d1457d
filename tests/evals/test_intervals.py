"""pass@k against enumeration; the bootstrap against known distributions."""

import itertools
import math

import numpy as np
import pytest

from prefixrl_jax.evals.intervals import (
  bootstrap_interval,
  crossed_intervals,
  pass_at_k,
  resampling_weights,
  spread,
)


def enumerated(n: int, c: int, k: int) -> float:
  """The share of all k-subsets of n samples that hold a correct one."""
  correct = [True] * c + [False] * (n - c)
  subsets = list(itertools.combinations(correct, k))
  return sum(any(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_equals_enumeration_of_all_subsets(n):
  for k in range(1, n + 1):
    c = np.arange(n + 1)
    expected = [enumerated(n, int(x), k) for x in c]
    np.testing.assert_allclose(pass_at_k(n, c, k), expected, atol=1e-14)


def test_pass_at_k_by_hand():
  assert pass_at_k(4, 1, 1) == pytest.approx(1 / 4)
  assert pass_at_k(4, 1, 2) == pytest.approx(1 / 2)
  assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)
  assert pass_at_k(4, 0, 4) == 0
  assert pass_at_k(4, 1, 4) == 1


def test_pass_at_k_is_stable_for_many_samples():
  exact = 1 - math.comb(9_997, 5_000) / math.comb(10_000, 5_000)
  assert pass_at_k(10_000, 3, 5_000) == pytest.approx(exact, rel=1e-12)


def test_pass_at_k_broadcasts_over_problems_of_different_size():
  np.testing.assert_allclose(
    pass_at_k([2, 4, 8], [1, 1, 1], 2), [1, 1 / 2, 1 / 4]
  )
  assert pass_at_k(8, [[0, 1], [2, 3]], 1).shape == (2, 2)


@pytest.mark.parametrize(
  ("n", "c", "k"), [(4, 1, 5), ([8, 4], 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)]
)
def test_pass_at_k_rejects_what_it_cannot_estimate(n, c, k):
  with pytest.raises(ValueError, match="num"):
    pass_at_k(n, c, k)


def test_bootstrap_of_equal_values_is_a_point():
  assert bootstrap_interval([0.25] * 9) == (0.25, 0.25)


def test_bootstrap_equals_enumeration_of_all_resamples():
  # The 27 resamples of three values have 9 means; the quantiles at 5 % and
  # 95 % lie well inside the steps at 1/3 and 7/3, so chance moves neither.
  values = [0.0, 1.0, 3.0]
  means = [np.mean(draw) for draw in itertools.product(values, repeat=3)]
  low, high = bootstrap_interval(values, confidence=0.9, num_resamples=50_000)
  assert low == pytest.approx(np.quantile(means, 0.05))
  assert high == pytest.approx(np.quantile(means, 0.95))


def test_bootstrap_has_the_width_of_the_normal_approximation():
  values = np.random.default_rng(1).random(400)
  low, high = bootstrap_interval(values, num_resamples=20_000)
  error = values.std() / math.sqrt(values.size)
  assert low == pytest.approx(values.mean() - 1.96 * error, abs=error / 10)
  assert high == pytest.approx(values.mean() + 1.96 * error, abs=error / 10)


def test_bootstrap_depends_on_nothing_but_its_arguments():
  values = [0.0, 0.5, 1.0, 0.2]
  assert bootstrap_interval(values) == bootstrap_interval(values)
  wide = bootstrap_interval(values, confidence=0.99)
  narrow = bootstrap_interval(values, confidence=0.5)
  assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]]])
def test_bootstrap_needs_a_list_of_values(values):
  with pytest.raises(ValueError, match="values"):
    bootstrap_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_bootstrap_needs_a_confidence_between_0_and_1(confidence):
  with pytest.raises(ValueError, match="confidence"):
    bootstrap_interval([0.1], confidence=confidence)


def test_resampling_weights_are_means_over_draws():
  weights = resampling_weights(3, num_resamples=20_000)
  np.testing.assert_allclose(weights.sum(axis=1), 1)
  # Of the 27 equally likely draws of three, one takes the first thing thrice,
  # and eight never do.
  assert np.mean(weights[:, 0] == 1) == pytest.approx(1 / 27, abs=0.005)
  assert np.mean(weights[:, 0] == 0) == pytest.approx(8 / 27, abs=0.01)


def test_spread_leaves_out_what_is_undefined():
  assert spread([1.0, None, 3.0]) == {
    "mean": 2.0,
    "min": 1.0,
    "max": 3.0,
    "std": pytest.approx(2**0.5),
    "num": 2,
  }
  assert spread([None])["num"] == 0


def _ends(means):
  return np.quantile(means, [0.05, 0.95])


def test_crossed_intervals_of_one_seed_equal_enumeration_of_all_resamples():
  # As for `bootstrap_interval`; the second quantity is the first one, doubled.
  values = {"a": 0.0, "b": 1.0, "c": 3.0}
  means = [
    np.mean(draw) for draw in itertools.product(values.values(), repeat=3)
  ]
  found = crossed_intervals(
    [{p: np.array([v, 2 * v]) for p, v in values.items()}],
    confidence=0.9,
    num_resamples=50_000,
  )
  np.testing.assert_allclose(found[:, 0], _ends(means))
  np.testing.assert_allclose(found[:, 1], 2 * found[:, 0])


def test_a_problem_that_seeds_share_is_drawn_for_all_of_them():
  # Two problems that both seeds solve to the same degree: 4 seed draws do not
  # matter, and problem draws give 0, 1/2 and 1 with 1/4, 1/2 and 1/4. Were
  # they drawn for each seed, 0 and 1 would be 1/8 each and out of the interval.
  of_seed = {"a": np.array([0.0]), "b": np.array([1.0])}
  low, high = crossed_intervals(
    [of_seed, dict(reversed(of_seed.items()))],
    confidence=0.6,
    num_resamples=20_000,
  )[:, 0]
  assert (low, high) == (0, 1)


def test_seeds_are_drawn_too():
  # One problem: all that varies is which seeds there are.
  seeds = [{"a": np.array([v])} for v in (0.0, 1.0, 3.0)]
  means = [np.mean(draw) for draw in itertools.product((0, 1, 3), repeat=3)]
  found = crossed_intervals(seeds, confidence=0.9, num_resamples=50_000)
  np.testing.assert_allclose(found[:, 0], _ends(means))


def test_a_seed_without_a_drawn_problem_is_left_out_of_the_draw():
  # Of problems a and b the second seed has b alone: with 1/4 it has none, and
  # where neither is left the draw has no mean. All means are 1 nevertheless.
  seeds = [{"a": np.ones(1), "b": np.ones(1)}, {"b": np.ones(1)}]
  np.testing.assert_array_equal(crossed_intervals(seeds), [[1.0], [1.0]])


def test_crossed_intervals_are_the_same_again():
  rng = np.random.default_rng(0)
  seeds = [{str(p): rng.random(3) for p in range(5)} for _ in range(3)]
  again = crossed_intervals(seeds)
  np.testing.assert_array_equal(crossed_intervals(seeds), again)
  assert not np.array_equal(crossed_intervals(seeds, seed=1), again)
