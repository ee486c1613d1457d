"""Code as a module of its own: it means what it means in a file."""

import os
import sys

_FILE = "solution.py"


class _Loader:
  """Tells whoever asks (tracebacks, `inspect`) what the source is."""

  def __init__(self, code):
    self._code = code

  def get_source(self, name):
    """Returns the source, as loaders do."""
    return self._code


def make_module(name: str, code: str):
  """Returns a new module and a function that runs the code in it.

  The module is found by its name, as classes want that are pickled or made
  into dataclasses. It is `__main__` too, whatever its own name. What `site`
  adds to the builtins is there: exit, quit and the like.

  Args:
    name: of the module.
    code: Python. Nothing is inherited from the code that runs it, such as
      what that imports from __future__.
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
