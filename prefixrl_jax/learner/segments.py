"""Sums over each completion of packed rows, where several share a row."""

import jax
import jax.numpy as jnp


def sum_to_end(x, goes_on):
  """Returns sums from each token to its completion's end, of x's shape.

  Args:
    x: float [..., T], one value a token.
    goes_on: bool [..., T], the next token is of the same completion.
  """
  return _scan(x, goes_on, reverse=True)


def sum_of_completion(x, goes_on):
  """Returns at each token the sum over its whole completion, of x's shape.

  Args:
    x: float [..., T], one value a token.
    goes_on: bool [..., T], the next token is of the same completion.
  """
  came_from = jnp.concatenate(
    [jnp.zeros_like(goes_on[..., :1]), goes_on[..., :-1]], axis=-1
  )
  to_end = _scan(x, goes_on, reverse=True)
  from_start = _scan(x, came_from, reverse=False)
  return to_end + from_start - x


def _scan(x, joined, *, reverse: bool):
  """Sums up runs of `joined` tokens, in the scan's direction."""

  def join(before, here):
    before_on, before_total = before
    on, total = here
    return on & before_on, total + jnp.where(on, before_total, 0)

  axis = x.ndim - 1
  _, totals = jax.lax.associative_scan(
    join, (joined, x), reverse=reverse, axis=axis
  )
  return totals
