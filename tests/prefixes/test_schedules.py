"""Schedules: what they have in common, and the adaptive one."""

import inspect
import json

import numpy as np
import pytest

from prefixrl_jax.prefixes.schedules import SCHEDULES, make_schedule
from prefixrl_jax.settings import fields
from prefixrl_jax.types import PrefixedProblem, Problem

_PROBLEMS = [Problem(f"p{i}", "", "", "", "train", i) for i in range(3)]
# Three cuts of each trace, in no order.
_PREFIXED = [
  PrefixedProblem(f"p{i}", np.arange(n), 0.5, "base", 0)
  for n in (4, 2, 7)
  for i in range(3)
]
_OPTIONS = {"mixture": {}, "adaptive": {"low": 0.25, "high": 0.75}}


def _schedule(name="adaptive", prefixed_share=0.75, **fields):
  return make_schedule(
    name,
    _PROBLEMS,
    _PREFIXED,
    **dict(
      prompts_per_step=4,
      prefixed_share=prefixed_share,
      cuts_together=False,
      seed=0,
    ),
    **_OPTIONS[name],
    **fields,
  )


def _lengths(schedule, step=0):
  """{problem: its prefix's length} of the prefixed ones of a step."""
  return {
    p.problem_id: len(p.prefix) for p in schedule.draw(step) if len(p.prefix)
  }


def _observe(schedule, rates, step=0):
  """Has problems solved as often as `rates` says, of four completions."""
  drawn = schedule.draw(step)
  rewards = np.zeros((len(drawn), 4))
  for i, p in enumerate(drawn):
    rewards[i, : round(4 * rates.get(p.problem_id, 0))] = 1
  schedule.observe(drawn, rewards)


def test_every_schedule_has_its_options_in_the_table_of_fields():
  assert SCHEDULES.keys() == fields.SCHEDULES.keys() == _OPTIONS.keys()
  common = set(inspect.signature(SCHEDULES["mixture"]).parameters)
  for name, kind in SCHEDULES.items():
    own = set(inspect.signature(kind).parameters) - common - {"mixture"}
    assert own == set(fields.SCHEDULES[name])


@pytest.mark.parametrize("name", SCHEDULES)
def test_draws_as_many_of_each_kind_as_it_says(name):
  schedule = _schedule(name)
  for step in range(5):
    is_prefixed = [len(p.prefix) > 0 for p in schedule.draw(step)]
    assert is_prefixed == [True] * 3 + [False]
  assert (schedule.num_prefixed, schedule.num_originals) == (3, 1)
  assert schedule.longest_prefix() == 7
  assert _schedule(name, prefixed_share=0.0).longest_prefix() == 0


def test_adaptive_moves_a_trace_by_one_cut_towards_its_set_point():
  schedule = _schedule()
  assert _lengths(schedule) == {"p0": 7, "p1": 7, "p2": 7}  # it begins easy
  _observe(schedule, {"p0": 1.0, "p1": 0.75, "p2": 0.0})
  assert _lengths(schedule) == {"p0": 4, "p1": 7, "p2": 7}
  _observe(schedule, {"p0": 1.0, "p1": 0.5, "p2": 1.0})
  assert _lengths(schedule) == {"p0": 2, "p1": 7, "p2": 4}
  _observe(schedule, {"p0": 1.0, "p1": 0.5, "p2": 0.25})
  assert _lengths(schedule) == {"p0": 2, "p1": 7, "p2": 4}
  _observe(schedule, {"p0": 0.0, "p1": 0.5, "p2": 0.5})
  assert _lengths(schedule) == {"p0": 4, "p1": 7, "p2": 4}


def test_a_problem_without_prefix_moves_nothing():
  schedule = _schedule(prefixed_share=0.0)
  _observe(schedule, {"p0": 1.0, "p1": 1.0, "p2": 1.0})
  assert schedule.state() == _schedule().state()


@pytest.mark.parametrize("name", SCHEDULES)
def test_goes_on_from_its_state_as_json_has_it(name):
  whole, rng = _schedule(name), np.random.default_rng(0)
  states, drawn = [], []
  for step in range(12):
    states.append(json.dumps(whole.state()))
    drawn.append([(p.problem_id, len(p.prefix)) for p in whole.draw(step)])
    _observe(whole, dict(zip(("p0", "p1", "p2"), rng.random(3))), step)
  for step, state in enumerate(states):
    resumed = _schedule(name)
    resumed.restore(json.loads(state))
    assert drawn[step] == [
      (p.problem_id, len(p.prefix)) for p in resumed.draw(step)
    ]
