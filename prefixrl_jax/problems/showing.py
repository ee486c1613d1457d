"""What a run would be trained on, for a person to look at."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from prefixrl_jax.problems.shown import num_shown
from prefixrl_jax.problems.streams import Part
from prefixrl_jax.rounding import ceil_div
from prefixrl_jax.text.tokenizer import Tokenizer
from prefixrl_jax.types import Problem

_SAMPLES = 3
_LISTED = 10
_TYPES = {
  "integer": re.compile(r"-?\d[\d,]*"),
  "decimal": re.compile(r"-?\d*\.\d+"),
  "fraction": re.compile(r"-?\d+/\d+|-?\\[dt]?frac\{-?\d+\}\{\d+\}"),
  "tuple, set or interval": re.compile(r"(?:\\left)?[(\[]|\\\{"),
  "word": re.compile(r"[A-Za-z]+|\\text\{.*\}"),
}


def answer_type(problem: Problem) -> str:
  """Returns what kind of answer a problem has."""
  if "format" in problem.metadata:
    return f"{problem.metadata['format']} tests"
  if "target" in problem.metadata:
    return "expression, one of many"
  if not problem.answer:
    return "judged by rule"
  if "labels" in problem.metadata:
    return problem.answer
  for name, pattern in _TYPES.items():
    found = pattern.match(problem.answer)
    if found and (
      name.startswith("tuple") or found.end() == len(problem.answer)
    ):
      return name
  return "expression"


def spread_out(values: list[Any], most: int) -> list[Any]:
  """Returns at most that many of the values, evenly spaced."""
  return values[:: ceil_div(len(values), most) or 1]


def show_parts(
  console: Console,
  parts: Sequence[Part],
  tokenizer: Tokenizer,
  *,
  seed: int,
  max_prompt_length: int,
  most: int,
  unreadable: Sequence[Problem],
  num_judged: int,
) -> None:
  """Prints a table of the parts, some problems, and what is wrong with any.

  Args:
    console: to print to.
    parts: of the run's problems.
    tokenizer: the base policy's.
    seed: of the data.
    max_prompt_length: tokens; longer prompts are pointed out.
    most: prompts of a part that are tokenised, evenly spaced.
    unreadable: problems whose own answer their verifier rejects.
    num_judged: how many problems were checked for it.
  """
  table = Table(box=box.SIMPLE_HEAD)
  table.add_column(f"problems, seed {seed}")
  rows: dict[str, list[str]] = {}
  too_long: list[str] = []
  with_tests = any("tests" in p.metadata for x in parts for p in x.problems)
  for part in parts:
    table.add_column(part.split, overflow="fold")
    too_long += part.too_long
    sample = spread_out([p.prompt for p in part.problems], most)
    lengths = [*map(len, tokenizer.encode_prompts(sample))]
    types = Counter(map(answer_type, part.problems))
    for name, value in {
      "task": part.task,
      "from": part.origin,
      "license": part.license or "not stated",
      "problems": str(len(part.problems)),
      "answers": _listed(types),
      "prompt tokens, least / median / most": _spread(lengths)
      + (f" of {len(lengths):,}" if len(lengths) < len(part.problems) else ""),
      "left out": _listed(part.dropped),
      "rows that are no problem": _listed(part.skipped),
      **_shown(part.problems, with_tests),
    }.items():
      rows.setdefault(name, []).append(value)
  for name, values in rows.items():
    table.add_row(name, *map(Text, values))
  console.print(table)
  problems = [p for part in parts for p in part.problems]
  for problem in problems[:_SAMPLES]:
    console.print(
      Panel(
        Text(tokenizer.prompt_text(problem.prompt)),
        title=Text(f"{problem.id}, {problem.split}"),
        subtitle=Text(f"answer: {_answer(problem)}"),
      )
    )
  if too_long:
    console.print(
      f"{len(too_long)} prompts are longer than"
      f" config.rollouts.max_prompt_length = {max_prompt_length} tokens: "
      + _some(too_long)
    )
  if num_judged < len(problems):
    console.print(
      f"answers were tried on {num_judged:,} of {len(problems):,} problems"
    )
  if unreadable:
    console.print(
      f"answers that their own verifier rejects ({len(unreadable)}): "
      + _some([f"{p.id} ({p.answer[:60]})" for p in unreadable]),
      markup=False,
    )


def _shown(problems: Sequence[Problem], with_tests: bool) -> dict[str, str]:
  if not with_tests:
    return {}
  counts = [num_shown(p) for p in problems]
  all_tests = [len(p.metadata.get("tests", ())) for p in problems]
  every = sum(n == of > 0 for n, of in zip(counts, all_tests))
  text = f"{sum(counts)} of {sum(all_tests)}; all of {every} problems"
  return {"tests that stand in the statement": text}


def _spread(lengths: list[int]) -> str:
  if not lengths:
    return "none"
  return f"{min(lengths)} / {int(np.median(lengths))} / {max(lengths)}"


def _listed(counts: Counter[str]) -> str:
  return ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "none"


def _answer(problem: Problem) -> str:
  if problem.answer:
    return problem.answer
  if "tests" in problem.metadata:
    return f"judged by {len(problem.metadata['tests'])} tests"
  return "judged by rule"


def _some(names: Sequence[str]) -> str:
  more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
  return ", ".join(names[:_LISTED]) + more + "."
