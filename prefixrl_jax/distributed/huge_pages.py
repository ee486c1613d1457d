"""Memory in huge pages: large products on a CPU read their weights faster."""

import os
import platform
import sys

_VARIABLE = "GLIBC_TUNABLES"


def ensure() -> None:
  """Restarts the process so that what it allocates is in huge pages.

  The C library reads its setting only at the start, so this comes before
  everything else. Does nothing if there is no such setting, or if
  GLIBC_TUNABLES is already set, even to nothing: that prevents a second
  restart.
  """
  name, version = platform.libc_ver()
  known = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
  if not known or _VARIABLE in os.environ:
    return
  os.environ[_VARIABLE] = "glibc.malloc.hugetlb=1"
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
