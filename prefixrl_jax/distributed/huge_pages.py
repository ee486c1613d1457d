"""Memory in huge pages: large products on a CPU read their weights faster."""

import os
import platform
import sys

_VARIABLE = "GLIBC_TUNABLES"


def ensure() -> None:
  """Restarts the process so that what it allocates is in huge pages.

  The C library reads its setting at the start alone, so this belongs before
  everything else. Does nothing where there is no such setting, or where the
  environment has the variable GLIBC_TUNABLES already: an empty one will do to
  keep the process from starting again.
  """
  name, version = platform.libc_ver()
  known = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
  if not known or _VARIABLE in os.environ:
    return
  os.environ[_VARIABLE] = "glibc.malloc.hugetlb=1"
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
