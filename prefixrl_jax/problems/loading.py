"""From the config's section `problems` to the run's Problems."""

import dataclasses
import functools
import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import ml_collections

from prefixrl_jax.problems import origins, symbols
from prefixrl_jax.problems.reading import Draw, Getter, Parts, Skip
from prefixrl_jax.problems.sources import SOURCES, Source
from prefixrl_jax.problems.texts import fingerprint
from prefixrl_jax.rows import Row
from prefixrl_jax.types import Problem, UserError

REPEATED = "repeated"
EVALUATED = "in an evaluation set"
OTHER = "of another level or split"
TOO_LONG = "too long"
# Held-out problems of another file than the training ones have other indices.
_APART = 1 << 28


@dataclasses.dataclass
class Part:
  """What one split of the run has got, and what became of the other rows.

  Attributes:
    task, origin, license: where it is from.
    split: of the run: "train", "heldout" or "easy".
    problems: that are kept.
    dropped: REPEATED, EVALUATED, OTHER, TOO_LONG -> rows.
    skipped: a reader's reason why a row is no problem -> rows.
  """

  task: str
  origin: str
  license: str
  split: str
  problems: list[Problem] = dataclasses.field(default_factory=list)
  dropped: Counter[str] = dataclasses.field(default_factory=Counter)
  skipped: Counter[str] = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass(frozen=True)
class _Choice:
  """Which rows of which source; fields as in config.problems."""

  task: str
  file: str
  split: str
  level: str
  field: str  # of the config that names the file


def load_problems(
  config: ml_collections.ConfigDict, *, seed: int
) -> list[Problem]:
  """Returns the pool: train, heldout and easy problems, indices distinct."""
  return [p for part in load_parts(config, seed=seed) for p in part.problems]


def load_parts(
  config: ml_collections.ConfigDict,
  *,
  seed: int,
  fits: Callable[[str], bool] = lambda prompt: True,
) -> list[Part]:
  """Returns the pool in parts, with an account of what was left out.

  The first num_train problems are trained on. Held-out ones are the next
  num_heldout, or of the split that the source sets apart for it, or of
  config.problems.heldout. No training problem is a copy of another one, of a
  held-out one, or of one in config.problems.exclude.

  Args:
    config: section `problems`; `task` is one of `symbols`, a row of SOURCES, or
      "jsonl" or "tfds" for rows whose fields the config names.
    seed: of the draw, where problems are drawn.
    fits: says whether a prompt is short enough; others are left out.

  Raises:
    UserError: names what is missing, and what to do about it.
  """
  if config.task in symbols.TASKS:
    return _drawn(config, seed)
  source = find_source(config, config.task)
  if source.eval_only and config.num_train:
    raise UserError(
      f"config.problems.task = {config.task!r} is for evaluation only: name it"
      " in config.problems.heldout.task, or set num_train = 0."
    )
  chosen = _Choice(
    config.task,
    config.file,
    config.split or source.split,
    config.level,
    "config.problems.file",
  )
  apart = _heldout_choice(config, source)
  known: dict[str, str] = {}  # fingerprint -> why it is not taken again
  if apart:
    stream = _Stream(config, apart, seed, wanted=config.num_heldout)
    heldout = stream.take(
      "heldout", config.num_heldout, known, index=_APART, fits=fits
    )
    known = dict.fromkeys(known, EVALUATED)
  known |= dict.fromkeys(_excluded(config, seed), EVALUATED)
  rest = 0 if apart else config.num_heldout
  wanted = config.num_train + rest
  stream = _Stream(config, chosen, seed, wanted=wanted, start=config.start)
  train = stream.take("train", config.num_train, known, fits=fits)
  if not apart:
    heldout = stream.take("heldout", config.num_heldout, known, fits=fits)
  _check_count(config, train, heldout, bool(apart))
  return [train, heldout]


def find_source(config: ml_collections.ConfigDict, task: str) -> Source:
  """Returns a task's row; of jsonl and tfds one made of the config's fields."""
  if task in ("jsonl", "tfds"):
    columns = {
      "problem": config.problem_field,
      "answer": config.answer_field,
      "id": config.id_field,
    }
    read = functools.partial(_read_named, config.answer_pattern)
    return Source(read, "math", columns)
  if task not in SOURCES:
    raise UserError(
      f"config.problems.task = {task!r} is none of jsonl, tfds,"
      f" {', '.join((*symbols.TASKS, *SOURCES))}."
    )
  return SOURCES[task]


def find_verifier(config: ml_collections.ConfigDict) -> str:
  """Returns the name of the verifier that judges a section's task."""
  if config.task in symbols.TASKS:
    return config.task
  return find_source(config, config.task).verifier


def problem_text(problem: Problem, instruction: str) -> str:
  """Returns a problem as others write it: without what we say around it."""
  if "text" in problem.metadata:
    return problem.metadata["text"]
  return problem.prompt.removesuffix(instruction)


def _read_named(pattern: str, get: Getter) -> Parts:
  answer = get.text("answer")
  if pattern:
    found = re.search(pattern, answer)
    if found is None:
      raise Skip("answer does not match config.problems.answer_pattern")
    answer = found[1].strip()
  return Parts(get.text("problem"), answer, {})


def _drawn(config, seed) -> list[Part]:
  parts: list[Part] = []
  start = 0
  for split, count, size in (
    ("train", config.num_train, config.size),
    ("heldout", config.num_heldout, config.size),
    ("easy", config.num_easy, config.easy_size),
  ):
    part = Part(config.task, f"drawn, seed {seed}", "", split)
    part.problems = symbols.TASKS[config.task].make_problems(
      count, size, seed=seed, split=split, start=start
    )
    start += count
    parts.append(part)
  return parts


def _heldout_choice(config, source: Source) -> _Choice | None:
  """Returns where held-out problems are, if not behind the training ones."""
  c = config.heldout
  asked = any((c.task, c.file, c.split, c.level))
  splits_known = source.split_of if config.file else source.hub
  if not asked and not (source.heldout and splits_known):
    return None
  task = c.task or config.task
  theirs = find_source(config, task)
  same = task == config.task
  return _Choice(
    task,
    c.file or (config.file if same else ""),
    c.split or theirs.heldout or (config.split if same else "") or theirs.split,
    c.level or (config.level if same else ""),
    "config.problems.heldout.file",
  )


def _excluded(config, seed: int) -> Iterator[str]:
  """Yields the fingerprints of all problems that must not be trained on."""
  for item in filter(None, config.exclude.split(",")):
    task, _, file = item.strip().partition("=")
    source = find_source(config, task)
    chosen = _Choice(
      task,
      file,
      source.heldout or source.split,
      "",
      "config.problems.exclude",
    )
    if source.generate and not file:
      raise UserError(
        f"config.problems.exclude: {task} is drawn by rule; there is no set of"
        " it to exclude."
      )
    known: dict[str, str] = {}
    _Stream(config, chosen, seed).take("excluded", sys.maxsize, known)
    yield from known


def _check_count(config, train: Part, heldout: Part, apart: bool) -> None:
  for part in (train, heldout):
    wanted = config.num_train if part is train else config.num_heldout
    there = len(part.problems)
    if apart and there < wanted:
      raise UserError(
        f"config.problems.num_{part.split} asks for {wanted} problems of"
        f" {part.task} ({part.origin}); there are {there}.{_left_out(part)}"
      )
  wanted = config.num_train + config.num_heldout
  there = len(train.problems) + len(heldout.problems)
  if there < wanted:
    raise UserError(
      f"config.problems asks for {wanted} problems (num_train + num_heldout) of"
      f" {train.origin}; there are {there}.{_left_out(train, heldout)}"
    )


def _left_out(*parts: Part) -> str:
  counts: Counter[str] = Counter()
  for part in parts:
    counts += part.dropped + part.skipped
  listed = ", ".join(f"{n} {reason}" for reason, n in counts.items())
  return f" Left out: {listed}." if listed else ""


class _Stream:
  """A source's rows, turned into problems as they are asked for."""

  def __init__(
    self,
    config,
    chosen: _Choice,
    seed: int,
    *,
    wanted: int = 0,
    start: int = 0,
  ):
    """Opens the source.

    Args:
      config: section `problems`.
      chosen: which source, and which of its rows.
      seed: of the draw.
      wanted: problems that will be asked for, for what is drawn.
      start: rows to pass over.
    """
    self._config, self._chosen, self._start = config, chosen, start
    self._source = find_source(config, chosen.task)
    self._label, self._origin = self._open(seed, start + wanted)
    self._rows = iter(self._origin.rows)
    self._ids: dict[str, str] = {}
    self._fields: list[str] = []

  def _open(self, seed: int, wanted: int) -> tuple[str, origins.Origin]:
    c, source, config = self._chosen, self._source, self._config
    if c.level and "level" not in source.columns and not source.generate:
      raise UserError(
        f"config.problems: {c.task} has no levels; level = {c.level!r} says"
        " nothing."
      )
    if c.task == "tfds":
      return config.name, origins.from_tfds(config.name, c.split or "train")
    if c.file or c.task == "jsonl":
      if not c.file:
        raise UserError(f"{c.field} is empty; give a file of problems.")
      return c.file, origins.from_files(c.file, source.columns, c.field)
    if source.generate is None:
      label = f"{c.task}/{c.split}"
      return label, origins.from_source(c.task, source, c.split, c.field)
    draw = Draw(
      config.name,
      c.level,
      config.max_number,
      seed,
      # Of a small set most draws are copies.
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
    known: dict[str, str],
    *,
    index: int = 0,
    fits: Callable[[str], bool] = lambda prompt: True,
  ) -> Part:
    """Returns the next problems, as many as there are up to `count`.

    Args:
      split: of the run.
      count: problems at most.
      known: fingerprint -> why such a problem is dropped; is added to.
      index: is added to the problems' own.
      fits: see `load_parts`.

    Raises:
      UserError: the rows have not the fields they should have, or no row is a
        problem.
    """
    task = self._chosen.task
    part = Part(task, self._origin.name, self._source.license, split)
    while len(part.problems) < count:
      row = next(self._rows, None)
      if row is None:
        break
      get = Getter(self._source.columns, row.fields)
      if not self._fields:
        self._check_schema(row, get)
      if row.number < self._start:
        continue
      try:
        if not self._wanted(get):
          part.dropped[OTHER] += 1
          continue
        problem = self._make(row, get, split, index)
      except Skip as e:
        part.skipped[str(e)] += 1
        continue
      mark = fingerprint(problem_text(problem, self._config.instruction))
      if mark in known:
        part.dropped[known[mark]] += 1
        continue
      if not fits(problem.prompt):
        part.dropped[TOO_LONG] += 1
        continue
      known[mark] = REPEATED
      part.problems.append(problem)
    if count and not part.problems and part.skipped:
      reasons = ", ".join(f"{n} {why}" for why, n in part.skipped.items())
      raise UserError(
        f"{self._origin.name}: no row is a problem of task {task!r}: {reasons}."
        f" The first has the fields {', '.join(self._fields)}."
      )
    return part

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
    return _matches(c.level, str(get("level")))

  def _make(self, row: Row, get: Getter, split: str, index: int) -> Problem:
    parts = self._source.read(get)
    named = "id" in self._source.columns and self._source.columns["id"]
    identifier = get.text("id") if named else f"{self._label}/{row.number}"
    if identifier in self._ids:
      raise UserError(
        f"{row.place}: id {identifier!r} was already used by"
        f" {self._ids[identifier]}."
      )
    self._ids[identifier] = row.place
    metadata = parts.metadata | ({"text": parts.text} if parts.text else {})
    # What only goes on with a text is not told anything.
    goes_on = "whole_completion" in metadata and metadata["whole_completion"]
    return Problem(
      id=identifier,
      prompt=parts.prompt + ("" if goes_on else self._config.instruction),
      answer=parts.answer,
      source=self._origin.name,
      split=split,
      index=index + row.number,
      metadata=metadata,
    )


def _matches(level: str, value: str) -> bool:
  """Whether a row's level is the one, or in the range, that is asked for."""
  asked = re.fullmatch(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?", level)
  if not asked:
    return value.casefold() == level.casefold()
  found = re.search(r"\d+(?:\.\d+)?", value)  # "Level 5"
  if not found:
    return False
  return float(asked[1]) <= float(found[0]) <= float(asked[2] or asked[1])
