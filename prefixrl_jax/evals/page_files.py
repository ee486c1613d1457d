"""Data files that a page loads by a script tag, from the disk if need be.

A file has at most 5 MB. Its text is ASCII that is JSON, JavaScript and no HTML,
whatever models and problems have written.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from prefixrl_jax.storage.files import write_bytes

# Whole rows of a list; of rollouts fewer, unless one alone, its prompt and its
# prefix are more. Each of these has a limit of its own.
_FILE_BYTES, _PAGE_BYTES, _TEXT_BYTES = 4_900_000, 1_000_000, 900_000


def to_script(value: Any) -> str:
  """Returns a value as ASCII that is JSON, JavaScript and no HTML.

  Args:
    value: of JSON.
  """
  text = json.dumps(value, separators=(",", ":"), allow_nan=False)
  return text.replace("<", "\\u003c")


def cut_text(text: str) -> str:
  """Returns a text as a script, or its beginning if that is too long."""
  whole = to_script(text)
  if len(whole) <= _TEXT_BYTES:
    return whole
  return to_script(text[: _TEXT_BYTES // 12 - 1] + "…")


def _object(entries: Mapping[Any, str]) -> str:
  """Returns an object of values that are scripts already."""
  parts = (f"{to_script(str(name))}:{v}" for name, v in entries.items())
  return f"{{{','.join(parts)}}}"


class Files:
  """Data files: scripts that hand a value over to viewer.js.

  Attributes:
    counts: how many there are of each name.
  """

  def __init__(self, folder: epath.Path):
    self._folder = folder
    self.counts: dict[str, int] = {}

  def write(self, name: str, value: Any) -> None:
    """Writes the next file of a name."""
    self.write_script(name, to_script(value))

  def write_rows(self, name: str, rows: Iterable[Any]) -> None:
    """Writes rows, whole, into as many files as it takes; one if none."""
    texts: list[str] = []
    size = 0
    for text in map(to_script, rows):
      if texts and size + len(text) > _FILE_BYTES:
        self.write_script(name, f"[{','.join(texts)}]")
        texts, size = [], 0
      texts.append(text)
      size += len(text) + 1
    self.write_script(name, f"[{','.join(texts)}]")

  def write_script(self, name: str, script: str) -> None:
    """Writes the next file of a name, from what `to_script` returned."""
    number = self.counts.get(name, 0)
    self.counts[name] = number + 1
    write_bytes(
      self._folder / f"{name}_{number}.js",
      f'rolloutData("{name}",{number},{script});\n'.encode("ascii"),
    )


class Page:
  """The page of rollouts that is being filled."""

  def __init__(self, files: Files):
    self._files, self._number = files, 0
    self._begin()

  def _begin(self) -> None:
    self._parts: dict[str, dict[Any, str]] = {
      "prompts": {},
      "prefixes": {},
      "rollouts": {},
    }
    self._size = 0

  def add(
    self,
    row: int,
    rollout: str,
    *,
    prompt: tuple[str, str],
    prefix: tuple[str, str],
  ) -> int:
    """Adds a rollout, and what it begins with where that is new here.

    Args:
      row: its place in the list of rollouts.
      rollout: from `_cut_rollout`.
      prompt, prefix: a name and the text.

    Returns:
      The page's number.
    """
    entries = (
      ("prompts", prompt[0], cut_text(prompt[1])),
      ("prefixes", prefix[0], cut_text(prefix[1])),
      ("rollouts", row, rollout),
    )
    size = sum(len(text) for _, _, text in entries)
    if self._size and self._size + size > _PAGE_BYTES:
      self.close()
    for part, name, text in entries:
      if name not in self._parts[part]:
        self._parts[part][name] = text
        self._size += len(text)
    return self._number

  def close(self) -> None:
    """Writes the page, if it has anything."""
    if self._size:
      parts = {part: _object(entries) for part, entries in self._parts.items()}
      self._files.write_script("page", _object(parts))
      self._number += 1
      self._begin()
