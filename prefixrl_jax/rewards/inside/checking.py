"""Tests that are Python, run separately from the solution that they test.

Names that the tests do not define stand for what lives in the solution's
sandbox: a call goes out as plain data, and plain data comes back.
"""

from __future__ import annotations  # typing is slow to import

import builtins
import importlib
import symtable
import sys

from .plain import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
  from collections.abc import Callable
  from typing import Any


class SolutionError(Exception):
  """What a solution raised, if it is not a built-in exception."""


class Remote:
  """Something in the solution's sandbox that is not plain data.

  It cannot be compared or tested for truth: the solution would decide the
    result.
  """

  __slots__ = ("__ask__", "__number__")
  __hash__ = None  # type: ignore[assignment]

  def __init__(self, number: int, ask: Callable[..., Any]):
    """Stands for the object of that number, reached through `ask`."""
    object.__setattr__(self, "__number__", int(number))
    object.__setattr__(self, "__ask__", ask)

  def __call__(self, *args, **named):
    return self.__ask__("call", self, list(args), named)

  def __getattr__(self, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return self.__ask__("getattr", self, name)

  def __setattr__(self, name, value):
    self.__ask__("setattr", self, name, value)

  def __getitem__(self, key):
    return self.__ask__("getitem", self, key)

  def __len__(self):
    return self.__ask__("len", self)

  def __iter__(self):
    return self.__ask__("iter", self)

  def __next__(self):
    return self.__ask__("next", self)

  def __bool__(self, *_):
    raise TypeError("the solution returned what is not plain data")

  __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__


def run_test(
  source: str,
  *,
  setup: str,
  prompt_code: str,
  entry_point: str,
  receive: Callable[[], Any],
  send: Callable[[Any], None],
) -> tuple[str, str]:
  """Runs one test.

  Args:
    source, setup: Python; the test fails if one of them raises.
    prompt_code: defines what else the tests may use, except its entry_point.
    entry_point: the function under test, even if something else has its name.
    receive, send: messages from and to `serving.serve`.

  Returns:
    "passed", "wrong" or "error"; and the exception raised.
  """
  ask = lambda what, *parameters: _ask(what, parameters, receive, send)
  try:
    module = sys.modules["tests"] = type(sys)("tests")
    namespace: dict[str, Any] = module.__dict__
    execute = lambda text: exec(
      compile(text, "test.py", "exec", dont_inherit=True), namespace
    )
    execute(prompt_code)
    namespace.pop(entry_point, None)
    read, defined = _globals_of(f"{setup}\n{source}")
    for name in sorted(read - defined - namespace.keys()):
      # Never the solution's `math` or `sorted`, which may be anything.
      if name != entry_point and name in sys.stdlib_module_names:
        namespace[name] = importlib.import_module(name)
      elif name == entry_point or not hasattr(builtins, name):
        namespace[name] = ask("find", name)
    execute(setup)
    execute(source)
  except AssertionError as e:
    return "wrong", str(e)
  except BaseException as e:  # SystemExit too: the test did not reach its end
    return "error", f"{type(e).__name__}: {e}"
  return "passed", ""


def _ask(what, parameters, receive, send):
  """Sends an operation to the solution; returns or raises what comes back."""
  make = lambda number: Remote(
    number, lambda *again: _ask(again[0], again[1:], receive, send)
  )
  send({"do": what, "with": encode(list(parameters), _number_of)})
  reply = receive()
  if "value" not in reply:
    # The nearest built-in type, so that `except ValueError` works.
    for name in map(str, reply["names"]):
      kind = getattr(builtins, name, None)
      if not isinstance(kind, type) or not issubclass(kind, Exception):
        continue
      if kind is StopIteration and what != "next":
        break  # `all(map(f, cases))` would take it as the end of its cases
      raise kind(str(reply["text"]))
    raise SolutionError(f"{reply['raised']}: {reply['text']}")
  if what == "call" and "arguments" in reply:
    _change(parameters[1], decode(reply["arguments"], make))
  return decode(reply["value"], make)


def _number_of(value):
  if type(value) is not Remote:
    raise TypeError(f"{type(value).__name__} is not plain data")
  return value.__number__


def _change(arguments, after):
  """Changes arguments in place, as the solution changed its copies."""
  for old, new in zip(arguments, after):
    if type(old) is not type(new):
      continue
    if isinstance(old, list):
      old[:] = new
    elif isinstance(old, (dict, set)):
      old.clear()
      old.update(new)


def _globals_of(source):
  """Returns the global names that a text reads and those that it defines."""
  table = symtable.symtable(source, "test.py", "exec")
  symbols = table.get_symbols()
  defined = {s.get_name() for s in symbols if s.is_assigned()}
  defined |= {s.get_name() for s in symbols if s.is_imported()}
  read, tables = set(), [table]
  while tables:
    table = tables.pop()
    tables += table.get_children()
    at_top = table.get_type() == "module"
    read |= {
      s.get_name()
      for s in table.get_symbols()
      if s.is_referenced() and (at_top or s.is_global())
    }
  return read, defined
