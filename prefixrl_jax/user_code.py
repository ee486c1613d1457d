"""Python files of the user's: configs, rewards and problems.

They are trusted, as the command line is. What goes wrong in them is said in one
line, with file and line.
"""

import functools
import hashlib
import inspect
import pathlib
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from prefixrl_jax.types import UserError, one_line


class Source(NamedTuple):
  """A function in a file, as it was when it was read.

  Attributes:
    file, name: of the function.
    code: the file's contents.
    field: of the config that names it, for errors.
  """

  file: str
  name: str
  code: bytes
  field: str

  @property
  def digest(self) -> str:
    """Of the function's name and all of its file."""
    return f"{hashlib.sha256(self.code).hexdigest()}:{self.name}"


@functools.cache
def contents(file: pathlib.Path) -> bytes:
  """Returns what was in a file when this process first read it."""
  return file.read_bytes()


def run_file(file: str, code: bytes, field: str) -> types.ModuleType:
  """Returns the module that a file is.

  Args:
    file: its path, for what is said of its lines.
    code: its contents.
    field: what names it, for errors.

  Raises:
    UserError: it raises, or is no Python; with file and line.
  """
  key = hashlib.sha256(code).hexdigest()[:12]
  module = types.ModuleType(f"_user_{pathlib.Path(file).stem}_{key}")
  module.__file__ = file
  sys.modules[module.__name__] = module  # where dataclasses look
  try:
    exec(compile(code, file, "exec"), vars(module))
  except UserError:
    raise
  except SyntaxError as e:
    where = f"{e.filename or file}:{e.lineno}" if e.lineno else file
    raise UserError(f"{field}: {where}: {e.msg}.") from e
  except (Exception, SystemExit) as e:
    raise UserError(f"{field}: {raised(e, file)}") from e
  return module


def raised(e: BaseException, file: str) -> str:
  """Returns in one line what was raised, and at which line of the file."""
  where = file
  for frame in traceback.extract_tb(e.__traceback__):
    if frame.filename == file:
      where = f"{file}:{frame.lineno}"
  return f"{where}: {one_line(e)}"


def read(place: str, field: str) -> Source:
  """Reads the file of a function.

  Args:
    place: "FILE.py:NAME".
    field: of the config that says so.

  Raises:
    UserError: there is no such file.
  """
  file, colon, name = place.rpartition(":")
  if not colon or not file.endswith(".py") or not name.isidentifier():
    raise UserError(f"{field} = {place!r} is not of the form FILE.py:FUNCTION.")
  try:
    code = contents(pathlib.Path(file).expanduser().absolute())
  except (OSError, ValueError) as e:
    why = e.strerror if isinstance(e, OSError) and e.strerror else e
    raise UserError(f"{field}: {file} cannot be read: {why}.") from e
  return Source(file, name, code, field)


@functools.cache
def load(source: Source, *arguments: str) -> Callable[..., Any]:
  """Returns the function.

  Args:
    source: from `read`.
    *arguments: names of what it will be called with, in their order.

  Raises:
    UserError: the file raises, has no such function, or that takes other
      arguments.
  """
  file, name, code, field = source
  module = run_file(file, code, field)
  function = getattr(module, name, None)
  if not callable(function):
    own = [
      n
      for n, value in vars(module).items()
      if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    there = f"; it has {', '.join(own)}" if own else ""
    raise UserError(f"{field}: {file} has no function {name!r}{there}.")
  where = place_of(function, file)
  wanted = f"{name}({', '.join(arguments)})"
  if inspect.iscoroutinefunction(function):
    raise UserError(f"{field}: {where}: {name} is async; write def {wanted}.")
  try:
    inspect.signature(function).bind(*arguments)
  except TypeError as e:
    raise UserError(
      f"{field}: {where}: it will be called as {wanted}: {e}."
    ) from e
  except ValueError:  # written in C: it has no signature to look at
    pass
  return function


def check(place: str, field: str, *arguments: str) -> Source:
  """Returns a function's source, once it is known to be a function.

  Args:
    place: "FILE.py:NAME".
    field: of the config, for errors.
    *arguments: that it takes.

  Raises:
    UserError: there is no such function, or it takes other arguments.
  """
  source = read(place, field)
  load(source, *arguments)
  return source


def place_of(function: Callable[..., Any], file: str) -> str:
  """Returns "FILE:LINE" of a function; FILE if it is from elsewhere."""
  inner = inspect.unwrap(function)
  if isinstance(inner, functools.partial):
    inner = inner.func
  code = getattr(inner, "__code__", None)
  if code is None:
    code = getattr(type(inner).__call__, "__code__", None)
  if code is None or code.co_filename != file:
    return file
  return f"{file}:{code.co_firstlineno}"
