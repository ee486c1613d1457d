"""Rounding up, by hand."""

import ast
import pathlib

import numpy as np
import pytest

from prefixrl_jax.rounding import ceil_div, round_up

_PACKAGE = pathlib.Path(__file__).parents[1] / "prefixrl_jax"


@pytest.mark.parametrize(
  ("n", "divisor", "parts"),
  [(0, 3, 0), (1, 3, 1), (3, 3, 1), (4, 3, 2), (7, 1, 7), (-4, 3, -1)],
)
def test_by_hand(n, divisor, parts):
  assert ceil_div(n, divisor) == parts
  assert round_up(n, divisor) == parts * divisor


def test_arrays_keep_shape_and_type():
  parts = ceil_div(np.array([[0, 1], [8, 9]], np.int32), 8)
  assert parts.tolist() == [[0, 1], [1, 2]]
  assert parts.dtype == np.int32


def _is_written_out(node):
  """Whether a node is -(-n // m), whatever n and m."""
  return (
    isinstance(node, ast.UnaryOp)
    and isinstance(node.op, ast.USub)
    and isinstance(node.operand, ast.BinOp)
    and isinstance(node.operand.op, ast.FloorDiv)
    and isinstance(node.operand.left, ast.UnaryOp)
  )


def test_nobody_writes_it_out():
  """One way to round up."""
  found = [
    f"{file.relative_to(_PACKAGE)}:{node.lineno}"
    for file in sorted(_PACKAGE.rglob("*.py"))
    for node in ast.walk(ast.parse(file.read_text()))
    if _is_written_out(node)
  ]
  assert [place.partition(":")[0] for place in found] == ["rounding.py"], found
