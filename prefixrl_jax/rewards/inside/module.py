"""Code as a separate module, with the meaning it would have in a file."""

import os
import sys

_FILE = "solution.py"


class _Loader:
  """Provides the source to tracebacks and `inspect`."""

  def __init__(self, code):
    self._code = code

  def get_source(self, name):
    """Returns the source, as loaders do."""
    return self._code


def make_module(name: str, code: str):
  """Returns a new module and a function that runs the code in it.

  The module can be found by its name, as pickled classes and dataclasses
  require. It is `__main__` too, whatever its own name. What `site` adds to the
  builtins is there: exit, quit and the like.

  Args:
    name: the module's.
    code: Python. It inherits nothing from the code that runs it, such as
      imports from __future__.
  """
  import site  # with -S it does nothing by itself

  site.setquit()
  site.setcopyright()
  site.sethelper()
  module = type(sys)(name)
  module.__dict__.update(
    __file__=os.path.abspath(_FILE), __loader__=_Loader(code)
  )
  sys.modules[name] = sys.modules["__main__"] = module
  sys.argv[:] = [_FILE]

  def run():
    exec(compile(code, _FILE, "exec", dont_inherit=True), module.__dict__)

  return module, run
