"""Problems from a JSONL file."""

import json
import re
from collections.abc import Iterable
from typing import Any

from etils import epath

from prefixrl_jax.types import Problem, UserError


def read_jsonl(
  path: epath.PathLike,
  *,
  source: str,
  split: str,
  problem_field: str,
  answer_field: str,
  answer_pattern: str = "",
  id_field: str = "",
  start: int = 0,
  limit: int | None = None,
) -> list[Problem]:
  """Reads one problem a line.

  Args:
    path: of the file.
    source, split: recorded in the problems.
    problem_field, answer_field: names of the fields.
    answer_pattern: a regex whose group 1 is the answer within the field.
    id_field: empty: the id is made from source and line.
    start: lines to pass over.
    limit: lines to read at most.

  Raises:
    UserError: names file and line of what is missing or does not parse.
  """
  path = epath.Path(path)
  if not path.exists():
    raise UserError(f"there is no problem file {path}.")
  rows: list[tuple[int, Any]] = []
  with path.open() as f:
    for number, line in enumerate(f):
      if number < start or not line.strip():
        continue
      if limit is not None and len(rows) == limit:
        break
      try:
        rows.append((number, json.loads(line)))
      except json.JSONDecodeError as e:
        raise UserError(f"{path}, line {number + 1}: not JSON: {e}.") from None
  if not rows:
    raise UserError(f"{path} holds no problems after line {start}.")
  return make_problems(
    rows,
    place=lambda number: f"{path}, line {number + 1}",
    source=source,
    split=split,
    problem_field=problem_field,
    answer_field=answer_field,
    answer_pattern=answer_pattern,
    id_field=id_field,
  )


def make_problems(
  rows: Iterable[tuple[int, Any]],
  *,
  place,
  source: str,
  split: str,
  problem_field: str,
  answer_field: str,
  answer_pattern: str,
  id_field: str,
) -> list[Problem]:
  """Turns numbered rows into problems; `place(number)` names one in errors."""
  problems: list[Problem] = []
  seen: dict[str, int] = {}
  for number, row in rows:

    def field(name, number=number, row=row):
      value = row.get(name) if isinstance(row, dict) else None
      if value is None or str(value).strip() == "":
        raise UserError(f"{place(number)}: field {name!r} is missing or empty.")
      return str(value)

    answer = field(answer_field)
    if answer_pattern:
      found = re.search(answer_pattern, answer)
      if found is None:
        raise UserError(
          f"{place(number)}: field {answer_field!r} does not match"
          f" {answer_pattern!r}."
        )
      answer = found[1].strip()
    identifier = field(id_field) if id_field else f"{source}/{number}"
    if identifier in seen:
      raise UserError(
        f"{place(number)}: id {identifier!r} was already used by"
        f" {place(seen[identifier])}."
      )
    seen[identifier] = number
    problems.append(
      Problem(
        id=identifier,
        prompt=field(problem_field),
        answer=answer,
        source=source,
        split=split,
        index=number,
      )
    )
  return problems
