"""A source's rows, turned into problems one after another."""

import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import ml_collections

from prefixrl_jax.embedded import tasks
from prefixrl_jax.problems import origins
from prefixrl_jax.problems.reading import Draw, Getter, Reading, Skip
from prefixrl_jax.problems.shown import num_shown
from prefixrl_jax.problems.sources import SOURCES, Source
from prefixrl_jax.problems.texts import fingerprint
from prefixrl_jax.storage.rows import Row
from prefixrl_jax.types import Problem, UserError

REPEATED = "repeated"
EVALUATED = "in an evaluation set"
OTHER = "of another level or split"
TOO_LONG = "too long"
SHOWN = "with all tests in the statement"
# What a reader may raise for a row of another shape.
_NO_SUCH_ROW = (
  ArithmeticError,
  AttributeError,
  LookupError,
  TypeError,
  ValueError,
  RecursionError,
)
# Rows between two progress reports.
_REPORTED = 1000
# Prompts that are measured together.
_AT_A_TIME = 4096
# Takes the share of the source read so far, and the number of problems found.
OnProgress = Callable[[float, int], None]


class Limit(NamedTuple):
  """How long prompts may be.

  Attributes:
    exceeded: prompts -> which of them are too long.
    drops: whether such problems are left out; otherwise they are listed.
  """

  exceeded: Callable[[list[str]], list[bool]]
  drops: bool = False


NO_LIMIT = Limit(lambda prompts: [False] * len(prompts))


@dataclasses.dataclass
class Part:
  """One split of the run's problems, and what became of the other rows.

  Attributes:
    task, origin, license: where they come from.
    split: of the run: "train", "heldout" or "easy".
    problems: those kept.
    dropped: REPEATED, EVALUATED, OTHER, TOO_LONG, SHOWN -> rows.
    skipped: a reader's reason why a row is not a problem -> rows.
    first: a key of `dropped` or `skipped` -> place of the first such row.
    num_rows: rows read.
    too_long: ids of kept problems whose prompts are too long.
  """

  task: str
  origin: str
  license: str
  split: str
  problems: list[Problem] = dataclasses.field(default_factory=list)
  dropped: Counter[str] = dataclasses.field(default_factory=Counter)
  skipped: Counter[str] = dataclasses.field(default_factory=Counter)
  first: dict[str, str] = dataclasses.field(default_factory=dict)
  num_rows: int = 0
  too_long: list[str] = dataclasses.field(default_factory=list)

  def leave_out(self, counts: Counter[str], why: str, row: Row) -> None:
    """Counts a row under `dropped` or `skipped`."""
    counts[why] += 1
    self.first.setdefault(why, row.place)


def listed_left_out(*parts: Part) -> str:
  """Returns how many rows were left out and why, and where the first is."""
  counts: Counter[str] = Counter()
  first: dict[str, str] = {}
  for part in parts:
    counts += part.dropped + part.skipped
    first = part.first | first
  return ", ".join(
    f"{n} {why} (first: {first[why]})" for why, n in counts.items()
  )


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which rows of which source; fields as in config.problems."""

  task: str
  file: str
  split: str
  level: str
  field: str  # of the config that names the file


def find_source(config: ml_collections.ConfigDict, task: str) -> Source:
  """Returns a task's source; for jsonl and tfds one made from the config.

  Raises:
    UserError: there is no such task, or answer_pattern is invalid.
  """
  if task in ("jsonl", "tfds"):
    columns = {
      "problem": config.problem_field,
      "answer": config.answer_field,
      "id": config.id_field,
    }
    read = functools.partial(_read_named, _compiled(config.answer_pattern))
    return Source(read, "math", columns)
  if task not in SOURCES:
    raise UserError(
      f"config.problems: the task {task!r} is none of jsonl, tfds,"
      f" {', '.join((*tasks.TASKS, *SOURCES))}."
    )
  return SOURCES[task]


def problem_text(problem: Problem, instruction: str) -> str:
  """Returns a problem as others write it: without the text we add to it."""
  if "text" in problem.metadata:
    return problem.metadata["text"]
  return problem.prompt.removesuffix(instruction)


def _compiled(pattern: str) -> re.Pattern | None:
  if not pattern:
    return None
  field = f"config.problems.answer_pattern = {pattern!r}"
  try:
    compiled = re.compile(pattern)
  except (re.error, OverflowError, RecursionError) as e:
    raise UserError(f"{field} is not a regular expression: {e}.") from None
  if not compiled.groups:
    raise UserError(
      f"{field} has no group: put brackets around the answer, as in"
      " '#### (.*)'."
    )
  return compiled


def _read_named(pattern: re.Pattern | None, get: Getter) -> Reading:
  answer = get.scalar("answer")
  if pattern:
    found = pattern.search(answer)
    if found is None or found[1] is None:
      raise Skip("answer does not match config.problems.answer_pattern")
    answer = found[1].strip()
    if not answer:
      raise Skip("no answer")
  return Reading(get.text("problem"), answer, {})


class Stream:
  """A source's rows, turned into problems as they are asked for."""

  def __init__(
    self,
    config,
    chosen: Selection,
    seed: int,
    *,
    wanted: int = 0,
    start: int = 0,
  ):
    """Opens the source.

    Args:
      config: section `problems`.
      chosen: which source, and which of its rows.
      seed: seed for the draw.
      wanted: how many problems will be requested, if they are drawn.
      start: how many rows to skip.
    """
    self._config, self._chosen, self._start = config, chosen, start
    self._instruction = config.instruction  # looking it up takes time
    self._source = find_source(config, chosen.task)
    self._label, self._origin = self._open(seed, start + wanted)
    self._rows = iter(self._origin.rows)
    self._ids: dict[str, str] = {}
    self._fields: list[str] = []

  def _open(self, seed: int, wanted: int) -> tuple[str, origins.Origin]:
    c, source, config = self._chosen, self._source, self._config
    if c.level and "level" not in source.columns and not source.generate:
      raise UserError(
        f"{c.field.rpartition('.')[0]}.level = {c.level!r}: {c.task} has no"
        " levels; leave it empty."
      )
    if c.task == "tfds":
      return config.name, origins.from_tfds(config.name, c.split or "train")
    if c.file or c.task == "jsonl":
      if not c.file:
        raise UserError(f"{c.field} is empty; give a file of problems.")
      # By name alone: its problems are the same wherever it is.
      label = c.file.rpartition("/")[2]
      if c.field.endswith("heldout.file"):
        label = f"heldout/{label}"  # both may be called test.jsonl
      return label, origins.from_files(c.file, source.columns, c.field)
    if source.generate is None:
      label = f"{c.task}/{c.split}"
      return label, origins.from_source(c.task, source, c.split, c.field)
    draw = Draw(
      config.name,
      c.level,
      config.max_number,
      seed,
      # From a small set most draws are copies.
      4 * wanted + 1000,
    )
    rows = enumerate(itertools.islice(source.generate(draw), draw.size))
    name = f"drawn, seed {seed}"
    drawn = (Row(f"{c.task}, draw {i}", i, row) for i, row in rows)
    return f"{c.task}/{seed}", origins.Origin(name, drawn)

  def take(
    self,
    split: str,
    count: int,
    known: dict[bytes, str],
    *,
    index: int = 0,
    limit: Limit = NO_LIMIT,
    on_progress: OnProgress = lambda share, problems: None,
  ) -> Part:
    """Returns the next problems, as many as there are up to `count`.

    Args:
      split: of the run.
      count: problems at most.
      known: fingerprint -> why such a problem is dropped; updated.
      index: added to the problems' own.
      limit, on_progress: see `load_parts`.

    Raises:
      UserError: the rows lack fields that they should have, or no row is a
        problem.
    """
    task = self._chosen.task
    part = Part(task, self._origin.name, self._source.license, split)
    found = self._problems(part, split, index, on_progress)
    while wanted := count - len(part.problems):
      # Never more than are wanted: the rest is for another split.
      some = list(itertools.islice(found, min(wanted, _AT_A_TIME)))
      if not some:
        break
      too_long = limit.exceeded([problem.prompt for _, problem in some])
      for (row, problem), is_too_long in zip(some, too_long, strict=True):
        mark = fingerprint(problem_text(problem, self._instruction))
        if mark in known:
          part.leave_out(part.dropped, known[mark], row)
        elif is_too_long and limit.drops:
          part.leave_out(part.dropped, TOO_LONG, row)
        elif self._shows_all_tests(problem):
          part.leave_out(part.dropped, SHOWN, row)
        else:
          known[mark] = REPEATED
          part.problems.append(problem)
          part.too_long += [problem.id] * is_too_long
    if count and not part.problems and part.skipped:
      named = (
        " config.problems.problem_field and answer_field say which of them are"
        " read."
        if task in ("jsonl", "tfds")
        else ""
      )
      raise UserError(
        f"{self._origin.name}: no row is a problem of task {task!r}:"
        f" {listed_left_out(part)}."
        f" The first has the fields {', '.join(self._fields)}.{named}"
      )
    return part

  def _problems(
    self, part: Part, split: str, index: int, on_progress: OnProgress
  ) -> Iterator[tuple[Row, Problem]]:
    """Yields the rows that are problems; counts the others."""
    for row in self._rows:
      part.num_rows += 1
      if part.num_rows % _REPORTED == 0:
        on_progress(row.share, len(part.problems))
      get = Getter(self._source.columns, row.fields)
      if not self._fields:
        self._check_schema(row, get)
      if row.number < self._start:
        continue
      if row.flaw:
        part.leave_out(part.skipped, row.flaw, row)
        continue
      try:
        if self._wanted(get):
          yield row, self._make(row, get, split, index)
        else:
          part.leave_out(part.dropped, OTHER, row)
      except Skip as e:
        part.leave_out(part.skipped, str(e), row)

  def _shows_all_tests(self, problem: Problem) -> bool:
    if "tests" not in problem.metadata or self._config.shown_tests == "keep":
      return False
    return num_shown(problem) == len(problem.metadata["tests"])

  def _check_schema(self, row: Row, get: Getter) -> None:
    self._fields = list(row.fields)
    optional = (*self._source.optional, "level")
    for name, columns in self._source.columns.items():
      if columns and name not in optional and not get.has(name):
        raise UserError(
          f"{row.place}: has the fields {', '.join(self._fields)}; none is the"
          f" {name} of task {self._chosen.task!r} (looked for: {columns})."
          " Name the right task in config.problems.task, or read the file as"
          " task 'jsonl' and name the fields (problem_field, answer_field)."
        )

  def _wanted(self, get: Getter) -> bool:
    c, source = self._chosen, self._source
    if source.split_of and c.file and source.split_of(get) != c.split:
      return False
    if not c.level or "level" not in source.columns:
      return True
    return _matches(c.level, get.scalar("level"))

  def _make(self, row: Row, get: Getter, split: str, index: int) -> Problem:
    try:
      reading = self._source.read(get)
    except _NO_SUCH_ROW as e:
      raise Skip(f"not as the task's rows are ({type(e).__name__})") from None
    named = "id" in self._source.columns and self._source.columns["id"]
    identifier = get.scalar("id") if named else f"{self._label}/{row.number}"
    if named and self._ids.setdefault(identifier, row.place) != row.place:
      raise UserError(
        f"{row.place}: id {identifier!r} was already used by"
        f" {self._ids[identifier]}."
      )
    metadata = reading.metadata | (
      {"text": reading.text} if reading.text else {}
    )
    # A model that only continues a text gets no instruction.
    goes_on = "whole_completion" in metadata and metadata["whole_completion"]
    return Problem(
      id=identifier,
      prompt=reading.prompt + ("" if goes_on else self._instruction),
      answer=reading.answer,
      source=self._origin.name,
      split=split,
      index=index + row.number,
      metadata=metadata,
    )


def _matches(level: str, value: str) -> bool:
  """Whether a row's level is the requested one, or in the requested range."""
  asked = re.fullmatch(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?", level)
  if not asked:
    return value.casefold() == level.casefold()
  found = re.search(r"\d+(?:\.\d+)?", value)  # "Level 5"
  if not found:
    return False
  return float(asked[1]) <= float(found[0]) <= float(asked[2] or asked[1])
