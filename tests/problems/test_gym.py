"""reasoning-gym's tasks, by name and difficulty."""

import itertools
import json

import pytest

from prefixrl_jax.problems import gym
from prefixrl_jax.problems.loading import load_parts
from prefixrl_jax.problems.reading import Draw
from prefixrl_jax.types import UserError

pytest.importorskip("reasoning_gym", reason="the extra gym is not installed")
rewards = pytest.importorskip("prefixrl_jax.rewards.gym")


def _draw(name, level, size=20):
  return gym.generate(Draw(name, level, 0, 1, size))


def test_levels_are_steps_of_the_curriculum():
  sizes = [
    max(len(e["metadata"]["numbers"]) for e in _draw("countdown", level, 6))
    for level in ("easy", "medium", "hard", "0")
  ]
  assert sizes[0] < sizes[1] < sizes[2]
  assert sizes[3] == sizes[0]


def test_entries_are_what_their_scorer_needs(section):
  config = section("gym", name="chain_sum", level="easy", num_train=3)
  train, heldout = load_parts(config, seed=0)
  (problem,) = heldout.problems
  assert problem.metadata["dataset"] == "chain_sum"
  entry = json.loads(json.dumps(problem.metadata["entry"]))
  assert entry["answer"] == problem.answer
  assert problem.prompt == entry["question"] + " Go."
  assert len({p.prompt for p in train.problems}) == 3


def test_seeds_do_not_overlap():
  questions = lambda seed: {
    e["question"] for e in gym.generate(Draw("chain_sum", "", 0, seed, 50))
  }
  assert len(questions(0) & questions(1)) < 3


@pytest.mark.parametrize(
  ("name", "level", "message"),
  [
    ("chess", "", r"no task 'chess'; known: .*countdown"),
    ("countdown", "brutal", r"knows easy, medium, hard and 0 to \d"),
    ("countdown", "99", r"knows easy, medium, hard and 0 to \d"),
    ("gsm_symbolic", "easy", r"gsm_symbolic has no difficulty"),
    ("caesar_cipher", "hard", r"cannot make caesar_cipher of level 'hard'"),
  ],
)
def test_what_it_does_not_have(name, level, message):
  with pytest.raises(UserError, match=message):
    next(_draw(name, level))


def test_refused_tasks_say_why():
  name, reason = next(iter(rewards.REFUSED.items()))
  with pytest.raises(UserError) as e:
    next(_draw(name, ""))
  assert reason in str(e.value)


def test_entries_that_cannot_be_made_are_passed_over(monkeypatch):
  from reasoning_gym import factory

  make, config = factory.DATASETS["chain_sum"]

  class _Fails(make):
    share = 2

    def __getitem__(self, i):
      if i % self.share:
        raise ValueError("no luck")
      return super().__getitem__(i)

  monkeypatch.setitem(factory.DATASETS, "chain_sum", (_Fails, config))
  assert len(list(_draw("chain_sum", "", 10))) == 5
  monkeypatch.setattr(_Fails, "share", 1000)
  with pytest.raises(UserError, match=r"20 times in a row: no luck"):
    list(itertools.islice(_draw("chain_sum", "", 100), 2))
