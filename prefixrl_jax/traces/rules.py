"""Traces written by a task's rules: worked solutions of its problems."""

from collections.abc import Iterator, Sequence

import ml_collections

from prefixrl_jax.embedded.tasks import TASKS
from prefixrl_jax.problems.sources import SOURCES
from prefixrl_jax.traces.foreign import ForeignTrace
from prefixrl_jax.types import Problem, UserError

RULES = "rules:"  # config.traces.file begins with it, a task follows


def write_by_rule(
  task: str, config: ml_collections.ConfigDict, problems: Sequence[Problem]
) -> Iterator[tuple[float, list[ForeignTrace]]]:
  """Yields (share written, traces) of each problem, as `read_foreign` does.

  Args:
    task: the task whose rules are used.
    config: section `problems`.
    problems: of that task.

  Raises:
    UserError: the problems are of another task, or it has no such rules.
  """
  rules = {n: source.write_traces for n, source in SOURCES.items()}
  rules |= {n: getattr(own, "write_traces", None) for n, own in TASKS.items()}
  able = [name for name, write in rules.items() if write]
  if task != config.task or task not in able:
    raise UserError(
      f"config.traces.file = '{RULES}{task}': config.problems.task is"
      f" {config.task!r}; tasks with worked traces by rule are"
      f" {', '.join(able)}."
    )
  write = rules[task]
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
