"""What Linux says about the processor."""

import contextlib
import functools
import pathlib


@functools.cache
def facts() -> dict[str, str]:
  """Returns what /proc/cpuinfo says about the first core; empty elsewhere."""
  found: dict[str, str] = {}
  with contextlib.suppress(OSError):
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      name, _, value = line.partition(":")
      found.setdefault(name.strip(), value.strip())
  return found


def features() -> frozenset[str]:
  """Returns the names of its features, as "avx2"; none on other systems."""
  return frozenset(facts().get("flags", "").split())
