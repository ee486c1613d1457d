"""The mixture: shares, epochs, and nothing but (seed, step)."""

import collections

import numpy as np

from prefixrl_jax.prefixes.mixture import Mixture
from prefixrl_jax.types import PrefixedProblem, Problem

_PROBLEMS = [Problem(f"p{i}", "", "", "", "train", i) for i in range(5)]
_PREFIXED = [
  PrefixedProblem(f"p{i % 5}", np.arange(i + 1), 0.5, "base", 0)
  for i in range(15)
]


def _mixture(share, seed=0, cuts_together=False):
  return Mixture(
    _PROBLEMS,
    _PREFIXED,
    prompts_per_step=8,
    prefixed_share=share,
    cuts_together=cuts_together,
    seed=seed,
  )


def test_three_to_one():
  drawn = _mixture(0.75).draw(3)
  assert [len(p.prefix) > 0 for p in drawn] == [True] * 6 + [False] * 2


def test_pure_mixtures_and_their_longest_prefix():
  assert all(len(p.prefix) == 0 for p in _mixture(0.0).draw(0))
  assert all(len(p.prefix) > 0 for p in _mixture(1.0).draw(0))
  assert _mixture(0.0).longest_prefix() == 0
  assert _mixture(1.0).longest_prefix() == 15


def test_every_epoch_has_each_problem_once():
  mixture = _mixture(0.75)
  counts = collections.Counter(
    len(p.prefix) for step in range(5) for p in mixture.draw(step)
  )
  assert {counts[n] for n in range(1, 16)} == {2}  # 30 draws of 15
  assert counts[0] == 10  # 10 draws of 5


def test_cuts_of_a_trace_together():
  mixture = _mixture(0.75, cuts_together=True)
  counts: collections.Counter = collections.Counter()
  for step in range(5):
    ids = [p.problem_id for p in mixture.draw(step)[:6]]
    # Three cuts a trace: six prefixed problems are two traces.
    assert len(set(ids[:3])) == len(set(ids[3:])) == 1
    counts.update(len(p.prefix) for p in mixture.draw(step)[:6])
  assert set(counts.values()) == {2}


def test_a_step_is_drawn_alike_whatever_came_before():
  ids = lambda mixture, step: [
    (p.problem_id, len(p.prefix)) for p in mixture.draw(step)
  ]
  a, b = _mixture(0.75), _mixture(0.75)
  for step in range(6):
    ids(a, step)
  assert ids(a, 6) == ids(b, 6)
  assert ids(a, 6) != ids(_mixture(0.75, seed=1), 6)


def test_every_epoch_has_an_order_of_its_own():
  mixture = _mixture(0.75)
  drawn = [p for step in range(10) for p in mixture.draw(step)]
  lengths = [len(p.prefix) for p in drawn if len(p.prefix)]
  originals = [p.problem_id for p in drawn if not len(p.prefix)]
  for in_order, size in ((lengths, 15), (originals, 5)):
    epochs = [
      tuple(in_order[i : i + size]) for i in range(0, len(in_order), size)
    ]
    assert len(epochs) == 4
    assert len(set(epochs)) == 4


def test_prefixed_and_originals_are_not_shuffled_alike():
  # As many prefixes as problems, a prefix a problem.
  alike = [
    PrefixedProblem(p.id, np.arange(1), 0.5, "base", 0) for p in _PROBLEMS
  ]
  mixture = Mixture(
    _PROBLEMS,
    alike,
    prompts_per_step=10,
    prefixed_share=0.5,
    cuts_together=False,
    seed=0,
  )
  orders = [
    tuple(p.problem_id for p in mixture.draw(step)[kind])
    for step in range(4)
    for kind in (slice(5), slice(5, 10))
  ]
  assert len(set(orders)) == 8


def test_easy_problems_take_their_share_of_the_originals():
  easy = [Problem(f"e{i}", "", "", "", "train", 9 + i) for i in range(2)]
  mixture = Mixture(
    _PROBLEMS,
    _PREFIXED,
    prompts_per_step=8,
    prefixed_share=0.5,
    cuts_together=False,
    seed=0,
    easy=easy,
    easy_share=0.25,
  )
  drawn = mixture.draw(1)
  kinds = ["prefix" if len(p.prefix) else p.problem_id[0] for p in drawn]
  assert kinds == ["prefix"] * 4 + ["p"] * 2 + ["e"] * 2
  assert {p.problem_id for p in drawn[-2:]} == {"e0", "e1"}
  # What else is drawn does not depend on them.
  plain = _mixture(0.5).draw(1)
  assert [p.prefix.tolist() for p in drawn[:4]] == [
    p.prefix.tolist() for p in plain[:4]
  ]
