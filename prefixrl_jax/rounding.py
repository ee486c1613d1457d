"""Integers rounded up: to whole parts, and to whole multiples."""

from typing import Any


def ceil_div(n: Any, divisor: int) -> Any:
  """Returns n / divisor, rounded up, of n's type.

  Args:
    n: int, or an integer array of numpy or JAX, of any shape.
    divisor: above 0.
  """
  return -(-n // divisor)


def round_up(n: int, multiple: int) -> int:
  """Returns the least multiple of `multiple` that is not below n.

  Args:
    n: of any sign.
    multiple: above 0.
  """
  return ceil_div(n, multiple) * multiple
