"""The shapes in signatures are ones that jaxtyping can read."""

import ast
import importlib
import inspect
import typing

import jax
import jaxtyping
import pytest

# What the modules import for type checkers alone.
_ONLY_TYPES = {
  "Array": jax.Array,
  "CosSin": tuple,
  **{
    name: getattr(jaxtyping, name)
    for name in ("Bool", "Float", "Float32", "Int", "Int32", "Key", "UInt32")
  },
}
_MODULES = [
  *(
    f"models.{name}"
    for name in (
      "attention",
      "experts",
      "grouped",
      "layers",
      "linear",
      "transformer",
      "tree_attention",
    )
  ),
  "rollouts.decoding",
  "rollouts.drawing",
]


def _functions(module):
  for value in vars(module).values():
    if getattr(value, "__module__", None) != module.__name__:
      continue
    if inspect.isfunction(value) or inspect.isclass(value):
      yield value


@pytest.mark.parametrize("name", _MODULES)
def test_every_shape_can_be_read(name):
  module = importlib.import_module(f"prefixrl_jax.{name}")
  read = [
    typing.get_type_hints(f, localns=_ONLY_TYPES) for f in _functions(module)
  ]
  assert any(read)


@pytest.mark.parametrize("name", _MODULES)
def test_every_array_argument_of_a_public_function_has_its_shape(name):
  """An argument without a type is no array: a config, rows, pairs."""
  module = importlib.import_module(f"prefixrl_jax.{name}")
  tree = ast.parse(inspect.getsource(module))
  bare = {
    f"{function.name}: {arg.arg}"
    for function in tree.body
    if isinstance(function, ast.FunctionDef)
    and not function.name.startswith("_")
    for arg in (*function.args.args, *function.args.kwonlyargs)
    if arg.annotation is None
    and arg.arg not in ("config", "mesh", "rows", "query", "key", "is_last")
  }
  assert bare == set()
