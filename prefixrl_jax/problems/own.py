"""Problems of the user's: a function in a file returns or yields them."""

import itertools
import json
import pathlib
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from prefixrl_jax import user_code
from prefixrl_jax.problems.streams import (
  EVALUATED,
  REPEATED,
  TOO_LONG,
  Limit,
  Part,
  problem_text,
)
from prefixrl_jax.problems.texts import fingerprint
from prefixrl_jax.storage.rows import Row
from prefixrl_jax.types import Problem, UserError, one_line

FIELD = "config.problems.function"
_ARGUMENTS = ("config", "seed")
_SPLITS = ("train", "heldout", "easy")
_KEYS = ("prompt", "answer", "split", "id", "metadata")
_COMPARED = 32  # problems of a second call


def check(function: str) -> user_code.Source:
  """Returns the function's source, once it is known to be a function.

  Args:
    function: "FILE.py:NAME".

  Raises:
    UserError: there is no such function, or it takes other arguments.
  """
  return user_code.check(function, FIELD, *_ARGUMENTS)


def load(
  config: ml_collections.ConfigDict,
  seed: int,
  known: Mapping[bytes, str],
  limit: Limit,
) -> list[Part]:
  """Returns what the function has: parts train, heldout and easy.

  It is asked until there are as many of each as the config wants, or no more;
  one that does not end is asked for a few times as many.

  Args:
    config: section `problems`.
    seed: of the draw.
    known: fingerprint -> why such a problem is not trained on.
    limit: how long prompts may be.

  Raises:
    UserError: the function raises, or what it returns are no problems; with
      file and line.
  """
  source = check(config.function)
  name = f"{source.file}:{source.name}"
  parts = {
    split: Part(name, "a function of yours", "", split) for split in _SPLITS
  }
  marks: dict[str, dict[bytes, Problem]] = {split: {} for split in _SPLITS}
  # Files have no easy problems, and so no number of them.
  wanted = {s: config.get(f"num_{s}", config.num_heldout) for s in _SPLITS}
  needed = [s for s in _SPLITS if f"num_{s}" in config]
  most = 4 * sum(wanted.values()) + 1000
  first: list[Problem] = []
  for problem in itertools.islice(_problems(source, config, seed), most):
    if len(first) < _COMPARED:
      first.append(problem)
    split, part = problem.split, parts[problem.split]
    row = Row(f"problem {problem.id!r}", problem.index, {})
    part.num_rows += 1
    mark = fingerprint(problem_text(problem, config.get("instruction", "")))
    [is_too_long] = limit.exceeded([problem.prompt])
    if split == "train" and mark in known:
      part.leave_out(part.dropped, known[mark], row)
    elif split == "train" and mark in marks["heldout"]:
      part.leave_out(part.dropped, EVALUATED, row)
    elif mark in marks[split]:
      part.leave_out(part.dropped, REPEATED, row)
    elif is_too_long and limit.drops:
      part.leave_out(part.dropped, TOO_LONG, row)
    elif len(part.problems) < wanted[split]:
      if split == "heldout" and mark in marks["train"]:
        train = parts["train"]
        train.problems.remove(marks["train"].pop(mark))
        train.leave_out(train.dropped, EVALUATED, row)
      marks[split][mark] = problem
      part.problems.append(problem)
    if all(len(parts[s].problems) >= wanted[s] for s in needed):
      break
  for part in parts.values():
    too_long = limit.exceeded([p.prompt for p in part.problems])
    part.too_long = [p.id for p, is_so in zip(part.problems, too_long) if is_so]
  _check_repeatable(source, config, seed, first)
  return list(parts.values())


def _check_repeatable(
  source: user_code.Source,
  config: ml_collections.ConfigDict,
  seed: int,
  first: Sequence[Problem],
) -> None:
  """A run that is resumed must find its problems again."""
  for one, other in zip(first, _problems(source, config, seed)):
    if one != other:
      raise _wrong(
        source,
        f"gives {one.prompt[:40]!r} and, called again, {other.prompt[:40]!r}:"
        " draw from random.Random(seed), so that a run can be resumed",
      )


def _problems(
  source: user_code.Source, config: ml_collections.ConfigDict, seed: int
) -> Iterator[Problem]:
  """Yields what the function gives, once it is known to be problems."""
  ids: dict[str, int] = {}
  for number, item in enumerate(_items(source, config, seed)):
    problem = _problem(source, item, number)
    earlier = ids.setdefault(problem.id, number)
    if earlier != number:
      raise _wrong(
        source,
        f"gives problems {earlier} and {number} the same id {problem.id!r};"
        " every problem needs an id of its own",
      )
    yield problem


def _items(
  source: user_code.Source, config: ml_collections.ConfigDict, seed: int
) -> Iterator[Any]:
  function = user_code.load(source, *_ARGUMENTS)
  try:
    returned = function(config.copy_and_resolve_references(), seed)
    if isinstance(returned, (str, bytes, Mapping)) or not isinstance(
      returned, Iterable
    ):
      raise _wrong(
        source,
        f"returns {_shown(returned)}; return a list of problems, or yield them",
      )
    yield from returned
  except UserError:
    raise
  except (Exception, SystemExit) as e:
    raise UserError(f"{FIELD}: {user_code.raised(e, source.file)}") from e


def _problem(source: user_code.Source, item: Any, number: int) -> Problem:
  """Returns what the function has given as a problem, once it is one."""
  if isinstance(item, Problem):
    item = {key: getattr(item, key) for key in _KEYS}
  fault = _fault(item)
  if fault:
    raise _wrong(source, f"gives as problem {number} {fault}")
  return Problem(
    id=item.get("id", f"{source.name}/{number}"),
    prompt=item["prompt"],
    answer=item["answer"],
    source=f"{pathlib.Path(source.file).name}:{source.name}",
    split=item["split"],
    index=number,
    metadata=dict(item.get("metadata", {})),
  )


def _fault(item: Any) -> str:
  """Says what is wrong with a problem; empty: nothing."""
  if not isinstance(item, Mapping):
    return f"{_shown(item)}; a problem is a dict with prompt, answer and split"
  for key in item:
    if key not in _KEYS:
      return f"one with {key!r}; its keys are {', '.join(_KEYS)}"
  for key in ("prompt", "answer", "split"):
    if key not in item:
      return f"one without {key!r}; it needs prompt, answer and split"
  for key in ("prompt", "answer", "id"):
    if key in item and not isinstance(item[key], str):
      return f"one whose {key} is {_shown(item[key])}; it is a string"
  for key in ("prompt", "id"):
    if key in item and not item[key].strip():
      return f"one whose {key} is empty; it is some text"
  if item["split"] not in _SPLITS:
    return (
      f"one whose split is {_shown(item['split'])}; it is one of"
      f" {', '.join(_SPLITS)}"
    )
  metadata = item.get("metadata", {})
  try:
    if not isinstance(metadata, Mapping):
      raise TypeError("it is a dict")
    json.dumps(dict(metadata), allow_nan=False)
    "".join((item["prompt"], item["answer"])).encode()
  except UnicodeEncodeError as e:
    return f"one with text that is no Unicode ({e.reason})"
  except (TypeError, ValueError) as e:
    return f"one whose metadata are not JSON ({one_line(e)})"
  return ""


def _shown(value: Any) -> str:
  return f"{reprlib.repr(value)} ({type(value).__name__})"


def _wrong(source: user_code.Source, what: str) -> UserError:
  function = user_code.load(source, *_ARGUMENTS)
  where = user_code.place_of(function, source.file)
  return UserError(f"{FIELD}: {where}: {source.name} {what}.")
