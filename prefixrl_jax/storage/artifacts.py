"""Stage artifacts: folders that are complete, in progress, or absent.

A stage writes `inputs.json` when it begins and `manifest.json` when it has
finished; both record what the artifact depends on. Files appear under their
final name whole or not at all, and the manifest has a digest of each, which is
checked at every read.
"""

import contextlib
import copy
import datetime
import importlib.metadata
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from etils import epath

from prefixrl_jax import __version__
from prefixrl_jax.storage.files import (
  File,
  check_kind,
  digest,
  digest_of,
  read_sealed,
  remove,
  remove_temporaries,
  write_sealed,
)
from prefixrl_jax.types import UserError

_MISSING = "(absent)"
_RECORDS = ("manifest.json", "inputs.json")


class Artifact:
  """What a stage leaves in the workdir."""

  def __init__(
    self,
    directory: epath.Path,
    depends: Mapping[str, Any],
    *,
    name: str,
    entries: Collection[str] = (),
    made_from: Callable[[], Mapping[str, str | None]] = dict,
    limits: Mapping[str, float] | None = None,
    execution: Mapping[str, Any] | None = None,
    has_continued: Callable[[Mapping[str, Any]], bool] = lambda summary: False,
    follows: bool = False,
    to_redo: Collection[str] = (),
    as_today: Callable[
      [Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]
    ] = lambda record, today: record,
  ):
    """Names the artifact; touches nothing.

    Args:
      directory: the artifact's folder.
      depends: config fields it is made from, as JSON values.
      name: the name that --redo takes.
      entries: files, and folders (ending in /), that the stage leaves there
        besides its records.
      made_from: returns digests of the files and artifacts it is made from;
        None for one that does not exist yet.
      limits: config fields that say when to stop, 0 for no limit: raising one
        lets a complete artifact continue.
      has_continued: whether it has continued since; takes its summary.
      execution: config fields that change no result; they are recorded.
      follows: whether it is re-made if what it was made from has changed;
        otherwise that is refused.
      to_redo: names of artifacts to re-make, which count as absent.
      as_today: takes the fields in an older record, and `depends`; returns what
        the record would say today.
    """
    self.directory, self.name = directory, name
    self._depends, self._limits = dict(depends), dict(limits or {})
    self._execution, self._entries = dict(execution or {}), entries
    self._read_sources, self._has_continued = made_from, has_continued
    self._follows, self._to_redo = follows, to_redo
    self._as_today = as_today

  def within(self, folder: str) -> "Artifact":
    """Returns the same artifact in a folder within its own."""
    other = copy.copy(self)
    other.directory = self.directory / folder
    other.name = f"{self.name}/{folder}"
    return other

  @property
  def fits(self) -> bool:
    """Whether its folder has nothing of other settings.

    Of a damaged record that is not known; `check` says so.
    """
    for name in _RECORDS:
      path = self.directory / name
      if path.exists():
        with contextlib.suppress(UserError):
          return not self._other_settings(read_sealed(path, self.remedy))
        break
    return True

  @property
  def key(self) -> str:
    """A short name for the settings it depends on."""
    return digest_of(dict(_flatten(self._depends)))[:8]

  @property
  def exists(self) -> bool:
    """Whether it was ever begun; what is to be made to_redo counts."""
    return any((self.directory / name).exists() for name in _RECORDS)

  @property
  def made_with(self) -> Mapping[str, Any]:
    """The settings on record, as of its end, {path: value}."""
    return dict(_flatten(self._manifest["depends"]))

  @property
  def remedy(self) -> str:
    """How to re-make it, in a sentence."""
    return f"--redo={self.name} re-makes it."

  def incomplete(self) -> UserError:
    """Returns the error that a stage needs this and it is not complete."""
    stage = self.name.partition("/")[0]
    return UserError(
      f"{self.directory} is not complete; run --stage={stage} first."
    )

  @property
  def has_finished(self) -> bool:
    """Whether it was complete, before its limits were raised."""
    return self._read("manifest.json") is not None

  @property
  def complete(self) -> bool:
    """Whether the stage has finished, with nothing left to do."""
    record = self._read("manifest.json")
    return record is not None and not (
      self._raised(record) or self._is_stale(record)
    )

  @property
  def sources(self) -> dict[str, str | None]:
    """Digests of what it would be made from now."""
    return dict(self._read_sources())

  @property
  def summary(self) -> dict[str, Any]:
    """The stage's summary, as of its end."""
    return self._manifest["summary"]

  @property
  def digest(self) -> str | None:
    """A digest of its contents; None if it is not complete."""
    if not self.complete:
      return None
    manifest = self._manifest
    return digest_of([manifest[k] for k in ("depends", "made_from", "files")])

  def file(self, name: str) -> File:
    """Returns one of the finished stage's files."""
    digest = self._manifest["files"][name]
    return File(self.directory / name, digest, self.remedy)

  def check(self) -> None:
    """Raises UserError if the folder was made from something else.

    Or if something else of the same name is in the way.
    """
    self._check_kinds()
    record = self._record()
    if record is None:
      return
    changed = self._other_settings(record)
    lowered = [
      _difference(key, record["limits"], self._limits, "in the config")
      for key, value in sorted(self._limits.items())
      if _limit(value) < _limit(record["limits"][key])
    ]
    sources = [] if self._follows else self._other_sources(record)
    if not changed and not lowered and not sources:
      return
    how = (
      "was made with other settings"
      if changed or lowered
      else "was made from something else"
    )
    if lowered:
      lowered.append("It has gone as far as that, and can only go further.")
    raise UserError(
      "\n".join(
        [
          f"{self.directory} {how}:",
          *changed,
          *sources,
          *lowered,
          "Use what it was made with, another --workdir, or re-make it:"
          f" --redo={self.name} (--fresh: all that the run makes).",
        ]
      )
    )

  def _check_kinds(self) -> None:
    there = self.directory
    while not there.exists():
      there = there.parent
    check_kind(there, is_folder=True)
    for name in (*self._entries, *_RECORDS):
      check_kind(self.directory / name, is_folder=name.endswith("/"))

  def begin(self) -> None:
    """Marks the stage as in progress; what an earlier attempt left is kept.

    Raises:
      UserError: the folder was made from something else, or it is not known
        what from.
      ValueError: what it is made from does not exist yet.
    """
    self.check()
    sources = self.sources
    absent = [key for key, value in sources.items() if value is None]
    if absent:
      raise ValueError(f"{self.name} is begun before {', '.join(absent)}")
    record = self._record()
    if record and self._is_stale(record):
      self.remove()
      record = None
    elif record is None and (found := self._leftovers()):
      raise UserError(
        f"{self.directory} has {', '.join(p.name for p in found)}, but no"
        f" inputs.json that says what it was made from. {self.remedy}"
      )
    remove_temporaries(self.directory, self.directory / "parts")
    used = record["execution"] if record else []
    if self._execution not in used:
      used = [*used, self._execution]
    # First this, then the manifest: at every moment one of them exists. An
    # artifact that is to continue stays complete, for its old limits, until it
    # has.
    write_sealed(
      self.directory / "inputs.json",
      {
        "depends": self._depends,
        "made_from": sources,
        "limits": self._limits,
        "execution": used,
      },
    )
    if not self.has_finished:
      remove(self.directory / "manifest.json")

  def remove(self) -> None:
    """Removes what the stage has left, and nothing else in the folder.

    The records go last: until then they say what the rest was made from.
    """
    remove(*self._leftovers())
    remove(*(self.directory / name for name in _RECORDS))

  def finish(self, summary: dict[str, Any], files: Collection[str]) -> None:
    """Marks the stage as complete.

    Args:
      summary: JSON values, for later stages.
      files: names, within the folder, of the files that later stages read.
    """
    inputs = self._read("inputs.json")
    assert inputs is not None, f"{self.name} was not begun"
    versions = {
      "jax": importlib.metadata.version("jax"),
      "prefixrl_jax": __version__,  # of a checkout that is not installed, too
    }
    write_sealed(
      self.directory / "manifest.json",
      {
        # Also at the top level, where users' scripts look.
        **summary,
        **inputs,
        "files": {name: digest(self.directory / name) for name in files},
        "summary": summary,
        "versions": versions,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(),
      },
    )

  @property
  def _manifest(self) -> dict[str, Any]:
    if (manifest := self._read("manifest.json")) is None:
      raise self.incomplete()
    return manifest

  def _record(self) -> dict[str, Any] | None:
    """The artifact's newest record."""
    for name in _RECORDS:
      if record := self._read(name):
        return record
    return None

  def _read(self, name: str) -> dict[str, Any] | None:
    path = self.directory / name
    if self.name in self._to_redo or not path.exists():
      return None
    record = read_sealed(path, self.remedy)
    if name == "manifest.json" and self._has_continued(record["summary"]):
      return None
    return record

  def _leftovers(self) -> list[epath.Path]:
    paths = [self.directory / name for name in self._entries]
    return [path for path in paths if path.exists()]

  def _raised(self, record: Mapping[str, Any]) -> bool:
    return any(
      _limit(value) > _limit(record["limits"][key])
      for key, value in self._limits.items()
    )

  def _is_stale(self, record: Mapping[str, Any]) -> bool:
    """Whether what it was made from has changed, and it follows."""
    return self._follows and bool(self._other_sources(record))

  def _other_settings(self, record: Mapping[str, Any]) -> list[str]:
    here = dict(_flatten(self._depends))
    there = self._as_today(dict(_flatten(record["depends"])), here)
    return [
      _difference(key, there, here, "in the config")
      for key in sorted(there.keys() | here.keys())
      if there.get(key, _MISSING) != here.get(key, _MISSING)
    ]

  def _other_sources(self, record: Mapping[str, Any]) -> list[str]:
    there, here = record["made_from"], self._read_sources()
    return [
      _difference(key, there, here, "now", section="made_from.")
      for key in sorted(there.keys() | here.keys())
      # What does not exist yet is compared once it does.
      if here.get(key, _MISSING) not in (None, there.get(key, _MISSING))
    ]


def artifacts_of(
  workdir: epath.Path, stage: str
) -> Iterator[tuple[Artifact, dict[str, Any]]]:
  """Yields what a stage left of each run, with its arm and seed.

  Args:
    workdir: of one or more runs.
    stage: train or evaluate.
  """
  folders = []
  for folder in workdir.glob(f"{stage}/*/seed_*"):
    seed = folder.name.removeprefix("seed_")
    if seed.isdecimal():
      folders.append((folder.parent.name, int(seed), folder))
  for arm, seed, folder in sorted(folders):
    artifact = Artifact(folder, {}, name=f"{stage}/{arm}/seed_{seed}")
    yield artifact, {"arm": arm, "seed": seed}


def _limit(value: float) -> float:
  return value or math.inf


def _difference(
  key: str, there: Mapping, here: Mapping, where: str, section: str = ""
) -> str:
  return (
    f"  {section}{key}: {there.get(key, _MISSING)!r} in the workdir,"
    f" {here.get(key, _MISSING)!r} {where}"
  )


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
  """Yields (dotted name, leaf)."""
  if isinstance(value, Mapping) and value:
    for key, child in value.items():
      yield from _flatten(child, f"{name}.{key}" if name else key)
  else:
    yield name, value
