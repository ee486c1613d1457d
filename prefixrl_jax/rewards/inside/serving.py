"""A solution's functions, called by incoming requests.

The code runs in this same process, so it can forge any reply; only plain data
is ever taken from here.
"""

from __future__ import annotations  # typing is slow to import

from .module import make_module
from .plain import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
  from collections.abc import Callable
  from typing import Any


def finder(namespace: dict[str, Any]) -> Callable[[str], Any]:
  """Returns a look-up of a function, or of a method of a new `Solution`."""

  def find(name):
    if name in namespace or "Solution" not in namespace:
      return namespace[name]
    return getattr(namespace["Solution"](), name)

  return find


def raised(error: BaseException) -> dict[str, Any]:
  """Returns the reply with what was raised (see `serve`)."""
  if isinstance(error, MemoryError):
    return {"raised": "MemoryError", "text": "", "names": ["MemoryError"]}
  names = [kind.__name__ for kind in type(error).__mro__]
  return {"raised": names[0], "text": str(error)[-500:], "names": names}


def call_once(code: str, name: str, arguments: list[Any]) -> dict[str, Any]:
  """Loads code and calls a function of it; returns the reply (see `serve`)."""
  module, load = make_module("solution", code)
  try:
    load()
    return {"value": encode(finder(module.__dict__)(name)(*arguments))}
  except BaseException as e:  # not even SystemExit gets out
    return raised(e)


def serve(
  code: str, receive: Callable[[], Any], send: Callable[[Any], None]
) -> None:
  """Loads code, reports how that went, and serves requests forever.

  Args:
    code: Python; `__name__` is "solution" in it.
    receive, send: messages: {"do": operation, "with": its parameters}, and
      {"value": result, "arguments": a call's, if it changed them} or
      {"raised": name, "text": message, "names": its classes}.
  """
  objects: list = []
  numbers: dict[int, int] = {}  # by id(); `objects` keeps them alive

  def refer(value):
    if id(value) not in numbers:
      numbers[id(value)] = len(objects)
      objects.append(value)
    return numbers[id(value)]

  module, load = make_module("solution", code)
  namespace: dict[str, Any] = module.__dict__

  operations: dict[str, Callable[..., Any]] = {
    "find": finder(namespace),
    "call": lambda f, args, named: f(*args, **named),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": lambda x, key: x[key],
    "len": len,
    "iter": iter,
    "next": next,
  }

  perform: Callable[..., Any] = load
  parameters: list[Any] = []
  while True:
    reply = {}
    try:
      before = encode(parameters[1:2], refer)
      result = perform(*parameters)
      reply["value"] = encode(result, refer)
      after = encode(parameters[1:2], refer)
      if after != before:
        reply["arguments"] = after[0]  # changed in place
    except BaseException as e:  # SystemExit is no way out either
      reply = raised(e)
    send(reply)
    message = receive()
    perform = operations[message["do"]]
    parameters = decode(message["with"], objects.__getitem__)
