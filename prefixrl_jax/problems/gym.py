"""Problems of reasoning-gym, by name and difficulty.

Needs the extra `gym`. The difficulty is that of the package's own curriculum.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from prefixrl_jax.problems.reading import Draw, Getter, Reading
from prefixrl_jax.types import UserError

_NAMED = ("easy", "medium", "hard")
# An entry that cannot be made is skipped; this many in a row are an error.
_PATIENCE = 20
_PROBED = 5  # problems on which constant answers are tried


def read(get: Getter) -> Reading:
  """Uses an entry as it is: the task's own scorer judges."""
  entry = {"question": get("question"), "metadata": get("metadata")}
  entry["answer"] = get.maybe("answer")
  return Reading(
    get.text("question"),
    "" if entry["answer"] is None else str(entry["answer"]),
    {"dataset": get("dataset"), "entry": entry},
  )


def generate(draw: Draw) -> Iterator[dict[str, Any]]:
  """Draws problems of the task that draw.name names in reasoning-gym.

  The level is "easy", "medium" or "hard", or a number: the step of each of
  the task's difficulty attributes, or its last step if it has fewer. Empty:
  the task's own defaults.

  Raises:
    UserError: the package is not installed, the task is unknown or has no
      trustworthy scorer, or there is no such level.
  """
  try:
    from reasoning_gym.factory import CURRICULA, DATASETS
  except ImportError:
    raise UserError(
      "config.problems.task = 'gym' needs reasoning-gym: pip install"
      " 'prefixrl_jax[gym]'."
    ) from None
  from prefixrl_jax.rewards.gym import REFUSED, find_constant

  name, level = draw.name, draw.level
  if name not in DATASETS:
    raise UserError(
      f"config.problems.name: reasoning-gym has no task {name!r}; known:"
      f" {', '.join(sorted(set(DATASETS) - set(REFUSED)))}."
    )
  if name in REFUSED:
    raise UserError(
      f"config.problems.name: reasoning-gym's {name} is not offered:"
      f" {REFUSED[name]}."
    )
  make, make_config = DATASETS[name]
  first = draw.seed * 1_000_003  # entry i of a data set is drawn from seed + i
  settings = {"seed": first, "size": draw.size}
  try:
    if not level:
      data = make(make_config(**settings))
    elif name in CURRICULA:
      data = make(_at_level(CURRICULA[name](), name, level, settings))
    else:
      raise UserError(
        f"config.problems.level = {level!r}: reasoning-gym's {name} has no"
        " difficulty; leave it empty."
      )
  except (AssertionError, ValueError) as e:
    raise UserError(
      f"reasoning-gym cannot make {name} of level {level!r}: {e}."
    ) from None
  entries = _entries(data, draw)
  some = list(itertools.islice(entries, _PROBED))
  constant = find_constant(name, some)
  if constant is not None:
    raise UserError(
      f"config.problems.name: reasoning-gym's scorer of {name} cannot be"
      f" trusted: it accepts {constant!r} for problems whose answers differ."
      " Use another task, or report this with the package's version."
    )
  for entry in itertools.chain(some, entries):
    yield entry | {"dataset": name}


def _entries(data, draw: Draw) -> Iterator[dict[str, Any]]:
  """Yields entries, skipping those that cannot be made."""
  failures = 0
  for i in range(draw.size):
    try:
      entry = data[i]
    except (AssertionError, IndexError, ValueError) as e:
      failures += 1
      if failures == _PATIENCE:
        raise UserError(
          f"reasoning-gym could not make {draw.name} of level {draw.level!r}"
          f" {_PATIENCE} times in a row: {e}. Try another level."
        ) from None
      continue
    failures = 0
    yield entry


def _at_level(curriculum, name: str, level: str, settings):
  steps = [len(a.levels) for a in curriculum.attributes.values()]
  highest = max(steps, default=1) - 1
  named = dict(zip(_NAMED, (0, highest // 2, highest)))
  step = named.get(level, -1)
  if level.isdecimal():
    step = int(level)
  if not 0 <= step <= highest:
    raise UserError(
      f"config.problems.level = {level!r}: reasoning-gym's {name} knows"
      f" {', '.join(_NAMED)} and 0 to {highest}."
    )
  curriculum.set_global_level(step)
  # Of a range of sizes it takes all up to the level's: the largest alone
  # cannot be made for some tasks.
  return curriculum.generate_configuration(settings)
