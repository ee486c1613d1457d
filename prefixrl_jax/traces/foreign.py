"""Files of other people's traces, read as a stream.

docs/imported_traces.md has the columns that are understood.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from etils import epath

from prefixrl_jax.rows import read_rows
from prefixrl_jax.types import UserError

# Names that are looked for, in this order, where the config gives none.
GUESSES: dict[str, tuple[str, ...]] = {
  "problem_field": (
    "problem",
    "question",
    "prompt",
    "messages",
    "conversations",
  ),
  "id_field": (),  # ids of another data set may be like ours by accident
  "text_field": (
    "generations",
    "traces",
    "messages",
    "conversations",
    "r1_solution_1,r1_solution_2,r1_solution_3",
    "responses",
    "response",
    "completion",
    "generation",
    "output",
    "text",
    "content",
    "solution",
  ),
  "model_field": ("model", "source_model", "generator"),
  "finish_field": ("finish_reasons", "finish_reason"),
  "verdict_field": ("correct", "is_correct", "correctness_math_verify"),
}
# Reasons that serving programs give for an end of the model's own; with none
# given it may have been one.
_ENDED = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "true")
_UNSAID = (None, "")


@dataclasses.dataclass(frozen=True)
class ForeignTrace:
  """A trace as its file has it."""

  place: str  # file, line or row, and which of its traces
  problem: str
  problem_id: str
  text: str
  model: str
  finished: bool
  verdict: bool | None  # the file's own, if it has one


def digest(path: epath.Path) -> str:
  """Returns the SHA-256 of a file."""
  with path.open("rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def read_foreign(
  files: Sequence[epath.Path], *, model: str, **fields: str
) -> Iterator[tuple[float, list[ForeignTrace]]]:
  """Yields (share of the files read, traces) of each row.

  Args:
    files: JSONL (.gz, .zst) or Parquet.
    model: who wrote the traces, where no column says so; empty: the file.
    **fields: the keys of GUESSES -> a column, or empty for a guess.

  Raises:
    UserError: names file and line of what does not parse, and the columns
      where none of them can be the one that is needed.
  """
  for i, file in enumerate(files):
    writer = model or file.name.partition(".")[0]
    names: dict[str, str] = {}

    def choose(place, columns, names=names) -> Collection[str]:
      names |= _resolve(place, columns, fields)
      return {c for name in names.values() for c in name.split(",")}

    is_first = True
    for place, _, row, share, _ in read_rows(file, choose):
      if is_first:
        _check_optional(row, names, place)
        is_first = False
      traces = list(_foreign_traces(row, names, place, writer))
      yield (i + share) / len(files), traces


def _resolve(place: str, columns: Sequence[str], fields) -> dict[str, str]:
  """Returns the column of each field; empty if there is none.

  Decided once a file: a row that lacks a column must not fall back on another
  one, say from a model's generation on a person's solution.
  """
  has = lambda name: all(part in columns for part in name.split(","))
  names = {}
  for field, guesses in GUESSES.items():
    names[field] = fields[field] or next(filter(has, guesses), "")
  problem = "id_field" if names["id_field"] else "problem_field"
  for field in (problem, "text_field"):
    if not names[field] or not has(names[field]):
      tried = names[field] or ", ".join(GUESSES[field])
      raise UserError(
        f"{place}: has the columns {', '.join(columns)}; none is"
        f" config.traces.{field} (looked for: {tried}). Name the columns of"
        " the problem (problem_field or id_field) and of the traces"
        " (text_field), and if there are any model_field, finish_field,"
        " verdict_field."
      )
  return names


def _check_optional(row, names, place) -> None:
  """Raises UserError for a name that neither row nor its traces have."""
  known = {*row, *(key for _, own in _row_texts(row, names) for key in own)}
  for field in ("model_field", "finish_field", "verdict_field"):
    if names[field] and names[field] not in known:
      raise UserError(
        f"{place}: has no {names[field]!r} (config.traces.{field}); there are"
        f" {', '.join(sorted(known))}."
      )


def _row_texts(row, names) -> list[tuple[str, dict[str, Any]]]:
  columns = names["text_field"].split(",")
  return [found for column in columns for found in _texts(row.get(column))]


def _foreign_traces(row, names, place, writer) -> Iterator[ForeignTrace]:
  texts = _row_texts(row, names)
  for i, (text, own) in enumerate(texts or [("", {})]):

    def field(name, i=i, own=own):
      """A trace's own field, else its share of the row's."""
      for key in (names[name], *GUESSES[name]):
        if key and key in own:
          return own[key]
      value = row.get(names[name])
      if isinstance(value, list):
        value = value[i] if len(value) == len(texts) else None
      return value

    problem_id = row.get(names["id_field"])
    verdict, finish = field("verdict_field"), field("finish_field")
    ended = finish in _UNSAID or str(finish).casefold() in _ENDED
    yield ForeignTrace(
      place=place + (f", trace {i + 1}" if len(texts) > 1 else ""),
      problem=_spoken_by(row.get(names["problem_field"]), ("user", "human")),
      problem_id="" if problem_id is None else str(problem_id),
      text=text.strip(),
      model=str(field("model_field") or writer),
      finished=ended and ("<think>" not in text or "</think>" in text),
      verdict=verdict if isinstance(verdict, bool) else None,
    )


def _texts(value: Any) -> list[tuple[str, dict[str, Any]]]:
  """Returns the traces that a column's value holds, and their own fields."""
  if isinstance(value, str):
    return [(value, {})]
  if isinstance(value, dict):
    key = next((k for k in GUESSES["text_field"] if k in value), "")
    return [(text, value) for text, _ in _texts(value.get(key))]
  if not isinstance(value, list):
    return [("", {})]  # keeps the place of a missing one among others
  if _is_conversation(value):
    return [(_spoken_by(value, ("assistant", "gpt")), {})]
  return [found for item in value for found in _texts(item)]


def _is_conversation(value: Any) -> bool:
  return (
    isinstance(value, list)
    and len(value) > 0
    and all(isinstance(m, dict) and ("role" in m or "from" in m) for m in value)
  )


def _spoken_by(value: Any, roles: Sequence[str]) -> str:
  """Returns text as it is, and of a conversation what one says first."""
  if _is_conversation(value):
    said = [
      m.get("content", m.get("value"))
      for m in value
      if m.get("role", m.get("from")) in roles
    ]
    value = said[0] if said else ""
  return value if isinstance(value, str) else ""
