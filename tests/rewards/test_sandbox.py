"""The sandbox: what a program may do, and that nothing else gets out."""

import contextlib
import errno
import functools
import logging
import os
import pathlib
import platform
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest

from prefixrl_jax.rewards import isolation, sandbox, sandbox_pool, seccomp
from prefixrl_jax.rewards.inside import running
from prefixrl_jax.types import UserError

_REPOSITORY = pathlib.Path(__file__).parents[2]
_SETTINGS = dict(
  num_workers=2, timeout_seconds=1.0, total_seconds=60.0, memory_mb=256
)


@pytest.fixture(scope="module", params=["root", "user"])
def pool(request):
  """A pool as root of the machine, if that is us, and one as anybody."""
  is_root = isolation.is_root_of_the_machine()
  if request.param == "root" and not is_root:
    pytest.skip("not root")
  with pytest.MonkeyPatch.context() as patch:
    if request.param == "user":
      patch.setattr(isolation, "is_root_of_the_machine", lambda: False)
    try:
      pool = sandbox_pool.SandboxPool(sandbox="bubblewrap", **_SETTINGS)
    except UserError as e:
      pytest.skip(str(e))
  yield pool
  pool.close()


def _run(pool, code, stdin=""):
  (run,) = pool.run(textwrap.dedent(code), [stdin])
  return run


def _sandboxed():
  """Processes that were started to be, or to look after, a sandbox of ours.

  Those of other test processes, which run beside this one, do not count.
  """
  parents, found = {}, set()
  for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
    with contextlib.suppress(OSError):
      status = pathlib.Path(f"/proc/{pid}/stat").read_text()
      parents[pid] = int(status.rpartition(")")[2].split()[1])
      command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
      if os.fsencode(isolation.INSIDE.parent) in command:
        found.add(pid)

  def is_ours(pid):
    while pid in found:
      pid = parents.get(pid)
    orphaned = pid == 1
    while pid in parents and pid != os.getpid():
      pid = parents[pid]
    return orphaned or pid == os.getpid()

  return set(filter(is_ours, found))


@pytest.fixture(autouse=True)
def _nothing_is_left(request):
  """After every test: no process, no open file, no temporary file."""
  if "pool" in request.fixturenames:
    request.getfixturevalue("pool")
  own_tmp = f"subprocess_{os.getpid()}_"
  look = lambda: (
    _sandboxed(),
    len(os.listdir("/proc/self/fd")),
    [n for n in os.listdir(tempfile.gettempdir()) if own_tmp in n],
  )
  before = look()
  yield
  assert look() == before


def test_runs_a_program_on_each_input(pool):
  code = "import sys\nprint(sum(map(int, input().split())), sys.stdin.read())"
  runs = list(pool.run(code, ["1 2\nrest", "30 4\n", "5 6\né€"]))
  assert [r.status for r in runs] == ["ok"] * 3
  assert [r.stdout.split() for r in runs] == [
    ["3", "rest"],
    ["34"],
    ["11", "é€"],
  ]
  assert all(r.cpu_seconds > 0 and 0 < r.seconds < 30 for r in runs)


def test_runs_share_no_state_and_survive_each_other(pool):
  code = """
    import os, sys
    import string
    print(hasattr(string, "mark"))
    string.mark = 1
    if input() == "die": os.abort()
  """
  runs = list(pool.run(textwrap.dedent(code), ["", "die", "."]))
  assert [r.status for r in runs] == ["error", "crash", "ok"]
  assert "EOFError" in runs[0].stderr
  assert [r.stdout for r in runs] == ["False\n"] * 3


_LEAVE = """
import os, time
print(sorted(os.listdir()), os.stat(".").st_mtime_ns)
open("left", "w").write("work")
open(".hidden", "w").write(os.getcwd())
os.symlink("/", "link"); os.link("left", "again")
os.mkdir("closed", 0); os.makedirs("0/1/2")
os.open("0/1/7", os.O_CREAT, 0)
os.mkdir("0/1/none", 0)
for _ in range(50):
  os.mkdir("d" * 99); os.chdir("d" * 99)
os.mkdir("0"); open("1", "w")
print(time.time_ns())
time.sleep(0.05)  # the kernel's clock of files is coarse
if input(): os._exit(3)
"""


def test_runs_leave_nothing_to_each_other(pool):
  """Else work that takes longer than a test may is done in many of them."""
  runs = list(pool.run(_LEAVE, ["\n", "x\n", "\n"]))
  assert [r.status for r in runs] == ["ok", "error", "ok"], runs[0].stderr
  names, changed, ended = zip(*[run.stdout.split() for run in runs])
  assert names == ("[]",) * 3
  # Nor do they learn when the folder was written to: it was emptied since.
  assert int(changed[1]) > int(ended[0])


def test_an_unsafe_subprocess_leaves_nothing_either():
  with _small_pool(sandbox="unsafe_subprocess") as pool:
    runs = list(pool.run(_LEAVE, ["\n", "\n", "x\n"]))
    assert [r.status for r in runs] == ["ok", "ok", "error"]
    assert [r.stdout.split()[0] for r in runs] == ["[]"] * 3
    # What is there when the sandbox is closed goes too.
    until = time.monotonic() + 60
    with pool.take() as taken:
      load = taken.ask(pool.job("serve", code=_LEAVE), until)
      assert load["raised"] == "EOFError"


@pytest.mark.parametrize(
  ("code", "status"),
  [
    ("print(__name__)", "ok"),
    ("raise SystemExit(0)", "ok"),
    ("import sys; sys.exit(3)", "error"),
    ("import sys; sys.exit('no')", "error"),
    ("import sys; sys.stdout = None; sys.exit(True)", "error"),
    ("import atexit; atexit._clear(); 1 / 0", "error"),
    ("print(", "error"),
    ("1 / 0", "error"),
    ("import os; os._exit(0)", "ok"),
  ],
)
def test_status(pool, code, status):
  assert _run(pool, code).status == status


def test_a_program_ends_as_programs_do(pool):
  run = _run(
    pool,
    """
    import atexit, sys, threading, time
    atexit.register(print, "end")
    late = lambda: (time.sleep(0.1), print("thread"))
    threading.Thread(target=late).start()
    sys.stderr.write("said")
    sys.stdout.write("main ")
    """,
  )
  assert run.stdout.split() == ["main", "thread", "end"]
  assert (run.status, run.stderr) == ("ok", "said")


def test_what_competitors_write_works(pool):
  run = _run(
    pool,
    """
    import asyncio, bz2, collections, dataclasses, decimal, fractions, hashlib
    import heapq, itertools, lzma, math, random, re, statistics, string, sys
    import threading, typing, uuid, zlib
    from concurrent.futures import ThreadPoolExecutor
    sys.setrecursionlimit(10**6)
    threading.stack_size(2**26)
    depth = lambda n: 0 if n == 0 else 1 + depth(n - 1)
    thread = threading.Thread(target=lambda: print(depth(50_000)))
    thread.start(); thread.join()
    print(sum(ThreadPoolExecutor(2).map(int, "123")))
    print(hashlib.md5(b"").hexdigest())
    async def later(): print("later")
    asyncio.run(later())
    open("note", "w").write("kept")
    print(open("/tmp/note").read())
    """,
  )
  assert run.stdout.split() == [
    "50000",
    "6",
    "d41d8cd98f00b204e9800998ecf8427e",
    "later",
    "kept",
  ], run.stderr


def test_order_of_sets_is_that_of_every_run(pool):
  code = "print({str(i) for i in range(100)})"
  assert _run(pool, code).stdout == _run(pool, code).stdout


# Attacks: each asserts that nothing outside was read, written or reached.


def test_environment_is_not_seen(pool, monkeypatch):
  monkeypatch.setenv("API_KEY", "secret-1")
  run = _run(pool, "import os; print(os.environ); print(os.environb)")
  assert run.status == "ok"
  assert "secret-1" not in run.stdout
  assert str(pathlib.Path.home()) not in run.stdout


def test_nothing_but_python_can_be_read(pool):
  run = _run(
    pool,
    f"""
    import os
    for folder, _, files in os.walk("/"):
      if not folder.startswith("/python"):
        print(folder, *files)
    print(sorted(os.listdir("/python/lib")))
    for path in [
      "/etc/passwd", "/etc/shadow", "/root", "/home", "/proc/1/environ",
      "/proc/self/mem", "/sys", "/dev/mem", "/dev/shm", {__file__!r},
      {str(_REPOSITORY)!r}, {os.getcwd()!r}, {sys.prefix!r}, {os.devnull!r},
    ]:
      if os.path.exists(path): print("seen", path)
    """,
  )
  assert run.status == "ok"
  assert [x for x in run.stdout.splitlines() if "seen" in x] == [
    "seen /dev/null"
  ]
  assert "passwd" not in run.stdout
  own = [x.split() for x in run.stdout.splitlines() if x.startswith("/")]
  assert {f for f, *_ in own} <= {
    "/",
    "/dev",
    "/inside",
    "/inside/__pycache__",
    "/lib",
    "/lib64",
    "/tmp",
  }


def test_site_packages_are_not_seen(pool):
  run = _run(
    pool,
    """
    import os, sys
    walk = os.walk("/python")
    print([f for f, _, files in walk if "-packages" in f and files])
    print(any("-packages" in p for p in sys.path))
    """,
  )
  assert run.stdout == "[]\nFalse\n"


def test_nothing_can_be_written_outside_tmp(pool):
  run = _run(
    pool,
    """
    import os
    for folder, _, files in os.walk("/"):
      if folder == "/tmp": continue
      for path in [folder + "/evil", *(f"{folder}/{f}" for f in files[:1])]:
        if path == "/dev/null": continue
        for flags in (os.O_WRONLY | os.O_CREAT, os.O_RDWR | os.O_TRUNC):
          try: print("opened", os.open(path, flags), path)
          except OSError: pass
      for change in (os.chmod, lambda p, _: os.rmdir(p), os.mkfifo):
        try: print("changed", change(folder, 0o777), folder)
        except OSError: pass
    null = "/dev/null"  # is the machine's own, and maybe its user's
    for change in (
      lambda: os.chmod(null, 0o666), lambda: os.utime(null, (1, 1)),
      lambda: os.fchmod(os.open(null, os.O_RDWR), 0o666),
      lambda: os.chown(null, os.getuid(), os.getgid()),
      lambda: os.setxattr(null, "user.x", b""),
    ):
      try: print("changed", change(), null)
      except OSError: pass
    """,
  )
  assert (run.status, run.stdout) == ("ok", ""), run.stdout
  assert os.stat(os.devnull).st_mtime != 1
  assert not list(pathlib.Path(isolation.INSIDE).rglob("evil"))


def test_no_symlink_leads_out(pool, tmp_path):
  secret = tmp_path / "secret"
  secret.write_text("secret-2")
  run = _run(
    pool,
    f"""
    import os
    for n, target in enumerate([{str(secret)!r}, "../../../../etc/passwd"]):
      os.symlink(target, f"/tmp/{{n}}")
      for act in (lambda p: print(open(p).read()), lambda p: open(p, "w")):
        try: act(f"/tmp/{{n}}"); print("reached", target)
        except OSError: pass
      try: os.link(target, f"/tmp/hard{{n}}"); print("linked")
      except OSError: pass
    os.mkdir("/tmp/deep"); down = os.open("/tmp", os.O_RDONLY)
    try: os.chroot("/tmp/deep"); print("chroot")
    except OSError: pass
    os.fchdir(down)
    for _ in range(20): os.chdir("..")
    print(sorted(os.listdir(".")))
    """,
  )
  assert run.status == "ok", run.stderr
  assert secret.read_text() == "secret-2"
  for word in ("secret-2", "reached", "linked", "chroot", "etc"):
    assert word not in run.stdout
  assert "inside" in run.stdout


def test_no_socket_is_reached(pool, tmp_path):
  with (
    socket.create_server(("127.0.0.1", 0)) as loopback,
    socket.socket(socket.AF_UNIX) as unix,
    socket.socket(socket.AF_UNIX) as abstract,
  ):
    unix.bind(str(tmp_path / "socket"))
    abstract.bind(b"\0prefixrl" + os.urandom(8))
    for server in (unix, abstract, loopback):
      server.listen()
      server.setblocking(False)
    run = _run(
      pool,
      f"""
      import socket
      for family, address in [
        (socket.AF_INET, {loopback.getsockname()!r}),
        (socket.AF_UNIX, {unix.getsockname()!r}),
        (socket.AF_UNIX, {abstract.getsockname()!r}),
      ]:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
          try:
            s = socket.socket(family, kind)
            s.settimeout(1)
            s.connect(address)
          except OSError as e: print(type(e).__name__)
      try: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); print("pair")
      except OSError: pass
      """,
    )
    assert run.stdout.split() == ["PermissionError"] * 6
    for server in (unix, abstract, loopback):
      with pytest.raises(BlockingIOError):
        server.accept()


def test_no_file_descriptor_is_left_open(pool):
  """Standard streams, and for functions the two ways to the host."""
  code = """
    import os, stat
    def look():
      seen = []
      for fd in range(1024):
        try: seen.append(stat.S_IFMT(os.fstat(fd).st_mode))
        except OSError: pass
      return seen
    print(*look())
  """
  file, pipe, device = stat.S_IFREG, stat.S_IFIFO, stat.S_IFCHR
  run = _run(pool, code)
  assert run.stdout.split() == [str(kind) for kind in (file, pipe, pipe)]
  until = time.monotonic() + 60
  with pool.take() as taken:
    taken.ask(pool.job("serve", code=textwrap.dedent(code)), until)
    found = taken.ask({"do": "find", "with": ["look"]}, until)["value"]
    reply = taken.ask({"do": "call", "with": [found, [], {"dict": []}]}, until)
  assert reply["value"] == [device] * 3 + [pipe] * 2


def test_fork_bomb(pool):
  run = _run(
    pool,
    """
    import os, subprocess, multiprocessing
    made = 0
    for start in (
      os.fork, os.forkpty, lambda: 1 / (os.system("true") == 0),
      lambda: subprocess.run(["/python/bin/python3", "-c", ""]),
      lambda: os.posix_spawn("/python/bin/python3", ["p"], {}),
      lambda: multiprocessing.Process(target=print).start(),
      lambda: os.execv("/python/bin/python3", ["p", "-c", "print('new')"]),
    ):
      try: made += start() is not None
      except (OSError, ZeroDivisionError): pass
    print(made)
    while True: os.fork()
    """,
  )
  assert (run.status, run.stdout) == ("error", "0\n")
  assert "PermissionError" in run.stderr


def test_thread_bomb(pool):
  run = _run(
    pool,
    """
    import threading, time
    threading.stack_size(32768)
    started = 0
    try:
      for _ in range(100_000):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        started += 1
    finally: print(started, flush=True)
    """,
  )
  if pool._how._as_root:
    assert run.status == "error"
    assert 16 < int(run.stdout) < 64
  else:  # exempt in a user namespace of the machine's root
    assert run.status in ("error", "time limit")


@pytest.mark.parametrize(
  "code",
  [
    "b = bytearray(64 * 2**30)",
    "x = []\nwhile True: x.append(bytes(2**20))",
    "import mmap; m = mmap.mmap(-1, 64 * 2**30)",
    "x = [0] * 10**10",
  ],
)
def test_64_gigabytes(pool, code):
  run = _run(pool, code)
  assert run.status in ("memory limit", "error")
  assert "MemoryError" in run.stderr or "Cannot allocate" in run.stderr


def test_no_memory_beside_the_address_space(pool):
  run = _run(
    pool,
    """
    import os, ctypes
    for more in (
      lambda: os.memfd_create("x"), lambda: os.ftruncate(0, 2**20),
      lambda: os.write(0, bytes(2**20)),
    ):
      try: more(); print("more")
      except OSError: pass
    libc = ctypes.CDLL(None)
    print(libc.shmget(0, 2**30, 0o1600))
    """,
  )
  assert run.stdout == "-1\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_10_gigabytes_of_output(pool, stream):
  run = _run(
    pool, f"import sys\nfor _ in range(10**4): sys.{stream}.write('x' * 10**6)"
  )
  assert run.status in ("output limit", "time limit")
  assert len(run.stdout) <= sandbox.OUTPUT_BYTES
  assert len(run.stderr) <= 2000


@pytest.mark.parametrize(
  "code",
  [
    "while True: pass",
    """
    import signal
    for s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
      signal.signal(s, signal.SIG_IGN)
    while True:
      try:
        while True: pass
      except BaseException: pass
    """,
    "9 ** 9 ** 9",
    "import sys; sys.set_int_max_str_digits(0); int('9' * 10**7)",
    """
    import signal, time
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    while time.process_time() < 2.2: pass
    """,
  ],
  ids=["loop", "ignores signals", "power", "conversion", "ends itself"],
)
def test_endless(pool, code):
  started = time.monotonic()
  run = _run(pool, code)
  assert run.status == "time limit"
  assert run.cpu_seconds < 4
  assert time.monotonic() - started < 60


def test_sleeping_is_ended_by_the_wall_clock():
  with _small_pool(timeout_seconds=0.2) as pool:
    run = _run(pool, "import time; time.sleep(1000)")
  assert run.status == "time limit"
  assert 0.9 < run.seconds < 60


def test_total_limit():
  with (
    _small_pool(timeout_seconds=10.0, total_seconds=1.0) as pool,
    pytest.raises(sandbox.OutOfTime),
  ):
    list(pool.run("import time; time.sleep(0.4)", [""] * 9))


@pytest.mark.parametrize(
  "code",
  [
    "import sys; sys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "x = []\nfor _ in range(10**6): x = [x]\nprint(x)",
    "eval('(' * 10**5)",
    "import sys; sys.setrecursionlimit(10**9)\n"
    "class A:\n  def __repr__(self): return repr(self)\nrepr(A())",
  ],
)
def test_deep_recursion(pool, code):
  assert _run(pool, code).status in (
    "crash",
    "error",
    "memory limit",
    "time limit",
  )


def test_other_processes_are_out_of_reach(pool):
  victim = subprocess.Popen(["sleep", "60"])
  try:
    run = _run(
      pool,
      f"""
      import os, ctypes, signal, resource, fcntl
      libc = ctypes.CDLL(None, use_errno=True)
      for pid in (1, 2, os.getppid(), {victim.pid}, {os.getpid()}, -1, 0):
        for act in (
          lambda: os.kill(pid, signal.SIGKILL),
          lambda: os.killpg(pid, signal.SIGKILL),
          lambda: os.pidfd_open(pid),
          lambda: resource.prlimit(pid or 1, resource.RLIMIT_CPU, (0, 0)),
          lambda: fcntl.fcntl(1, fcntl.F_SETOWN, pid),
          lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
          lambda: os.sched_setaffinity(pid, [0]),
          lambda: os.sched_setscheduler(
            pid, os.SCHED_IDLE, os.sched_param(0)
          ),
        ):
          try: act(); print("reached", pid)
          except OSError: pass
        if libc.ptrace(16, pid, 0, 0) != -1: print("traced", pid)
        if libc.process_vm_readv(pid, 0, 0, 0, 0, 0) != -1: print("read", pid)
      for act in (os.setsid, lambda: os.setpgid(0, 0)):
        try: act(); print("left")
        except OSError: pass
      print("done")
      """,
    )
    assert victim.poll() is None
  finally:
    victim.kill()
    victim.wait()
  assert (run.status, run.stdout) == ("ok", "done\n")


def test_a_daemon_does_not_outlive_its_run(pool):
  before = _sandboxed()
  run = _run(
    pool,
    """
    import os, threading
    try:
      if os.fork() == 0: os.setsid()
    except OSError: pass
    def forever():
      while True: pass
    threading.Thread(target=forever, daemon=True).start()
    os.close(0); os.close(1); os.close(2)
    threading.Thread(target=forever).start()
    """,
  )
  assert run.status == "time limit"
  _until(lambda: _sandboxed() == before)


def test_disk_is_small(pool):
  run = _run(
    pool,
    """
    import os
    written = 0
    try:
      for n in range(1000):
        with open(f"/tmp/{n}", "wb", buffering=0) as f:
          for _ in range(32): written += f.write(bytes(2**20))
    except OSError as e: print(written // 2**20, e.errno)
    """,
  )
  # A memory limit this small leaves no room for more either.
  assert run.stdout.split() == [str(isolation.TMP_MB), str(errno.ENOSPC)]
  run = _run(
    pool, "while True: open(f'/tmp/{len(__import__(\"os\").listdir())}', 'w')"
  )
  assert run.status in ("file limit", "time limit")
  assert _run(pool, "import os; print(os.listdir('/tmp'))").stdout == "[]\n"


@pytest.mark.skipif(
  platform.machine() != "x86_64", reason="numbers of system calls are x86_64's"
)
def test_kernel_is_asked_for_nothing_unusual(pool):
  may = {number for number, _ in seccomp._SOLUTIONS_MAY.values()}
  looked_at = {
    getattr(seccomp, f"_{name}")[0]
    for name in ("CLONE", "IOCTL", "FCNTL", "SOCKETPAIR", "PRLIMIT", "PRCTL")
  } | {seccomp._CLOSE_RANGE[0]}
  # Newer kernels end a process that makes these, whatever a filter says.
  probes = {335, 336}
  calls = sorted(set(range(500)) - may - looked_at - probes)
  run = _run(
    pool,
    f"""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def ask(*call):
      ctypes.set_errno(0)
      result = libc.syscall(*call)
      if result != -1 or ctypes.get_errno() not in (1, 38): print("did", call)
    for number in {calls!r}:
      ask(number, 0x10000000, 0, 0, 0, 0, 0)
    new_user, fork, own_files = 0x10000000, 17, 0x3d0f00 & ~0x400
    for flags in (new_user | fork, fork, own_files):
      ask(56, flags, 0, 0, 0, 0)
    ask(436, 3, 3, 2)  # close_range, CLOSE_RANGE_UNSHARE
    terminal_input, set_flags = 0x5412, 0x40086602
    for request in (terminal_input, set_flags):
      ask(16, 0, request, 0)
    lock, wait, own, signal, own_locks, lease, notify, larger_pipe = (
      6, 7, 8, 10, 37, 1024, 1026, 1031
    )
    for command in (
      lock, wait, own, signal, own_locks, lease, notify, larger_pipe
    ):
      ask(72, 1, command, 0)
    for family in (2, 10, 16, 38):
      ask(53, family, 1, 0, 0)
    ask(157, 22, 2, 0)  # prctl, PR_SET_SECCOMP
    """,
  )
  assert (run.status, run.stdout) == ("ok", "")
  x32 = "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39); print(1)"
  assert _run(pool, x32).status == "crash"


def test_no_kernel_memory_beside_the_limits(pool):
  """What holds memory in the kernel is refused, or a file descriptor."""
  run = _run(
    pool,
    """
    import array, ctypes, fcntl, os, select, socket
    def attempt(name, act):
      try: act(); print("did", name)
      except OSError: pass
    a, b = socket.socketpair()
    one = array.array("i", [1])
    attempt("sent", lambda: a.sendmsg(
      [b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, one)]))
    attempt("received", lambda: b.recvmsg(1, 99))
    attempt("larger", lambda: a.setsockopt(
      socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20))
    python = open("/python/bin/python3", "rb")  # other sandboxes' as well
    attempt("flock", lambda: fcntl.flock(python, fcntl.LOCK_SH))
    attempt("lock", lambda: fcntl.lockf(python, fcntl.LOCK_SH))
    mine = open("mine", "w")
    attempt("range", lambda: fcntl.lockf(mine, fcntl.LOCK_EX, 1, 5))
    out, into = os.pipe()
    attempt("pipe", lambda: fcntl.fcntl(into, 1031, 2**20))
    attempt("queue", lambda: os.write(into, bytes(2**16)))  # all of a pipe
    a.send(b"asyncio does so"); b.recv(99)
    python.close(); mine.close()
    made = []
    try:
      while True: made.append(select.epoll())
    except OSError as e: print(e.errno, len(made))
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
    capabilities = (ctypes.c_uint32 * 6)(*[7] * 6)
    print(libc.capget(header, capabilities), *capabilities)
    """,
  )
  assert run.stdout.splitlines() == [
    "did queue",
    f"{errno.EMFILE} 57",
    "0 0 0 0 0 0 0",
  ], run.stderr


def test_no_page_tables_beside_the_limits(pool):
  """A page in each gigabyte would take two more of the kernel's memory."""
  run = _run(
    pool,
    """
    import ctypes, mmap
    libc = ctypes.CDLL(None)
    at, size = ctypes.c_void_p, ctypes.c_size_t
    def call(name, *arguments):
      function = getattr(libc, name)
      function.restype = ctypes.c_void_p
      return function(*arguments) != 2**64 - 1
    anonymous, exactly = 0x22, 0x100022
    spread = [
      call("mmap", at(2**44 + i * 2**30), size(4096), 3, exactly, -1, 0)
      for i in range(100)
    ]
    libc.mmap.restype = ctypes.c_void_p
    here = libc.mmap(None, size(4096), 3, anonymous, -1, 0)
    moved = call("mremap", at(here), size(4096), size(4096), 3, at(2**44))
    print(sum(spread), moved)
    print(len(mmap.mmap(-1, 2**27)), len(bytearray(2**26) * 2))
    """,
  )
  assert run.stdout.split() == ["0", "False", f"{2**27}", f"{2**27}"], (
    run.stderr
  )


def test_nobody_with_no_rights(pool):
  run = _run(
    pool,
    """
    import os
    print(os.getuid() >= 65534, os.geteuid() == os.getuid(), os.getgroups())
    for n in (os.setuid, os.setgid, lambda i: os.setgroups([i])):
      try: n(0); print("became root")
      except OSError: pass
    """,
  )
  assert "became" not in run.stdout
  assert run.stdout.startswith("True True")


def test_dies_with_its_host(pool):
  before = _sandboxed()
  code = f"""
from prefixrl_jax.rewards import isolation, sandbox_pool
isolation.is_root_of_the_machine = lambda: {pool._how._as_root}
pool = sandbox_pool.SandboxPool(sandbox="bubblewrap", num_workers=1,
  timeout_seconds=50., total_seconds=50., memory_mb=256)
print("started", flush=True)
next(pool.run("while True: pass", [""]))
"""
  host = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=_REPOSITORY
  )
  try:
    assert host.stdout.readline() == b"started\n"
    _until(lambda: _sandboxed() != before)
    with pytest.raises(subprocess.TimeoutExpired):
      host.wait(1)  # the program goes on
  finally:
    host.send_signal(signal.SIGKILL)
    host.communicate()
  _until(lambda: _sandboxed() == before)


def _until(condition):
  for _ in range(1200):
    if condition():
      return
    time.sleep(0.05)
  raise AssertionError("it did not come about in a minute")


@contextlib.contextmanager
def _small_pool(**settings):
  try:
    pool = sandbox_pool.SandboxPool(
      **{"sandbox": "bubblewrap"} | _SETTINGS | settings
    )
  except UserError as e:
    pytest.skip(str(e))
  with contextlib.closing(pool):
    yield pool


def test_pool_starts_the_next_ones_and_leaves_none():
  before = _sandboxed()
  with _small_pool() as pool:
    run = lambda n: next(pool.run(f"print({n})", [""])).stdout
    assert pool.map(run, range(6)) == [f"{n}\n" for n in range(6)]
    assert 0 < len(pool._spare) <= _SETTINGS["num_workers"]
    # One that died in waiting is not given out.
    pool._spare[0].stderr()
    assert pool.map(run, [7, 8]) == ["7\n", "8\n"]
  _until(lambda: _sandboxed() == before)


def test_a_failed_start_costs_no_verdict(monkeypatch):
  """Neither of the host's own process, nor of what bwrap does behind it."""
  monkeypatch.setattr(sandbox_pool, "_PAUSE_SECONDS", 0.01)
  with _small_pool() as pool:
    popen, tries = subprocess.Popen, []

    def failing(command, **options):
      tries.append(command)
      if len(tries) % 3 == 1:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
      if len(tries) % 3 == 2:
        command = ["sh", "-c", "echo No space left on device >&2; exit 1"]
      return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", failing)
    run = lambda n: next(pool.run(f"print({n})", [""])).stdout
    assert pool.map(run, range(4)) == [f"{n}\n" for n in range(4)]
    assert len(tries) >= 10
    # For ever: then it is an error, and not wrong answers.
    monkeypatch.setattr(sandbox_pool, "_START_SECONDS", 0.2)
    monkeypatch.setattr(
      subprocess, "Popen", lambda *_, **options: popen("false", **options)
    )
    while pool._spare:
      pool._spare.pop().close()
    with pytest.raises(UserError, match="a sandbox no longer starts"):
      pool.map(run, [0])


def test_a_thread_that_does_not_start_costs_no_verdict(monkeypatch):
  monkeypatch.setattr(sandbox_pool, "_PAUSE_SECONDS", 0.01)
  with _small_pool() as pool:
    start, tries = threading.Thread.start, []

    def failing(thread):
      tries.append(thread)
      if len(tries) in (1, 3):
        raise RuntimeError("can't start new thread")
      start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
    assert tries


def test_a_supervisor_waits_for_room_for_a_process(monkeypatch):
  tries = []

  def failing():
    tries.append(None)
    if len(tries) < 3:
      raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return 4321  # a real one would copy the locks of JAX's threads

  monkeypatch.setattr(os, "fork", failing)
  monkeypatch.setattr(time, "sleep", lambda seconds: None)
  assert running._fork() == 4321
  assert len(tries) == 3


def test_a_sandbox_serves_one_job():
  with _small_pool() as pool, pool.take() as taken:
    assert taken.is_alive()
    taken.ask(pool.job("hello"), time.monotonic() + 60)
    with pytest.raises(sandbox.OutOfTime):
      taken.ask(pool.job("hello"), time.monotonic() + 0.3)


@pytest.mark.parametrize(
  ("reply", "match"),
  [
    (struct.pack(">I", 2**31), "a message of"),
    (struct.pack(">I", 2) + b"[]", "not an object"),
    (struct.pack(">I", 2) + b"{]", "not JSON"),
    (struct.pack(">I", 10**6) + b"[" * 10**6, "not JSON"),
    (b"", "^$"),
  ],
)
def test_replies_that_make_no_sense(reply, match, tmp_path, monkeypatch):
  (tmp_path / "reply").write_bytes(reply)
  how = isolation.Subprocess()
  how.command = ["cat", str(tmp_path / "reply")]
  with sandbox.Sandbox(how) as process:
    receive = functools.partial(process.receive, time.monotonic() + 60)
    with pytest.raises(sandbox.Died, match=match):
      sandbox.unpack(receive(max_bytes=2**24))


def test_without_bubblewrap(monkeypatch, tmp_path):
  start = functools.partial(
    sandbox_pool.SandboxPool, sandbox="bubblewrap", **_SETTINGS
  )
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(UserError, match="apt-get install bubblewrap"):
    start()
  fake = tmp_path / "bwrap"
  fake.write_text(
    "#!/bin/sh\necho No permissions to create namespace >&2; exit 1"
  )
  fake.chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
  with pytest.raises(UserError, match=r"No permissions(.|\n)*userns"):
    start()
  monkeypatch.setattr(platform, "machine", lambda: "vax")
  with pytest.raises(UserError, match="not of vax"):
    start()
  with pytest.raises(UserError, match="none of bubblewrap, unsafe_subprocess"):
    sandbox_pool.SandboxPool(sandbox="docker", **_SETTINGS)


def test_unsafe_subprocess_says_so_and_has_its_limits(caplog):
  with caplog.at_level(logging.WARNING):
    pool = sandbox_pool.SandboxPool(sandbox="unsafe_subprocess", **_SETTINGS)
  assert "can read every file" in caplog.text
  with contextlib.closing(pool):
    run = _run(
      pool,
      """
      import os, socket
      print(sorted(os.environ), os.path.basename(os.getcwd())[:6])
      kill = lambda: os.kill(os.getppid(), 9)
      for act in (os.fork, os.setsid, socket.socket, kill):
        try: act(); print("did")
        except OSError: pass
      open("left", "w").write("x")
      bytearray(2**34)
      """,
    )
    assert run.status == "memory limit", run.stderr
    assert "did" not in run.stdout
    assert "unsafe" in run.stdout
    loop = "while True:\n  try:\n    while True: pass\n  except: pass"
    assert _run(pool, loop).status == "time limit"


@pytest.mark.parametrize(
  ("script", "seconds", "status"),
  [
    ("echo $((1 + 1)); echo 3 >&2", 60, "ok"),
    ("exit 3", 60, "error"),
    ("echo MemoryError: 1 >&2; exit 1", 60, "memory limit"),
    ("kill -SEGV $$", 60, "crash"),
    ("kill -XCPU $$", 60, "time limit"),
    ("exec sleep 60", 0.2, "time limit"),
    ("exec yes", 60, "output limit"),
  ],
)
def test_a_supervisor_says_how_it_ended(script, seconds, status):
  job = dict(output_bytes=10**5, private_tmp=False, timeout_seconds=9.0)
  pipe = subprocess.PIPE
  with subprocess.Popen(
    ["sh", "-c", script], stdout=pipe, stderr=pipe
  ) as child:
    streams = [child.stdout.fileno(), child.stderr.fileno()]
    pipes = {fd: bytearray() for fd in streams}
    until = time.monotonic() + seconds
    result = running._supervise(child.pid, job, until=until, pipes=pipes)
  assert result["status"] == status
  assert 0 < result["seconds"] < 50
  if status == "ok":
    assert [bytes(text) for text in pipes.values()] == [b"2\n", b"3\n"]


# As the kernel's headers have them.
_NUMBERS = {
  "execve": (59, 221),
  "kill": (62, 129),
  "sendmsg": (46, 211),
  "flock": (73, 32),
  "memfd_create": (319, 279),
}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filters_say_what_their_tables_say(machine):
  column, architecture = seccomp._MACHINES[machine]
  first, second = (
    functools.partial(
      _interpret,
      seccomp.filter_program(for_solutions=s, machine=machine),
      architecture,
    )
    for s in (False, True)
  )
  allow, kill, refuse, unknown = 0x7FFF0000, 0x80000000, 0x50001, 0x50026
  for numbers in seccomp._NEVER.values():
    if numbers[column] is not None:
      assert first(numbers[column]) == second(numbers[column]) == refuse
  for numbers in seccomp._SOLUTIONS_MAY.values():
    if numbers[column] is not None:
      assert first(numbers[column]) == second(numbers[column]) == allow
  for name in ("execve", "kill", "sendmsg", "flock", "memfd_create"):
    number = _NUMBERS[name][column]
    assert second(number) == refuse
  for program in (first, second):
    assert program(seccomp._CLONE3[column]) == unknown
    assert program(9999) == unknown
    assert _interpret(program.args[0], 0x40000003, 0) == kill  # i386
  if machine == "x86_64":
    assert first(0x40000000) == kill
  clone = seccomp._CLONE[column]
  thread, fork, new_user = 0x3D0F00, 17, 0x10000011
  assert second(clone, thread & ~0x400) == refuse  # files of its own
  assert [first(clone, a) for a in (thread, fork, new_user)] == [
    allow,
    allow,
    refuse,
  ]
  assert [second(clone, a) for a in (thread, fork)] == [allow, refuse]
  pair = seccomp._SOCKETPAIR[column]
  assert [first(pair, 1, kind) for kind in (1, 1 | 0o2000000, 2)] == [
    allow,
    allow,
    refuse,
  ]
  assert [p(pair, 2, 1) for p in (first, second)] == [refuse] * 2  # AF_INET
  limits = seccomp._PRLIMIT[column]
  assert [second(limits, pid) for pid in (0, 7)] == [allow, refuse]
  assert second(seccomp._FCNTL[column], 1, 8) == refuse
  assert second(seccomp._FCNTL[column], 1, 6) == refuse
  assert second(seccomp._FCNTL[column], 1, 4) == allow
  assert first(seccomp._IOCTL[column], 0, 0x5412) == refuse
  assert first(seccomp._IOCTL[column], 0, 0x5401) == allow


def _interpret(program, architecture, number, *arguments):
  """What the kernel would make of a system call."""
  data = struct.pack(
    "<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments))
  )
  steps = list(struct.iter_unpack("=HBBI", program))
  at, value = 0, 0
  while True:
    code, if_true, if_false, k = steps[at]
    at += 1
    if code == 0x20:
      (value,) = struct.unpack_from("<I", data, k)
    elif code == 0x54:
      value &= k
    elif code == 0x06:
      return k
    else:
      holds = {0x15: value == k, 0x25: value > k, 0x35: value >= k}[code]
      at += if_true if holds else if_false


def test_no_filter_for_unknown_machines():
  assert seccomp.filter_program(for_solutions=True, machine="vax") is None
