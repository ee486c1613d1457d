"""What Linux says about the machine: its processor, and what is ours of it."""

import contextlib
import functools
import os
import pathlib

_LIMITS = pathlib.Path("/sys/fs/cgroup")  # of a container


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


def num_cores() -> int:
  """Returns how many cores this process may keep busy."""
  if not hasattr(os, "sched_getaffinity"):
    return os.cpu_count() or 1
  cores = len(os.sched_getaffinity(0))
  with contextlib.suppress(OSError, ValueError):  # "max": no limit
    quota, period = map(int, (_LIMITS / "cpu.max").read_text().split())
    cores = min(cores, max(1, quota // period))
  return cores


def memory_bytes() -> int:
  """Returns the memory that all processes here may have together."""
  total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  with contextlib.suppress(OSError, ValueError):
    total = min(total, int((_LIMITS / "memory.max").read_text()))
  return total
