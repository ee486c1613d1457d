"""The bubblewrap command: what an isolated interpreter can see and do."""

import compileall
import itertools
import os
import pathlib
import platform
import re
import shutil
import struct
import subprocess
import sys
import sysconfig

from prefixrl_jax.rewards import seccomp
from prefixrl_jax.types import UserError

TMP_MB = 64
INSIDE = pathlib.Path(__file__).with_name("inside")
_HOME = "/python"  # the interpreter's place in the sandbox
# Compiled modules that need other libraries. Those of hashlib and ssl are left
# out; hashlib has built-in implementations.
_MODULES = ("math", "zlib", "bz2", "lzma", "_ctypes", "pyexpat", "_decimal")
OPTIONS = ("-S", "-s", "-P", "-X", "utf8", "-c")
# After the standard library: this package has a `math` of its own.
_START = (
  "import sys; sys.path.append({!r}); import inside.running as r; r.main()"
)
_ENVIRONMENT = {
  "PYTHONHASHSEED": "0",
  "HOME": "/tmp",
  "TMPDIR": "/tmp",
  # Otherwise each thread takes 64 MB of the limited address space.
  "MALLOC_ARENA_MAX": "1",
}
_INSTALL = (
  "Install bubblewrap 0.7 or newer (apt-get install bubblewrap; dnf install"
  " bubblewrap; pacman -S bubblewrap)."
)
_ELSE = (
  " Inside a container or virtual machine of your own that may be lost,"
  " --config.rewards.sandbox=unsafe_subprocess does without."
)
_users = itertools.count()


class Bubblewrap:
  """Makes the commands that start an interpreter in bubblewrap."""

  private_tmp = True

  def __init__(self, *, as_root: bool):
    """Looks up what the interpreter needs.

    Args:
      as_root: whether to do without a user namespace: the interpreter then
        gives up root itself, and each sandbox gets its own user id.

    Raises:
      UserError: bubblewrap is not installed, or the processor is not known.
    """
    program = shutil.which("bwrap")
    if program is None:
      raise UserError(
        "config.rewards.sandbox = 'bubblewrap', but there is no program bwrap"
        f" on PATH. {_INSTALL}{_ELSE}"
      )
    never = seccomp.filter_program(for_solutions=False)
    inner = seccomp.filter_program(for_solutions=True)
    if never is None or inner is None:
      raise UserError(
        "config.rewards.sandbox = 'bubblewrap' knows the system calls of"
        f" x86_64 and aarch64, not of {platform.machine()}.{_ELSE}"
      )
    compileall.compile_dir(INSIDE, quiet=2)  # it is read-only in there
    self.never, self.filters = never, [inner.hex()]
    self._as_root = as_root
    # Since 5.14 processes are counted per user namespace, before that per user:
    # this user's other processes would count.
    release = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    self.counts_processes = as_root or release >= (5, 14)
    self._command = [
      program,
      *_namespaces(as_root),
      *_environment({**_ENVIRONMENT, "LD_LIBRARY_PATH": f"{_HOME}/lib"}),
      *_root(),
    ]

  def command(self, *, info: int, filter_from: int) -> list[str]:
    """Returns the command of one sandbox.

    Args:
      info, filter_from: file descriptors to which bwrap writes its child's pid
        and from which it reads the filter.
    """
    user = 0
    if self._as_root:
      # A user id of its own: process limits count per user. Pids end at 2**22.
      number = os.getpid() % 2**22 * 256 + next(_users) % 256
      user = 2**30 + number
    return [
      *self._command,
      *("--info-fd", str(info), "--seccomp", str(filter_from)),
      *(f"{_HOME}/bin/python3", *OPTIONS, _START.format("/"), str(user)),
    ]


class Subprocess:
  """Makes the command of an ordinary process, for those who chose that."""

  private_tmp = False
  counts_processes = False

  def __init__(self):
    """Filters system calls if the machine type is known."""
    programs = [seccomp.filter_program(for_solutions=s) for s in (False, True)]
    self.filters = [p.hex() for p in programs if p is not None]
    python = sys._base_executable  # type: ignore[attr-defined]
    self.command = [python, *OPTIONS, _START.format(str(INSIDE.parent)), "0"]

  def environment(self, tmp: str) -> dict[str, str]:
    """Returns the process's whole environment; `tmp` is its folder."""
    return {**_ENVIRONMENT, "HOME": tmp, "TMPDIR": tmp}


def failure(stderr: str) -> UserError:
  """Returns the error for a bwrap that does not start."""
  return UserError(
    "config.rewards.sandbox = 'bubblewrap', but bwrap does not work here:\n"
    f"  {stderr.strip() or 'it said nothing'}\n{_INSTALL} It needs user"
    " namespaces: sysctl user.max_user_namespaces above 0,"
    " kernel.unprivileged_userns_clone = 1 (Debian),"
    " kernel.apparmor_restrict_unprivileged_userns = 0 (Ubuntu); in Docker,"
    f" --security-opt seccomp=unconfined.{_ELSE}"
  )


def is_root_of_the_machine() -> bool:
  """Whether this is root, and not of a user namespace."""
  with open("/proc/self/uid_map") as f:
    whole = f.read().split() == ["0", "0", str(2**32 - 1)]
  return os.geteuid() == 0 and whole


def _namespaces(as_root):
  options = ["--unshare-ipc", "--unshare-pid", "--unshare-net"]
  options += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox"]
  options += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
  if as_root:
    return [*options, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
  return [*options, "--unshare-user", "--uid", "65534", "--gid", "65534"]


def _environment(variables):
  options = ["--clearenv"]
  for name, value in variables.items():
    options += ["--setenv", name, value]
  return options


def _root():
  """The file system: the interpreter, its library, and an empty /tmp."""
  python = os.path.realpath(sys._base_executable)  # type: ignore[attr-defined]
  library = sysconfig.get_path("stdlib")
  place = f"{_HOME}/{sys.platlibdir}/{os.path.basename(library)}"
  loader = _loader(python)
  shown = {
    python: f"{_HOME}/bin/python3",
    library: place,
    loader: loader,
    str(INSIDE): "/inside",
  }
  links: dict[str, str] = {}
  for path, names in _shared_libraries(python).items():
    shown[path] = f"{_HOME}/lib/{os.path.basename(path)}"
    links |= {name: os.path.basename(path) for name in names}
  options = []
  # bwrap creates missing ones for its own user only.
  targets = [*shown.values(), "/dev/null"]
  for folder in sorted({str(p) for t in targets for p in _parents(t)}):
    options += ["--perms", "0755", "--dir", folder]
  for source, target in shown.items():
    options += ["--ro-bind", source, target]
  for name, target in links.items():
    options += ["--symlink", target, f"{_HOME}/lib/{name}"]
  for folder in ("site-packages", "dist-packages"):
    if os.path.isdir(f"{library}/{folder}"):
      options += ["--tmpfs", f"{place}/{folder}"]
      options += ["--remount-ro", f"{place}/{folder}"]
  options += ["--dev-bind", "/dev/null", "/dev/null"]
  options += ["--perms", "1777", "--size", str(TMP_MB * 2**20)]
  # No /proc: it is not needed, and shows what others do.
  return [*options, "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]


def _parents(path):
  return pathlib.PurePosixPath(path).parents[:-1]  # all but the root


def _shared_libraries(python):
  """Returns {path: its other names}: libraries may be looked up by these."""
  show = (
    f"import {', '.join(_MODULES)}\n"
    "for line in open('/proc/self/maps'): print(line.split()[-1])"
  )
  done = subprocess.run(
    [python, "-I", "-S", "-c", show], capture_output=True, text=True, check=True
  )
  libraries = {}
  for path in sorted({x for x in done.stdout.split() if ".so" in x}):
    folder = os.path.dirname(path)
    # The standard library's own come with it; the loader has its own path.
    if "lib-dynload" in folder or os.path.basename(path).startswith("ld-"):
      continue
    libraries[path] = [
      entry.name
      for entry in os.scandir(folder)
      if entry.is_symlink() and os.path.realpath(entry.path) == path
    ]
  return libraries


def _loader(python):
  """Returns the dynamic loader's path, as the program's ELF header has it."""
  with open(python, "rb") as f:
    header = f.read(64)
    (table,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    f.seek(table)
    entries = f.read(size * count)
    for i in range(count):
      kind, _, offset, _, _, length = struct.unpack_from(
        "<IIQQQQ", entries, size * i
      )
      if kind == 3:  # PT_INTERP
        f.seek(offset)
        return f.read(length).rstrip(b"\0").decode()
  raise UserError(f"{python} is not linked dynamically; use another Python.")
