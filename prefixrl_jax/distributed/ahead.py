"""Programs: jitted functions, run as they are or compiled ahead of a run.

A run calls a `Program` like any function. Within `compiling`, where arrays are
shapes with shardings and their devices may be absent, a call compiles what the
run would compile, notes what came of it, and returns the shapes of its results.
So the code that runs is the code that says what is compiled.
"""

import contextlib
import dataclasses
import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

# The parts of a run that have programs.
PARTS = (
  "screen",
  "collect",
  "RL",
  "SFT",
  "scoring",
  "rollouts",
  "curve",
  "scoring traces",
  "rescore",
  "evaluate",
)

# What XLA says when a device has too little memory for a program.
_TOO_LARGE = "RESOURCE_EXHAUSTED"


class Program:
  """A jitted function with a name for people."""

  def __init__(self, name: str, function: Callable[..., Any], **options: Any):
    """Jits the function; compiles nothing yet.

    Args:
      name: for people, in profiles too; several programs may share one.
      function: of arrays.
      **options: to `jax.jit`.
    """
    self.name = name
    self._jitted = jax.jit(_named(name, function), **options)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Runs the function, or compiles it within `compiling`."""
    if _compiler is None:
      return self._jitted(*args, **kwargs)
    return _compiler.call(self, args, kwargs)

  def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
    """Lowers the function for arguments like these, arrays or shapes."""
    return self._jitted.lower(*args, **kwargs)

  def compile(self, *args: Any, **kwargs: Any) -> Any:
    """Returns it compiled for arguments like these; within `compiling`, itself.

    Args:
      *args, **kwargs: arrays, or shapes with shardings.
    """
    if _compiler is None:
      return self.lower(*args, **kwargs).compile()
    _compiler.call(self, args, kwargs)
    return self


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the function under the name by which XLA knows what it compiles."""

  @functools.wraps(function)
  def named(*args, **kwargs):
    return function(*args, **kwargs)

  named.__name__ = re.sub(r"\W+", "_", name)
  return named


class LeftOutError(Exception):
  """A program is not wanted, or takes what one would make that did not fit."""


@dataclasses.dataclass
class Compiled:
  """What came of a program for arguments of one kind.

  Attributes:
    name: of the program.
    of: the parts of the run that it belongs to, each once.
    subjects: the objects of those parts; see `part`.
    lowered: what was given to the compiler.
    executable: what it returned; None: no device has the memory.
    error: what the compiler said of that.
    seconds: lowering and compiling it took.
  """

  name: str
  of: list[str]
  subjects: tuple
  lowered: jax.stages.Lowered
  executable: jax.stages.Compiled | None
  error: str
  seconds: float

  @property
  def results(self) -> Any:
    """Shapes of its results; without a sharding where only XLA would know."""
    declared = self.lowered.out_info
    if self.executable is None:
      return declared

    def keep(said, found):
      if said.sharding is not None:
        return said
      # Its layout is the default, where none is declared.
      return jax.ShapeDtypeStruct(
        said.shape, said.dtype, sharding=found.sharding
      )

    return jax.tree.map(keep, declared, self.executable.out_info)


class Compiler:
  """Compiles programs instead of running them, each for its arguments once."""

  def __init__(
    self,
    on_compiled: Callable[[Compiled], None] = lambda _: None,
    only: Iterable[str] = PARTS,
  ):
    """Starts with none.

    Args:
      on_compiled: is told of each, as soon as it is compiled.
      only: what is wanted, as PART (of PARTS) or PART/PROGRAM.
    """
    self.of: tuple[str, ...] = ()  # parts of the run that are being compiled
    self.subjects: tuple = ()
    self.compiled: list[Compiled] = []
    self._on_compiled = on_compiled
    self._only = frozenset(only)
    self._wanted_parts = {name.partition("/")[0] for name in self._only}
    self._done: dict[Any, Compiled] = {}
    # By name and text: samplers that draw otherwise prefill alike.
    self._by_text: dict[tuple[str, str], Compiled] = {}

  def call(self, program: Program, args: tuple, kwargs: dict) -> Any:
    """Compiles a program for its arguments, and returns its results' shapes.

    Args:
      program: that a run would call.
      args, kwargs: arrays or shapes.

    Raises:
      LeftOutError: nothing of the part is wanted; or the arguments' shardings
        are not known, since what makes them did not fit.
    """
    if not self._wants(program):
      return program.lower(*args, **kwargs).out_info
    leaves, structure = jax.tree.flatten((args, kwargs))
    for x in leaves:
      if isinstance(x, jax.ShapeDtypeStruct) and x.sharding is None:
        raise LeftOutError(program.name)
    key = program, structure, tuple(map(_kind, leaves))
    if key not in self._done:
      self._done[key] = self._compile(program, args, kwargs)
    done = self._done[key]
    if (of := ", ".join(self.of)) not in done.of:
      done.of.append(of)
    return done.results

  def _wants(self, program: Program) -> bool:
    """Returns whether a program is to be compiled, not lowered alone.

    Raises:
      LeftOutError: nothing of the part is wanted.
    """
    of = self.of[-1] if self.of else ""
    if of not in PARTS or of in self._only:
      return True
    if of not in self._wanted_parts:
      raise LeftOutError(program.name)
    return f"{of}/{program.name}" in self._only

  def _compile(self, program: Program, args: tuple, kwargs: dict) -> Compiled:
    started = time.perf_counter()
    lowered = program.lower(*args, **kwargs)
    text = program.name, lowered.as_text()
    if text in self._by_text:
      return self._by_text[text]
    executable, error = None, ""
    try:
      executable = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      if _TOO_LARGE not in str(e):
        raise
      error = str(e)
    seconds = time.perf_counter() - started
    done = self._by_text[text] = Compiled(
      program.name,
      [", ".join(self.of)],
      self.subjects,
      lowered,
      executable,
      error,
      seconds,
    )
    self.compiled.append(done)
    self._on_compiled(done)
    return done


def _kind(x: Any) -> Any:
  """Returns what decides how an argument is lowered."""
  if isinstance(x, jax.ShapeDtypeStruct):
    return x
  if isinstance(x, jax.Array):
    return x.shape, x.dtype, x.sharding
  return np.shape(x), getattr(x, "dtype", type(x))


_compiler: Compiler | None = None


@contextlib.contextmanager
def compiling(compiler: Compiler) -> Iterator[Compiler]:
  """Has programs be compiled rather than run.

  Args:
    compiler: that they are given to.
  """
  global _compiler
  before, _compiler = _compiler, compiler
  try:
    yield compiler
  finally:
    _compiler = before


@contextlib.contextmanager
def part(name: str, subject: Any = None) -> Iterator[None]:
  """Says which part of a run is compiled within, if `compiling` is under way.

  If a program there fits no device, those that need its results are left out.

  Args:
    name: for people, of PARTS or an arm's; parts within parts have both names.
    subject: the object whose programs they are.
  """
  compiler = _compiler
  if compiler is None:
    yield
    return
  before = compiler.of, compiler.subjects
  compiler.of = (*compiler.of, name)
  compiler.subjects = (*compiler.subjects, subject)
  try:
    with contextlib.suppress(LeftOutError):
      yield
  finally:
    compiler.of, compiler.subjects = before
