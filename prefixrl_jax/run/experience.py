"""Experience: what a step of RL draws, samples and keeps to learn from."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from prefixrl_jax.prefixes.schedules import Schedule
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run.credit import has_signal
from prefixrl_jax.run.questions import Question, Questions
from prefixrl_jax.run.rollout import Group, rollout
from prefixrl_jax.run.session import Session
from prefixrl_jax.storage.metrics import Timers
from prefixrl_jax.types import Trace


class Experience(NamedTuple):
  """What a step has to learn from.

  Attributes:
    groups: all that were sampled.
    kept: of them, those that the updates learn from.
    draws: how often the schedule was asked.
  """

  groups: list[Group]
  kept: list[Group]
  draws: int


class Gatherer:
  """Gathers experience for an arm, step by step."""

  def __init__(
    self,
    session: Session,
    sampler: Sampler | None,
    schedule: Schedule,
    questions: Questions,
    traces: Iterable[Trace],
    learner: ml_collections.ConfigDict,
    *,
    num_samples: int,
    num_traces: int,
    seed: int,
    timers: Timers,
  ):
    """Sets up; samples nothing yet.

    Args:
      session: of the run.
      sampler: None if nothing is sampled.
      schedule: says which problems.
      questions: says how they are asked.
      traces: of all problems.
      learner: from `arms.learner_of`.
      num_samples: completions of a problem.
      num_traces: traces of a problem beside them, or as many as it has.
      seed: seed for the sampling and for the choice of traces.
      timers: of "rollout" and "judge".
    """
    self._session, self._sampler = session, sampler
    self._schedule, self._questions = schedule, questions
    self._traces: Mapping[str, list[Trace]] = collections.defaultdict(list)
    for trace in traces:
      self._traces[trace.problem_id].append(trace)
    self._learner, self._num_samples = learner, num_samples
    self._num_traces, self._seed, self._timers = num_traces, seed, timers

  def gather(self, draws: int, turn: int) -> Experience:
    """Returns a step's experience; groups without signal may be replaced.

    Args:
      draws: how often the schedule was asked before.
      turn: of the first draw; part of the completions' keys, with the seed.
    """
    learner, groups, kept = self._learner, [], []
    resamples = learner.silent_groups == "resample"
    room = {
      True: self._schedule.num_prefixed,
      False: self._schedule.num_originals,
    }
    for i in range(learner.resample_limit if resamples else 1):
      drawn = self._schedule.draw(draws + i)
      new = self._groups(self._questions.of(drawn), turn + i)
      if self._num_samples:
        self._schedule.observe(drawn, np.stack([g.rewards for g in new]))
      groups += new
      for group in new:
        trains = learner.silent_groups == "train" or has_signal(group, learner)
        if trains and room[group.is_prefixed]:
          kept.append(group)
          room[group.is_prefixed] -= 1
      if not any(room.values()):
        break
    return Experience(groups, kept, i + 1)

  def _groups(self, questions: Sequence[Question], turn: int) -> list[Group]:
    """Returns a judged group for each question."""
    if self._sampler is None:
      groups = [
        Group(q.problem, q.prefix, np.concatenate([q.prompt, q.prefix]), (), ())
        for q in questions
      ]
    else:
      groups = rollout(
        self._session,
        self._sampler,
        [q.problem for q in questions],
        [q.prompt for q in questions],
        [q.prefix for q in questions],
        self._num_samples,
        # A problem may be drawn with several prefixes in one step.
        steps=[turn * len(questions) + i for i in range(len(questions))],
        purpose="sampling",
        seed=self._seed,
        timers=self._timers,
      )
    return [
      dataclasses.replace(
        group, fraction=q.fraction, traces=self._chosen(q, turn)
      )
      for group, q in zip(groups, questions)
    ]

  def _chosen(self, question: Question, turn: int) -> list[Trace]:
    """Returns the traces that a group learns from too."""
    if not self._num_traces:
      return []
    there = self._traces[question.problem.id]
    rng = np.random.default_rng([self._seed, turn, question.problem.index])
    return [there[i] for i in rng.permutation(len(there))[: self._num_traces]]
