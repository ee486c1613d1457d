"""From the config's section `problems` to the run's Problems."""

import contextlib
import dataclasses
import functools
import gc
import sys
import zlib
from collections.abc import Iterator

import ml_collections

from prefixrl_jax.embedded import tasks
from prefixrl_jax.problems import own
from prefixrl_jax.problems.sources import Source
from prefixrl_jax.problems.streams import (
  EVALUATED,
  NO_LIMIT,
  Limit,
  OnProgress,
  Part,
  Selection,
  Stream,
  find_source,
  listed_left_out,
)
from prefixrl_jax.types import Problem, UserError

# Held-out problems of another file than the training ones have other indices.
_APART = 1 << 28


def load_problems(
  config: ml_collections.ConfigDict, *, seed: int
) -> list[Problem]:
  """Returns the pool: train, heldout and easy problems, indices distinct."""
  return [p for part in load_parts(config, seed=seed) for p in part.problems]


@contextlib.contextmanager
def _collecting_later() -> Iterator[None]:
  """Problems are many and no garbage: looking for it takes a quarter longer."""
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was_enabled:
      gc.enable()


@_collecting_later()
def load_parts(
  config: ml_collections.ConfigDict,
  *,
  seed: int,
  limit: Limit = NO_LIMIT,
  on_progress: OnProgress = lambda share, problems: None,
) -> list[Part]:
  """Returns the pool in parts, with an account of what was left out.

  The first num_train problems are trained on. The held-out ones are the next
  num_heldout, or come from the split that the source reserves for evaluation,
  or from config.problems.heldout. No training problem is a copy of another
  one, of a held-out one, or of one in config.problems.exclude.

  Args:
    config: section `problems`; `task` is one of `symbols`, a row of SOURCES, or
      "jsonl" or "tfds" for rows whose fields the config names.
    seed: seed for the draw, where problems are drawn.
    limit: how long prompts may be.
    on_progress: called now and then with (share of the source read, problems
      found in it).

  Raises:
    UserError: names what is missing, and what to do about it.
  """
  if config.function:
    excluded = dict.fromkeys(_excluded(config, seed), EVALUATED)
    train, heldout, easy = own.load(config, seed, excluded, limit)
    _check_count(config, train, heldout, apart=True)
    return [train, heldout, *([easy] if easy.problems else [])]
  if config.task in tasks.TASKS:
    parts = _drawn(config, seed)
    for part in parts:
      _note_too_long(part, limit)
    return parts
  source = find_source(config, config.task)
  if source.eval_only and config.num_train:
    raise UserError(
      f"config.problems.task = {config.task!r} is for evaluation only: name it"
      " in config.problems.heldout.task, or set num_train = 0."
    )
  chosen = Selection(
    config.task,
    config.file,
    config.split or source.split,
    config.level,
    "config.problems.file",
  )
  apart = _heldout_choice(config, source)
  known: dict[bytes, str] = {}  # fingerprint -> why it is not taken again
  if apart:
    stream = Stream(config, apart, seed, wanted=config.num_heldout)
    heldout = stream.take(
      "heldout",
      config.num_heldout,
      known,
      index=_APART,
      limit=limit,
      on_progress=on_progress,
    )
    known = dict.fromkeys(known, EVALUATED)
  known |= dict.fromkeys(_excluded(config, seed), EVALUATED)
  rest = 0 if apart else config.num_heldout
  wanted = config.num_train + rest
  stream = Stream(config, chosen, seed, wanted=wanted, start=config.start)
  take = functools.partial(stream.take, limit=limit, on_progress=on_progress)
  train = take("train", config.num_train, known)
  if not apart:
    heldout = take("heldout", config.num_heldout, known)
  _check_count(config, train, heldout, bool(apart))
  return [train, heldout]


@_collecting_later()
def load_set(
  config: ml_collections.ConfigDict,
  name: str,
  *,
  seed: int,
  limit: Limit = NO_LIMIT,
  on_progress: OnProgress = lambda share, problems: None,
) -> Part:
  """Returns problems that are only evaluated on; their split is the set's name.

  What a row does not say is as in config.problems: instruction, too_long, …

  Args:
    config: the whole config.
    name: of a row of config.evals.sets.
    seed, limit, on_progress: see `load_parts`.

  Raises:
    UserError: names what is missing, and what to do about it.
  """
  row, section = config.evals.sets[name], config.problems
  field = f"config.evals.sets.{name}"
  if section.task in tasks.TASKS:
    # A draw of its own, whatever its size.
    own = zlib.crc32(f"{seed}/{name}".encode())
    drawn = tasks.TASKS[section.task].make_problems(
      row.num_problems, row.size, seed=own, split="heldout", start=_APART
    )
    part = Part(section.task, f"drawn, seed {own}", "", name)
    part.problems = [
      dataclasses.replace(p, id=f"{name}/{p.id}", split=name) for p in drawn
    ]
    _note_too_long(part, limit)
    return part
  section = section.copy_and_resolve_references()
  section.update({k: v for k, v in row.items() if k in section})
  source = find_source(section, row.task)
  if source.generate and not row.file and not row.num_problems:
    raise UserError(
      f"{field}: {row.task} is drawn by rule, as many as {field}.num_problems"
      " says; it is 0."
    )
  chosen = Selection(
    row.task,
    row.file,
    row.split or source.heldout or source.split,
    row.level,
    f"{field}.file",
  )
  stream = Stream(section, chosen, seed, wanted=row.num_problems)
  part = stream.take(
    name,
    row.num_problems or sys.maxsize,
    {},
    index=_APART,
    limit=limit,
    on_progress=on_progress,
  )
  there, wanted = len(part.problems), row.num_problems or 1
  if there < wanted:
    raise UserError(
      f"{field} asks for {wanted} problems of {part.origin}; there are {there}."
      f"{_left_out(part)}"
    )
  return part


def find_verifier(config: ml_collections.ConfigDict) -> str:
  """Returns the name of the verifier that judges a section's task."""
  if config.task in tasks.TASKS:
    return config.task
  return find_source(config, config.task).verifier


def _note_too_long(part: Part, limit: Limit) -> None:
  too_long = limit.exceeded([p.prompt for p in part.problems])
  part.too_long = [p.id for p, is_so in zip(part.problems, too_long) if is_so]


def _drawn(config, seed) -> list[Part]:
  parts: list[Part] = []
  start = 0
  for split, count, size in (
    ("train", config.num_train, config.size),
    ("heldout", config.num_heldout, config.size),
    ("easy", config.num_easy, config.easy_size),
    ("train", config.num_easy_train, config.easy_size),
  ):
    if not count and split == "train" and parts:
      continue  # no easy ones to train on
    part = Part(config.task, f"drawn, seed {seed}", "", split)
    part.problems = tasks.TASKS[config.task].make_problems(
      count, size, seed=seed, split=split, start=start
    )
    start += count
    parts.append(part)
  return parts


def _heldout_choice(config, source: Source) -> Selection | None:
  """Returns where held-out problems are, if not after the training ones."""
  c = config.heldout
  asked = any((c.task, c.file, c.split, c.level))
  splits_known = source.split_of if config.file else source.hub
  if not asked and not (source.heldout and splits_known):
    return None
  task = c.task or config.task
  theirs = find_source(config, task)
  same = task == config.task
  return Selection(
    task,
    c.file or (config.file if same else ""),
    c.split or theirs.heldout or (config.split if same else "") or theirs.split,
    c.level or (config.level if same else ""),
    "config.problems.heldout.file",
  )


def _excluded(config, seed: int) -> Iterator[bytes]:
  """Yields the fingerprints of all problems that must not be trained on."""
  for item in filter(None, config.get("exclude", "").split(",")):
    task, _, file = item.strip().partition("=")
    source = find_source(config, task)
    chosen = Selection(
      task,
      file,
      source.heldout or source.split,
      "",
      "config.problems.exclude",
    )
    if source.generate and not file:
      raise UserError(
        f"config.problems.exclude: {task} is generated by rule, so there"
        " is no set of problems to exclude."
      )
    known: dict[bytes, str] = {}
    Stream(config, chosen, seed).take("excluded", sys.maxsize, known)
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
  if not any(part.num_rows for part in parts):
    return " There are no rows."
  listed = listed_left_out(*parts)
  return f" Left out: {listed}." if listed else ""
