"""Files of other people's traces, read as a stream.

docs/imported_traces.md has the columns that are understood.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from prefixrl_jax.storage.rows import Row, read_rows
from prefixrl_jax.text import thoughts
from prefixrl_jax.text.conversations import (
  REASONING,
  NotText,
  Said,
  first_reply,
  has_parts,
  kind,
  messages,
  read_content,
  read_thoughts,
  reasoning,
  unpacked,
  user_text,
)
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
  "id_field": (),  # ids of another data set may equal ours by accident
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
  "reasoning_field": (
    *REASONING,
    "reasoning_trace",
    "reasoning_traces",
    "thinking_trajectory",
    "thinking_trajectories",
    "cot",
    "long_cot",
  ),
  "model_field": ("model", "source_model", "generator"),
  "finish_field": ("finish_reasons", "finish_reason"),
  "verdict_field": ("correct", "is_correct", "correctness_math_verify"),
}
# Finish reasons of serving programs for a completion that the model ended
# itself; without a reason it may have been one.
_ENDED = (
  "stop",
  "eos",
  "eos_token",
  "end_turn",
  "stop_sequence",
  "completed",
  "true",
)
# Where they keep a finish reason with its reply.
_REASON_KEYS = ("type", "reason", "finish_reason", "stop_reason", "value")
_REPLY_KEYS = ("message", "choices", "outputs")


@dataclasses.dataclass(frozen=True)
class ForeignTrace:
  """A trace as it is in its file."""

  place: str  # file, line or row, and which of its traces
  problem: str
  problem_id: str
  text: str
  model: str
  finished: bool
  verdict: bool | None  # the file's own, if it has one
  flaw: str = ""  # why it cannot be used; empty: it can


class _Text(NamedTuple):
  """A text in a column's value, with the fields of its own."""

  said: Said
  own: Mapping[str, Any] = {}
  flaw: str = ""


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
    for row in read_rows(file, choose):
      if is_first:
        _check_optional(row, names)
        is_first = False
      traces = list(_foreign_traces(row, names, writer))
      yield (i + row.share) / len(files), traces


def _resolve(place: str, columns: Sequence[str], fields) -> dict[str, str]:
  """Returns the column of each field; empty if there is none.

  Decided once per file: a row that lacks a column must not fall back on another
  one, say on a person's solution instead of a model's generation.
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
        " (text_field), and if there are any reasoning_field, model_field,"
        " finish_field, verdict_field."
      )
  return names


def _check_optional(row: Row, names: Mapping[str, str]) -> None:
  """Raises UserError for a name that neither row nor its traces have."""
  known = {*row.fields, *(k for t in _row_texts(row, names) for k in t.own)}
  for field in (
    "reasoning_field",
    "model_field",
    "finish_field",
    "verdict_field",
  ):
    if names[field] and names[field] not in known:
      raise UserError(
        f"{row.place}: has no {names[field]!r} (config.traces.{field}); there"
        f" are {', '.join(sorted(known))}."
      )


def _row_texts(row: Row, names: Mapping[str, str]) -> list[_Text]:
  """Returns a row's traces; one without a text if it has none."""
  columns = names["text_field"].split(",")
  texts = [text for c in columns for text in _texts(row.fields.get(c))]
  return texts or [_Text(Said("", ""))]


def _foreign_traces(
  row: Row, names: Mapping[str, str], writer: str
) -> Iterator[ForeignTrace]:
  texts = _row_texts(row, names)
  flaw, problem = row.flaw, ""
  try:
    problem = user_text(row.fields.get(names["problem_field"]))
  except NotText as e:
    flaw = flaw or f"its problem is {e}"
  problem_id = row.fields.get(names["id_field"])
  for i, found in enumerate(texts):

    def field(name, i=i, found=found):
      """A trace's own field, or else its part of the row's."""
      for key in (names[name], *GUESSES[name]):
        if key and key in found.own:
          return found.own[key]
      value = row.fields.get(names[name])
      if isinstance(value, list):
        value = value[i] if len(value) == len(texts) else None
      return value

    text, own_flaw = found.said.aloud, found.flaw
    try:
      thought = found.said.thoughts or read_thoughts(
        _share(row.fields.get(names["reasoning_field"]), i, len(texts))
      )
      # Some have them in both places.
      if thought and thoughts.split(text).thoughts is None:
        begin, end = thoughts.DELIMITERS[0].literal
        text = f"{begin}\n{thought}\n{end}\n\n{text.lstrip()}"
    except NotText as e:
      own_flaw = own_flaw or f"its thoughts are {e}"
    verdict = field("verdict_field")
    yield ForeignTrace(
      place=row.place + (f", trace {i + 1}" if len(texts) > 1 else ""),
      problem=problem,
      problem_id="" if problem_id is None else str(problem_id),
      text="" if flaw or own_flaw else text.strip(),
      model=str(field("model_field") or writer),
      finished=(
        _has_ended(field("finish_field")) and not thoughts.split(text).is_open
      ),
      verdict=verdict if isinstance(verdict, bool) else None,
      flaw=flaw or own_flaw,
    )


def _share(value: Any, i: int, count: int) -> Any:
  """Returns a trace's part of a column that is parallel to the texts."""
  value = unpacked(value)
  if not isinstance(value, list) or count == 1:
    return value
  if value and len(value) != count:
    raise NotText(f"{len(value)} for {count} texts")
  return value[i] if value else None


def _has_ended(reason: Any) -> bool:
  """Whether a finish reason says that the model itself stopped."""
  if isinstance(reason, dict):
    given = [reason[k] for k in _REASON_KEYS if reason.get(k) is not None]
    reason = given[0] if given else None
  said = "" if reason is None else str(reason).casefold()
  # Some are the names of enumerations.
  said = said.rpartition(".")[2].removeprefix("finish_reason_")
  return not said or said in _ENDED


def _texts(value: Any) -> list[_Text]:
  """Returns the traces that a column's value holds, and their own fields."""
  try:
    value = unpacked(value)
    conversation = messages(value)
    if conversation is not None:
      return [_Text(first_reply(conversation))]
    if value is None or isinstance(value, str):
      # A missing one keeps its place among the others.
      return [_Text(Said("", value or ""))]
    if has_parts(value):
      return [_Text(read_content(value))]
    if isinstance(value, list):
      return [found for item in value for found in _texts(item)]
    if not isinstance(value, Mapping):
      raise NotText(kind(value))
    keys = (*GUESSES["text_field"], *_REPLY_KEYS)
    key = next((k for k in keys if value.get(k) is not None), None)
    thought = reasoning(value)
    if key is None and not thought:
      raise NotText("an object without a text")
    return [
      found._replace(
        own={**value, **found.own},
        said=Said(found.said.thoughts or thought, found.said.aloud),
      )
      for found in _texts(value.get(key))
    ]
  except NotText as e:
    return [_Text(Said("", ""), flaw=f"it is {e}")]
