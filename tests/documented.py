"""Which metrics docs/logging.md has."""

import pathlib
import re
from collections.abc import Iterable

_PAGE = pathlib.Path(__file__).parents[1] / "docs/logging.md"


def undocumented(names: Iterable[str]) -> set[str]:
  """Returns the metrics that the page has no row for."""
  told = {
    name.replace("KIND", kind)
    for row in re.findall(r"^\|([^|]*)\|", _PAGE.read_text(), re.MULTILINE)
    for name in re.findall(r"`([\w/]+)`", row)
    for kind in ("prefixed", "no_prefix")
  }
  return set(names) - told
