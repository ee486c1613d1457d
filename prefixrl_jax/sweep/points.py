"""The points of a sweep: an arm, and a value for each field that is varied."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Sequence

import ml_collections

from prefixrl_jax.run import provenance
from prefixrl_jax.types import UserError

_ARM = "{arm}"
_PREFIX = "config."
_OPENING, _CLOSING = "([{", ")]}"


@dataclasses.dataclass(frozen=True)
class Variation:
  """A field and the values that it takes in turn.

  Attributes:
    path: dotted, with `config.`; {arm} in it is the point's arm.
    values: as on the command line.
  """

  path: str
  values: tuple[str, ...]

  def path_for(self, arm: str) -> str | None:
    """Returns the field for an arm; None if it is another arm's own."""
    path = self.path.replace(_ARM, arm)
    is_an_arms = path.startswith("config.arms.")
    is_this_ones = path.startswith(f"config.arms.{arm}.")
    return path if is_this_ones or not is_an_arms else None


@dataclasses.dataclass(frozen=True)
class Point:
  """One arm at one combination of values.

  Attributes:
    arm: a key of config.arms.
    settings: (field, value) of what is varied, dotted and with `config.`.
  """

  arm: str
  settings: tuple[tuple[str, str], ...]

  @property
  def flags(self) -> list[str]:
    """The settings as a command line has them."""
    return [f"--{path}={value}" for path, value in self.settings]

  @property
  def name(self) -> str:
    """Names its folder; no other point of a sweep has the same."""
    parts = [self.arm]
    for path, value in self.settings:
      own = path.removeprefix(f"config.arms.{self.arm}.")
      parts.append(f"{own.removeprefix(_PREFIX)}={value}")
    whole = ",".join(parts)
    safe = re.sub(r"[^\w.,=+-]", "_", whole)
    if safe == whole and len(whole) <= 120:
      return whole
    return f"{safe[:100]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def read_variation(text: str) -> Variation:
  """Reads FIELD=VALUE,VALUE; a comma within brackets or quotes is no separator.

  Args:
    text: what follows --set.

  Raises:
    UserError: it is of another form, or has a value twice.
  """
  path, equals, rest = text.partition("=")
  path = path.strip().removeprefix("--")
  if not equals or not path.startswith(_PREFIX):
    raise UserError(
      f"--set={text}: it is of the form config.FIELD=VALUE,VALUE, e.g."
      " config.arms.{arm}.learning_rate=1e-4,3e-4."
    )
  values = tuple(value.strip() for value in _split(rest))
  if not all(values):
    raise UserError(f"--set={text}: a value is empty.")
  if twice := [v for i, v in enumerate(values) if v in values[:i]]:
    raise UserError(f"--set={text}: {twice[0]} is given twice.")
  for path_known in ("config.seeds", "config.run_arms"):
    if path == path_known:
      flag = "--seeds" if path.endswith("seeds") else "--arms"
      raise UserError(f"--set={text}: {flag} says which ones are run.")
  return Variation(path, values)


def _split(text: str) -> list[str]:
  parts, depth, quote = [""], 0, ""
  for c in text:
    if quote:
      quote = "" if c == quote else quote
    elif c in "'\"":
      quote = c
    depth += (c in _OPENING) - (c in _CLOSING) if not quote else 0
    if c == "," and not depth and not quote:
      parts.append("")
    else:
      parts[-1] += c
  return parts


def points_of(
  arms: Sequence[str], variations: Sequence[Variation]
) -> list[Point]:
  """Returns every arm with every combination of the values of its fields.

  A field of config.arms.NAME is varied for the arm NAME alone.

  Args:
    arms: keys of config.arms.
    variations: of different fields.

  Raises:
    UserError: a field is given twice, or is no arm's.
  """
  points = []
  used = set()
  for arm in arms:
    own = [(p, v) for v in variations if (p := v.path_for(arm)) is not None]
    paths = [path for path, _ in own]
    if twice := [p for i, p in enumerate(paths) if p in paths[:i]]:
      raise UserError(f"--set: {twice[0]} is given twice.")
    used |= {v for _, v in own}
    for values in itertools.product(*(v.values for _, v in own)):
      points.append(Point(arm, tuple(zip(paths, values))))
  if unused := [v for v in variations if v not in used]:
    raise UserError(
      f"--set={unused[0].path}=…: it is a field of none of --arms,"
      f" {', '.join(arms)}."
    )
  return points


def as_read(point: Point, config: ml_collections.ConfigDict) -> Point:
  """Returns the point with its values as a config has them: 1e-4 as 0.0001.

  Args:
    point: as on the command line.
    config: made with its settings.
  """
  fields = dict(provenance.flatten(config))

  def value(path: str, text: str) -> str:
    read = fields.get(path.removeprefix(_PREFIX))
    return text if read is None else str(read)

  return dataclasses.replace(
    point, settings=tuple((p, value(p, text)) for p, text in point.settings)
  )
