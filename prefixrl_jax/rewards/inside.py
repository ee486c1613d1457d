"""What runs inside the sandbox: takes one job, does it, and is gone.

A file of its own that imports the standard library alone; the host runs it as
a script. A job is one of three:

  programs  the code is run as a program, once per input, each time in a new
            process; what it printed goes out.
  serve     the code is loaded once; its functions are called with plain data
            that comes in, and plain data goes out.
  check     trusted tests are run against names that live in another sandbox,
            of a `serve` job: each call of them goes out, its result comes in.

Messages are JSON with four bytes of length before. Model-written code can send
whatever it likes in its replies; so nothing here is believed but by the tests
themselves, which look at plain data only.
"""

import json
import os
import resource
import select
import signal
import struct
import sys
import time

_STDERR_TAIL = 2000
_MAX_FILES = 1000  # in /tmp; each takes kernel memory that no rlimit counts


def encode(value, refer=None):
  """Turns plain data into what JSON can carry.

  Args:
    value: None, bool, int, float, complex, str, bytes, and lists, tuples,
      sets and dicts of them. Subclasses become what they are based on.
    refer: makes a reference number of anything else; None: refused.

  Raises:
    TypeError: something else than plain data.
  """
  inner = lambda v: encode(v, refer)
  if value is None or value is True or value is False:
    return value
  if isinstance(value, int):
    value = int(value)
    return value if abs(value) < 2**63 else {"int": hex(value)}
  if isinstance(value, float):
    return float(value)
  if isinstance(value, str):
    return str.__str__(value)
  if isinstance(value, list):
    return [inner(v) for v in value]
  if isinstance(value, dict):
    return {"dict": [[inner(k), inner(v)] for k, v in value.items()]}
  for kind in (tuple, set, frozenset):
    if isinstance(value, kind):
      return {kind.__name__: [inner(v) for v in value]}
  if isinstance(value, (bytes, bytearray)):
    return {"bytes": bytes(value).hex()}
  if isinstance(value, complex):
    return {"complex": [value.real, value.imag]}
  if refer is None:
    raise TypeError(f"{type(value).__name__} is not plain data")
  return {"reference": refer(value)}


def decode(value, resolve=None):
  """Inverts `encode`; `resolve` makes an object of a reference number."""
  inner = lambda v: decode(v, resolve)
  if isinstance(value, list):
    return [inner(v) for v in value]
  if not isinstance(value, dict):
    return value
  ((kind, content),) = value.items()
  if kind == "int":
    return int(content, 16)
  if kind == "dict":
    return {inner(k): inner(v) for k, v in content}
  if kind in ("tuple", "set", "frozenset"):
    make = {"tuple": tuple, "set": set, "frozenset": frozenset}[kind]
    return make(inner(v) for v in content)
  if kind == "bytes":
    return bytes.fromhex(content)
  if kind == "complex":
    return complex(*content)
  if kind == "reference" and resolve:
    return resolve(content)
  raise ValueError(f"{kind!r} is not plain data")


def frame(message) -> bytes:
  """Returns a message's bytes: its length, and JSON."""
  data = json.dumps(message, separators=(",", ":")).encode()
  return struct.pack(">I", len(data)) + data


def _send(fd, message):
  data = memoryview(frame(message))
  while data:
    data = data[os.write(fd, data) :]


def _receive(fd):
  """Returns a message; ends the process when there will be none."""

  def read(count):
    parts = []
    while count:
      part = os.read(fd, min(count, 1 << 20))
      if not part:
        raise SystemExit(0)
      parts.append(part)
      count -= len(part)
    return b"".join(parts)

  (length,) = struct.unpack(">I", read(4))
  return json.loads(read(length))


def _lower_limits(job):
  """Takes the limits of a job on this process."""
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
  """Allows this process so many more CPU seconds; `hard` in all its life."""
  used = resource.getrusage(resource.RUSAGE_SELF)
  soft = int(used.ru_utime + used.ru_stime + seconds + 0.999)
  resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hard), hard))


def _prctl():
  import ctypes

  return ctypes.CDLL(None, use_errno=True).prctl


def _lock(program):
  """Lays a BPF program over this process, and has it die with its parent."""
  import ctypes

  class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

  prctl = _prctl()
  prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
  prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
  steps = bytes.fromhex(program)
  description = Program(len(steps) // 8, steps)
  if prctl(22, 2, ctypes.byref(description), 0, 0):  # PR_SET_SECCOMP, filter
    raise OSError(ctypes.get_errno(), "seccomp")


def _become_solution(job, cpu_seconds):
  _lower_limits(job)
  _limit_cpu(job["timeout_seconds"], cpu_seconds)
  for program in job["filters"]:
    _lock(program)


def _supervise(pid, job, *, until, pipes):
  """Waits for a child and reads what it prints; kills what goes too far.

  Args:
    pid: of the child.
    job: whose limits hold.
    until: time.monotonic() of its end at the latest, or None.
    pipes: {file descriptor: bytearray}; the second one keeps its tail only.

  Returns:
    Status, seconds and CPU seconds, as a dict.
  """
  started = time.monotonic()
  watched = select.poll()
  process = os.pidfd_open(pid)
  for fd in (process, *pipes):
    watched.register(fd, select.POLLIN)
  status, ended, limit = None, False, job["output_bytes"]
  stdout = next(iter(pipes), None)
  while not ended:
    # A moment at a time: the number of files is to be looked at.
    for fd, _ in watched.poll(50):
      if fd == process:
        ended = True
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
  for fd in pipes:  # what was printed last; nobody writes any more
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
  """Says in a word how a process ended."""
  if os.WIFSIGNALED(code):
    number = os.WTERMSIG(code)
    at_limit = cpu > job["timeout_seconds"] and number == signal.SIGKILL
    if number == signal.SIGXCPU or at_limit:
      return "time limit"
    return "crash"
  if os.WEXITSTATUS(code) == 0:
    return "ok"
  last = printed.rstrip().rpartition(b"\n")[2]
  return "memory limit" if last.startswith(b"MemoryError") else "error"


def _programs(job):
  """Runs the code once per input. Returns in each child, with its code."""
  while True:
    data = _receive(0)["input"].encode(errors="replace")
    stdin = os.memfd_create("stdin")
    with open(stdin, "wb", closefd=False) as f:
      f.write(data)
    os.lseek(stdin, 0, os.SEEK_SET)
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    pid = os.fork()
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
    stdout = stdout[: job["output_bytes"]]
    _send(1, {**result, "stdout": stdout, "stderr": stderr[-_STDERR_TAIL:]})


def _serve(job):
  """Loads the code in a child, and does there what comes in."""
  channel_in, channel_out = os.dup(0), os.dup(1)
  pid = os.fork()
  if pid:
    _send(1, {"ended": _supervise(pid, job, until=None, pipes={})["status"]})
    return
  os.closerange(channel_out + 1, 256)
  null = os.open(os.devnull, os.O_RDWR)
  for fd in (0, 1, 2):
    os.dup2(null, fd)
  _become_solution(job, int(job["total_seconds"]) + 2)
  objects: list = []
  numbers: dict[int, int] = {}  # by id(); `objects` keeps them alive

  def refer(value):
    if id(value) not in numbers:
      numbers[id(value)] = len(objects)
      objects.append(value)
    return numbers[id(value)]

  namespace = {"__name__": "solution"}

  def find(name):
    """A function, or a method of a new `Solution`."""
    if name in namespace or "Solution" not in namespace:
      return namespace[name]
    return getattr(namespace["Solution"](), name)

  operations = {
    "find": find,
    "call": lambda f, args, named: f(*args, **named),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": lambda x, key: x[key],
    "len": len,
    "iter": iter,
    "next": next,
  }
  load = lambda: exec(compile(job["code"], "solution.py", "exec"), namespace)
  perform, parameters = load, []
  while True:
    reply = {}
    try:
      before = encode(parameters[1:2], refer)
      result = perform(*parameters)
      reply["value"] = encode(result, refer)
      after = encode(parameters[1:2], refer)
      if after != before:
        reply["arguments"] = after[0]  # changed in place
    except MemoryError:
      reply = {"raised": "MemoryError", "text": "", "names": ["MemoryError"]}
    except BaseException as e:  # SystemExit is no way out either
      names = [kind.__name__ for kind in type(e).__mro__]
      reply = {"raised": names[0], "text": str(e)[-500:], "names": names}
    _send(channel_out, reply)
    message = _receive(channel_in)
    _limit_cpu(job["timeout_seconds"], int(job["total_seconds"]) + 2)
    perform = operations[message["do"]]
    parameters = decode(message["with"], objects.__getitem__)


class SolutionError(Exception):
  """What a solution raised, where it is no built-in exception."""


def _check(job):
  """Runs tests. They reach the solution only by what `ask` sends out."""
  import builtins
  import symtable

  def ask(what, *parameters):
    _send(1, {"do": what, "with": encode(list(parameters), number_of)})
    reply = _receive(0)
    if "value" not in reply:
      # The nearest built-in kind, so that `except ValueError` works.
      for name in map(str, reply["names"]):
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
          raise kind(str(reply["text"]))
      raise SolutionError(f"{reply['raised']}: {reply['text']}")
    if what == "call" and "arguments" in reply:
      _change(parameters[1], decode(reply["arguments"], Remote))
    return decode(reply["value"], Remote)

  class Remote:
    """Something in the solution's sandbox that is not plain data.

    It cannot be compared, nor taken for true or false: whoever returned it
    would have the say.
    """

    __slots__ = ("__number__",)
    __hash__ = None

    def __init__(self, number):
      object.__setattr__(self, "__number__", int(number))

    def __call__(self, *args, **named):
      return ask("call", self, list(args), named)

    def __getattr__(self, name):
      if name.startswith("__"):
        raise AttributeError(name)
      return ask("getattr", self, name)

    def __setattr__(self, name, value):
      ask("setattr", self, name, value)

    def __getitem__(self, key):
      return ask("getitem", self, key)

    def __len__(self):
      return ask("len", self)

    def __iter__(self):
      return ask("iter", self)

    def __next__(self):
      return ask("next", self)

    def __bool__(self, *_):
      raise TypeError("the solution returned what is not plain data")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__

  def number_of(value):
    if type(value) is not Remote:
      raise TypeError(f"{type(value).__name__} is not plain data")
    return value.__number__

  def globals_of(source):
    """Names that a text reads, and names that it defines, at its top."""
    table = symtable.symtable(source, "test.py", "exec")
    defined = {s.get_name() for s in table.get_symbols() if s.is_assigned()}
    defined |= {s.get_name() for s in table.get_symbols() if s.is_imported()}
    read, tables = set(), [table]
    while tables:
      table = tables.pop()
      tables += table.get_children()
      read |= {
        s.get_name()
        for s in table.get_symbols()
        if s.is_referenced() and (s.is_global() or table.get_type() == "module")
      }
    return read, defined

  def run(source):
    namespace = {"__name__": "tests"}
    exec(compile(job["prompt_code"], "prompt.py", "exec"), namespace)
    namespace.pop(job["entry_point"], None)
    read, defined = globals_of(f"{job['setup']}\n{source}")
    for name in sorted(read - defined - namespace.keys()):
      # Never the solution's `math` or `sorted`, which may be anything.
      if name == job["entry_point"]:
        namespace[name] = ask("find", name)
      elif name in sys.stdlib_module_names:
        namespace[name] = __import__(name)
      elif not hasattr(builtins, name):
        namespace[name] = ask("find", name)
    for text in (job["setup"], source):
      exec(compile(text, "test.py", "exec"), namespace)

  _lower_limits(job)
  for program in job["filters"]:
    _lock(program)
  null = os.open(os.devnull, os.O_RDWR)
  sys.stdin, sys.stdout = (open(null, mode, closefd=False) for mode in "rw")
  while True:
    source = _receive(0)["source"]
    status, text = "passed", ""
    try:
      run(source)
    except AssertionError as e:
      status, text = "wrong", str(e)
    except BaseException as e:
      status, text = "error", f"{type(e).__name__}: {e}"
    _send(1, {"status": status, "text": text[-500:]})


def _change(arguments, after):
  """Has arguments changed in place, as the solution changed its copies."""
  for old, new in zip(arguments, after):
    if type(old) is not type(new):
      continue
    if isinstance(old, list):
      old[:] = new
    elif isinstance(old, (dict, set)):
      old.clear()
      old.update(new)


def main():
  """Becomes nobody, takes a job, does it; returns code to run, or None."""
  user = int(sys.argv[1])
  if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
  _prctl()(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, which setresuid clears
  os.umask(0o077)
  job = _receive(0)
  kinds = {"hello": lambda job: _send(1, job)}
  kinds |= {"programs": _programs, "serve": _serve, "check": _check}
  return kinds[job["kind"]](job)


if __name__ == "__main__":
  _code = main()
  if _code is not None:
    _this = sys.modules["__main__"]  # kept, or its names would be cleared
    _program = sys.modules["__main__"] = type(sys)("__main__")
    exec(compile(_code, "solution.py", "exec"), _program.__dict__)
