"""The process in the sandbox: limits, and one job under them.

The supervisor and what it supervises have the same user. The second filter of
system calls keeps them apart: a solution cannot signal, trace or start a
process.
"""

import atexit
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import struct
import sys
import time

from .folders import empty
from .module import make_module
from .plain import decode, receive, send

_STDERR_TAIL = 2000
_MAX_FILES = 1000  # in /tmp; each takes kernel memory that no rlimit counts

_SEALS = 0xF  # against sealing, shrinking, growing, writing

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def _drop_capabilities():
  """Gives up all capabilities, those included that a program would inherit."""
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3; this process
  none = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
  if _libc.capset(header, none):
    raise OSError(ctypes.get_errno(), "capset")


def _lower_limits(job):
  """Applies a job's limits to this process."""
  megabytes = 2**20
  for name, value in (
    ("RLIMIT_AS", job["memory_mb"] * megabytes),
    ("RLIMIT_FSIZE", job["file_mb"] * megabytes),
    ("RLIMIT_STACK", 64 * megabytes),
    ("RLIMIT_NOFILE", 64),
    ("RLIMIT_NPROC", job["max_processes"]),
    ("RLIMIT_CORE", 0),
    ("RLIMIT_MEMLOCK", 0),
    ("RLIMIT_MSGQUEUE", 0),
    ("RLIMIT_SIGPENDING", 64),
  ):
    if value is None:
      continue
    number = getattr(resource, name)
    hard = resource.getrlimit(number)[1]
    if hard != resource.RLIM_INFINITY:
      value = min(value, hard)
    resource.setrlimit(number, (value, value))


def _limit_cpu(seconds, hard):
  """Allows this process this many more CPU seconds; `hard` in its lifetime."""
  used = resource.getrusage(resource.RUSAGE_SELF)
  soft = int(used.ru_utime + used.ru_stime + seconds + 0.999)
  resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hard), hard))


def _stay_near(mmap, mremap, memory_mb):
  """Returns a BPF program: maps memory only near existing maps or below 4 GB.

  A page far from all others takes two or three pages of tables, in the kernel's
  memory: 256 MB of address space held more than another 256.

  Args:
    mmap, mremap: numbers of the calls.
    memory_mb: the process's limit of address space, in megabytes.
  """
  span = memory_mb // 4096 + 2  # in 4 GB; the kernel continues downwards
  here = (ctypes.cast(_libc.mmap, ctypes.c_void_p).value or 0) >> 32
  load, both, less, equal, above, give = 0x20, 0x54, 0x14, 0x15, 0x25, 0x06
  steps = (
    (load, 0, 0, 0),  # the call
    (equal, 0, 3, mremap),
    (load, 0, 0, 40),  # its flags
    (both, 0, 0, 2),  # MREMAP_FIXED
    (equal, 5, 6, 0),
    (equal, 0, 4, mmap),
    (load, 0, 0, 20),  # the upper half of the address
    (equal, 2, 0, 0),
    (less, 0, 0, here - span),
    (above, 1, 0, span + 1),
    (give, 0, 0, 0x7FFF0000),  # allowed
    (give, 0, 0, 0x00050000 | errno.ENOMEM),
  )
  return b"".join(struct.pack("=HBBI", *step) for step in steps).hex()


def _lock(program):
  """Applies a BPF program to this process, which will die with its parent."""

  class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

  _prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
  _prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
  steps = bytes.fromhex(program)
  description = Program(len(steps) // 8, steps)
  if _prctl(
    22, 2, ctypes.addressof(description), 0, 0
  ):  # PR_SET_SECCOMP, filter
    raise OSError(ctypes.get_errno(), "seccomp")


def _become_solution(job, cpu_seconds):
  _lower_limits(job)
  _limit_cpu(job["timeout_seconds"], cpu_seconds)
  programs = list(job["filters"])
  if job["mapping_calls"]:  # before the one that allows no more of them
    mmap, mremap = job["mapping_calls"]
    programs.insert(0, _stay_near(mmap, mremap, job["memory_mb"]))
  for program in programs:
    _lock(program)


def _supervise(pid, job, *, until, pipes):
  """Waits for a child and reads its output; kills it if it exceeds a limit.

  Args:
    pid: the child's.
    job: the job, for its limits.
    until: the latest time.monotonic() of its end, or None.
    pipes: {file descriptor: bytearray}; the second one keeps its tail only.

  Returns:
    Status, seconds and CPU seconds, as a dict.
  """
  started = time.monotonic()
  watched = select.poll()
  process = os.pidfd_open(pid)
  for fd in (process, *pipes):
    watched.register(fd, select.POLLIN)
  watched.register(0, 0)  # tells when the host is gone
  status, ended, limit = None, False, job["output_bytes"]
  stdout = next(iter(pipes), None)
  while not ended:
    # In short waits: the number of files must be checked.
    for fd, _ in watched.poll(50):
      if fd == process:
        ended = True
      elif fd == 0:
        status = "abandoned"
      else:
        part = os.read(fd, 1 << 16)
        if not part:
          watched.unregister(fd)
        pipes[fd] += part
        if fd != stdout:
          del pipes[fd][:-_STDERR_TAIL]
    if ended:
      break
    if stdout is not None and len(pipes[stdout]) > limit:
      status = "output limit"
    elif until is not None and time.monotonic() > until:
      status = "time limit"
    elif job["private_tmp"]:
      files = os.statvfs("/tmp")
      if files.f_files - files.f_ffree > _MAX_FILES:
        status = "file limit"
    if status:
      os.kill(pid, signal.SIGKILL)
      break
  _, code, used = os.wait4(pid, 0)
  os.close(process)
  for fd in pipes:  # the last output; nobody writes any more
    os.set_blocking(fd, False)
    try:
      while len(pipes[fd]) <= limit and (part := os.read(fd, 1 << 16)):
        pipes[fd] += part
    except BlockingIOError:
      pass
  if status is None and stdout is not None and len(pipes[stdout]) > limit:
    status = "output limit"
  cpu = used.ru_utime + used.ru_stime
  return {
    "status": status or _name(code, cpu, job, b"".join(pipes.values())),
    "seconds": time.monotonic() - started,
    "cpu_seconds": cpu,
  }


def _name(code, cpu, job, printed):
  """Returns in a word how a process ended."""
  if os.WIFSIGNALED(code):
    number = os.WTERMSIG(code)
    at_limit = cpu > job["timeout_seconds"] and number == signal.SIGKILL
    if number == signal.SIGXCPU or at_limit:
      return "time limit"
    return "crash"
  if cpu > int(job["timeout_seconds"] + 1):  # it ignored the signal
    return "time limit"
  if os.WEXITSTATUS(code) == 0:
    return "ok"
  last = printed.rstrip().rpartition(b"\n")[2]
  return "memory limit" if last.startswith(b"MemoryError") else "error"


def _programs(job):
  """Runs the code, or calls its function, once per input.

  Returns in each child, with its code.

  No run finds anything from the one before: memory goes with the process, and
    the only writable folder is emptied.
  """
  folder = os.open(".", os.O_RDONLY)
  while True:
    data = receive(0)["input"].encode(errors="replace")
    stdin = os.memfd_create("stdin", os.MFD_ALLOW_SEALING)
    with open(stdin, "wb", closefd=False) as f:
      f.write(data)
    # What is written there would use memory that no limit counts.
    fcntl.fcntl(stdin, fcntl.F_ADD_SEALS, _SEALS)
    os.lseek(stdin, 0, os.SEEK_SET)
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    pid = _fork()
    if pid == 0:
      for fd, place in ((stdin, 0), (out_end, 1), (err_end, 2)):
        os.dup2(fd, place)
      os.closerange(3, 256)
      _become_solution(job, int(job["timeout_seconds"]) + 2)
      return job["code"]
    for fd in (stdin, out_end, err_end):
      os.close(fd)
    pipes = {out: bytearray(), err: bytearray()}
    until = time.monotonic() + job["patience_seconds"]
    result = _supervise(pid, job, until=until, pipes=pipes)
    stdout, stderr = (
      bytes(text).decode(errors="replace") for text in pipes.values()
    )
    for fd in pipes:
      os.close(fd)
    empty(folder)
    stdout = stdout[: job["output_bytes"]]
    send(1, {**result, "stdout": stdout, "stderr": stderr[-_STDERR_TAIL:]})


def _fork():
  """Forks; if the machine has no room for a process, waits and retries."""
  for pause in (0.05, 0.2, 1.0, 3.0):
    try:
      return os.fork()
    except BlockingIOError:
      time.sleep(pause)
  return os.fork()


def _serve(job):
  """Loads the code in a child, which carries out incoming requests."""
  from .serving import serve  # not needed by programs

  if host := _apart(job):
    serve(job["code"], *host)


def _check(job):
  """Runs the incoming tests; what they print is discarded."""
  from .checking import run_test

  if host := _apart(job):
    receive_next, reply = host
    names = ("setup", "prompt_code", "entry_point")
    given = {name: job[name] for name in names}
    while True:
      status, text = run_test(
        receive_next()["source"], **given, receive=receive_next, send=reply
      )
      reply({"status": status, "text": text[-500:]})


def _apart(job):
  """Lets a child continue under the limits; the parent reports how it ended.

  Returns: In the child, functions that receive messages from the host and send
    them, each message with its own CPU time; None in the parent.
  """
  channel_in, channel_out = os.dup(0), os.dup(1)
  pid = _fork()
  if pid:
    send(1, {"ended": _supervise(pid, job, until=None, pipes={})["status"]})
    return None
  _silence(channel_out)
  in_all_its_life = int(job["total_seconds"]) + 2
  _become_solution(job, in_all_its_life)

  def next_message():
    message = receive(channel_in)
    _limit_cpu(job["timeout_seconds"], in_all_its_life)
    return message

  return next_message, lambda m: send(channel_out, m)


def _silence(last):
  """Closes file descriptors above `last`; 0 to 2 lead to /dev/null."""
  os.closerange(last + 1, 256)
  null = os.open(os.devnull, os.O_RDWR)
  for fd in (0, 1, 2):
    os.dup2(null, fd)
  os.close(null)


def _hello(job):
  """Reports that the sandbox works; the job does nothing else."""
  _become_solution(job, int(job["total_seconds"]) + 2)
  send(1, {})


def main() -> None:
  """Becomes nobody, reports ready, takes a job and does it.

  sys.argv[1]: which user to become.
  """
  user = int(sys.argv[1])
  if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
  _drop_capabilities()
  _prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, which those clear
  os.umask(0o077)
  kinds = {"hello": _hello, "check": _check}
  kinds |= {"programs": _programs, "serve": _serve}
  send(1, {"ready": True})
  job = receive(0)
  code = kinds[job["kind"]](job)
  if code is None:
    # The host kills everything; bwrap alone would not wait for what is left.
    while os.read(0, 1 << 16):
      pass
    return
  # In a child of `_programs`.
  if job["entry_point"] is not None:
    _run_function(code, job["entry_point"])
  else:
    _run_program(code)


def _run_program(code):
  """Runs code as a program; the process ends as it does for any program.

  That is, threads are waited for and `atexit` handlers run. But the interpreter
  is not shut down, which would take twice the time of everything else.
  """
  status = 1

  def leave():
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(BaseException):  # the program's own, or closed
        stream.flush()
    os._exit(status)

  atexit.register(leave)  # registered first, so called last
  _, run = make_module("__main__", code)
  try:
    run()
    status = 0
  except SystemExit as e:
    number = 0 if e.code is None else e.code
    status = number & 0xFF if isinstance(number, int) else 1
    raise


def _run_function(code, name):
  """Calls a function of the code on what stdin has; prints the reply."""
  from .serving import call_once  # not needed by programs

  with open(0, "rb", closefd=False) as f:
    arguments = decode(json.loads(f.read()))
  out = os.dup(1)
  _silence(out)  # the function prints to nobody
  data = memoryview(json.dumps(call_once(code, name, arguments)).encode())
  while data:
    data = data[os.write(out, data) :]
  os._exit(0)
