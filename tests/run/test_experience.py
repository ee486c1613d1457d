"""What a step draws, samples and keeps: skipped, resampled, with traces."""

import ml_collections
import numpy as np
import pytest
import tiny_run

from prefixrl_jax.configs import sections
from prefixrl_jax.prefixes.schedules import make_schedule
from prefixrl_jax.run import experience, rollout
from prefixrl_jax.run.experience import Gatherer
from prefixrl_jax.run.questions import Questions
from prefixrl_jax.storage.metrics import Timers
from prefixrl_jax.types import Completion, Verdict


class _Sampler:
  """Says the same of everything, and notes what it was asked."""

  def __init__(self):
    self.asked = []

  def sample(self, requests, *, purpose, seed):
    self.asked += requests
    tokens = np.arange(3, dtype=np.int32)
    completion = Completion(tokens, -np.ones(3, np.float32), False)
    return [[completion] * r.num_completions for r in requests]


class _Session:
  """Of a tiny run, without a model."""

  def __init__(self):
    self.config = tiny_run.config()
    self.tokenizer = tiny_run.TOKENIZER
    self.verifier = None


@pytest.fixture
def gatherer(monkeypatch):
  def make(rewards, *, prefixed_share=0.0, num_samples=2, num_traces=0, **how):
    """A gatherer whose n-th group has rewards(n, problem's index)."""
    groups = []

    def judged(verifier, tokenizer, problems, *_):
      found = []
      for i in range(0, len(problems), num_samples):
        groups.append(problems[i].id)
        found += rewards(len(groups) - 1, problems[i].index)
      return [Verdict(float(r)) for r in found]

    monkeypatch.setattr(rollout, "judge", judged)
    data, session = tiny_run.data(), _Session()
    arm = ml_collections.ConfigDict(
      sections.arm(learning_rate=1.0, prefixed_share=prefixed_share)
    )
    schedule = make_schedule(
      problems=data.train,
      prefixed=data.prefixed,
      prompts_per_step=4,
      prefixed_share=prefixed_share,
      cuts_together=False,
      seed=0,
      **arm.schedule,
    )
    prompts = {
      p.id: np.array(session.tokenizer.encode(p.prompt), np.int32)
      for p in data.train
    }
    learner = ml_collections.ConfigDict(
      sections.learner(rows_per_microbatch=1, row_length=64)
    )
    learner.update(how)
    sampler = _Sampler() if num_samples else None
    return sampler, Gatherer(
      session,
      sampler,
      schedule,
      Questions(session, data, arm, prompts),
      data.traces,
      learner,
      num_samples=num_samples,
      num_traces=num_traces,
      seed=0,
      timers=Timers(),
    )

  return make


_SILENT, _TELLING = [0, 0], [1, 0]


def test_every_group_is_trained_on_unless_it_is_said_otherwise(gatherer):
  _, g = gatherer(lambda n, index: _SILENT if n % 2 else _TELLING)
  found = g.gather(0, 0)
  assert (len(found.groups), len(found.kept), found.draws) == (4, 4, 1)


def test_silent_groups_are_skipped(gatherer):
  _, g = gatherer(
    lambda n, index: _SILENT if n % 2 else _TELLING, silent_groups="skip"
  )
  found = g.gather(0, 0)
  assert (len(found.groups), len(found.kept), found.draws) == (4, 2, 1)
  assert all(group.rewards.any() for group in found.kept)


def test_silent_groups_are_resampled_until_the_step_is_full(gatherer):
  # One of four tells at first, then all do.
  sampler, g = gatherer(
    lambda n, index: _TELLING if n in (1, 4, 5, 6, 7) else _SILENT,
    silent_groups="resample",
  )
  found = g.gather(3, 7)
  assert (len(found.groups), len(found.kept), found.draws) == (8, 4, 2)
  # No two groups have the same keys.
  assert len({(r.step, r.problem) for r in sampler.asked}) == 8
  assert {r.step for r in sampler.asked} == {*range(28, 36)}


def test_resampling_ends_at_its_limit(gatherer):
  _, g = gatherer(
    lambda n, index: _SILENT, silent_groups="resample", resample_limit=2
  )
  found = g.gather(0, 0)
  assert (len(found.groups), found.kept, found.draws) == (8, [], 2)


def test_resampling_keeps_the_mixture(gatherer):
  """No more of a kind than a step has of it, whatever tells."""
  _, g = gatherer(
    lambda n, index: _TELLING if n % 4 < 2 else _SILENT,
    silent_groups="resample",
    prefixed_share=0.5,
  )
  found = g.gather(0, 0)
  # The prefixed ones, which come first, tell; the others never do.
  assert [group.is_prefixed for group in found.kept] == [True, True]
  assert found.draws == 3


def test_traces_are_chosen_by_seed_and_turn(gatherer):
  _, g = gatherer(lambda n, index: _SILENT, num_traces=1)
  found = g.gather(0, 0)
  for group in found.kept:
    [trace] = group.traces
    assert trace.problem_id == group.problem.id


def test_a_step_without_samples(gatherer):
  _, g = gatherer(None, num_samples=0, num_traces=1, trace_advantage="reward")
  found = g.gather(0, 0)
  assert [len(group.traces) for group in found.kept] == [1] * 4
  assert all(not group.completions for group in found.groups)
  assert experience.has_signal(found.kept[0], g._learner)


@pytest.mark.parametrize("given", ["prefix", "hint"])
def test_what_is_asked(given):
  data, session = tiny_run.data(), _Session()
  arm = ml_collections.ConfigDict(
    sections.arm(learning_rate=1.0, prefixed_share=0.5, given=given)
  )
  encode = lambda text: session.tokenizer.encode(text)
  prompts = {p.id: np.array(encode(p.prompt), np.int32) for p in data.train}
  questions = Questions(session, data, arm, prompts)
  [question] = questions.of(data.prefixed[:1])
  problem, prefixed = data.train[0], data.prefixed[0]
  assert question.problem == problem  # as verifiers want it
  assert question.fraction == prefixed.fraction > 0
  [hint] = session.tokenizer.decode([prefixed.prefix.tolist()])
  if given == "prefix":
    assert question.prompt.tolist() == encode(problem.prompt)
    assert question.prefix.tolist() == prefixed.prefix.tolist()
  else:
    assert question.prompt.tolist() == encode(
      problem.prompt.removesuffix("?") + hint + "?"
    )
    assert not len(question.prefix)
