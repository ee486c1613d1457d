"""Traces by rule: they come to be imported like any others."""

import itertools

import numpy as np
import pytest
from letters import Letters

from prefixrl_jax.configs import logic
from prefixrl_jax.problems.loading import load_problems
from prefixrl_jax.traces.imports import ImportSettings, import_traces
from prefixrl_jax.traces.rules import write_by_rule
from prefixrl_jax.types import UserError, Verdict


class _Boxed:
  """Right if something is boxed at the end."""

  def judge(self, problems, texts):
    return [Verdict(float(t.endswith("}"))) for t in texts]

  def close(self):
    pass


def _problems(task):
  config = logic.get_config(f"task={task},trial=true").problems
  config.update(num_train=6, num_heldout=2)
  return config, load_problems(config, seed=0)


@pytest.mark.parametrize(("task", "kept"), [("countdown", 2), ("parities", 1)])
def test_every_problem_gets_traces_that_are_kept(task, kept):
  config, problems = _problems(task)
  made = import_traces(
    write_by_rule(task, config, problems),
    problems,
    ImportSettings(
      verifier=_Boxed(),
      tokenizer=Letters(),
      has_answer=bool,
      max_completion_length=1000,
      traces_per_problem=kept,
      text_of=None,
      origin="rules/",
    ),
    on_progress=lambda *_: None,
  )
  assert {t.policy for t in made.traces} == {f"rules/{task}"}
  assert {t.problem_id for t in made.traces} == {p.id for p in problems}
  by_problem = itertools.groupby(made.traces, lambda t: t.problem_id)
  assert max(len(list(ts)) for _, ts in by_problem) == kept
  trace = made.traces[0]
  assert trace.text == next(iter(_traces(task, problems[0])))
  np.testing.assert_array_equal(trace.tokens, [*trace.text.encode(), 0])
  assert made.counts["no such problem"] == made.counts["wrong"] == 0


def _traces(task, problem):
  config, _ = _problems(task)
  [(share, traces)] = write_by_rule(task, config, [problem])
  assert share == 1
  return [t.text for t in traces]


@pytest.mark.parametrize(
  ("asked", "task"),
  [("parities", "countdown"), ("folio", "folio"), ("", "gym")],
)
def test_only_a_tasks_own_rules_write(asked, task):
  config = logic.get_config(f"task={task}").problems
  with pytest.raises(
    UserError, match=r"by rule are countdown, game24, parities"
  ):
    write_by_rule(asked, config, [])
