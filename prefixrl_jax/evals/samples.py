"""Which samples a page of limited size shows, and how much of each."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

_TEXTS = ("prompt", "prefix", "completion")
_MOST_CHARACTERS = 20_000  # of each text
_MARKUP = 700  # bytes of a sample beside its texts

Sample = Mapping[str, Any]


def fitting(
  samples: Sequence[Sample], most_bytes: int
) -> tuple[dict[tuple[str, int], list[Sample]], int]:
  """Returns the samples that a page has room for, by run.

  Every run has its first before any has its second, and so on. Long texts end
  with how much of them is left out.

  Args:
    samples: each with arm, seed and its texts.
    most_bytes: of HTML.

  Returns:
    (arm, seed) -> samples, and how many samples were left out.
  """
  by_run: dict[tuple[str, int], list[Sample]] = {}
  for sample in samples:
    cut = {name: _cut(sample[name]) for name in _TEXTS}
    run = (sample["arm"], sample["seed"])
    by_run.setdefault(run, []).append({**sample, **cut})
  shown: dict[tuple[str, int], list[Sample]] = {run: [] for run in by_run}
  room = most_bytes
  for place in range(max(map(len, by_run.values()), default=0)):
    for run, of_run in by_run.items():
      if place < len(of_run):
        room -= _size(of_run[place])
        if room < 0:
          num_shown = sum(map(len, shown.values()))
          return {r: s for r, s in shown.items() if s}, (
            len(samples) - num_shown
          )
        shown[run].append(of_run[place])
  return shown, 0


def _cut(text: str | None) -> str:
  text = text or ""
  if len(text) <= _MOST_CHARACTERS:
    return text
  left_out = len(text) - _MOST_CHARACTERS
  return f"{text[:_MOST_CHARACTERS]} … ({left_out:,} more characters)"


def _size(sample: Sample) -> int:
  texts = (sample["problem_id"], *(sample[name] for name in _TEXTS))
  return _MARKUP + sum(len(html.escape(text).encode()) for text in texts)
