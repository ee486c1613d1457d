"""Traces that a task's rules write: worked solutions of its problems."""

from collections.abc import Iterator, Sequence

import ml_collections

from prefixrl_jax.problems.loading import find_source
from prefixrl_jax.problems.sources import SOURCES
from prefixrl_jax.traces.foreign import ForeignTrace
from prefixrl_jax.types import Problem, UserError

RULES = "rules:"  # config.traces.file begins with it, a task follows


def write_by_rule(
  task: str, config: ml_collections.ConfigDict, problems: Sequence[Problem]
) -> Iterator[tuple[float, list[ForeignTrace]]]:
  """Yields (share written, traces) of each problem, as `read_foreign` does.

  Args:
    task: whose rules.
    config: section `problems`.
    problems: of that task.

  Raises:
    UserError: the problems are of another task, or it has no such rules.
  """
  able = [name for name, source in SOURCES.items() if source.write_traces]
  if task != config.task or task not in able:
    raise UserError(
      f"config.traces.file = '{RULES}{task}': config.problems.task is"
      f" {config.task!r}; tasks with worked traces by rule are"
      f" {', '.join(able)}."
    )
  write = find_source(config, task).write_traces
  assert write is not None
  return (
    (
      (i + 1) / len(problems),
      [
        ForeignTrace(
          place=f"{problem.id}, trace {n}",
          problem="",
          problem_id=problem.id,
          text=text,
          model=task,
          finished=True,
          verdict=None,
        )
        for n, text in enumerate(write(problem), 1)
      ],
    )
    for i, problem in enumerate(problems)
  )
