"""Values by name against pairs: x = 7, y = 6 is (7, 6)."""

import pytest

from prefixrl_jax.rewards.comparison import equivalent

_PAIR = "Find the ordered pair $(x, y)$."


@pytest.mark.parametrize(
  ("gold", "answer", "statement", "right"),
  [
    ("(7,6)", "x=7, y=6", "", True),
    ("(7,6)", r"x=7 \text{ and } y=6", _PAIR, True),
    ("(7,6)", "y=6, x=7", _PAIR, True),
    ("(7,6)", "y=7, x=6", _PAIR, False),
    ("(7,6)", "x=6, y=7", _PAIR, False),
    ("(7,6)", "y=6, x=7", "", False),  # in which order?
    ("(7,6)", "(y,x)=(6,7)", _PAIR, True),
    ("(7,6)", "(y,x)=(7,6)", _PAIR, False),
    ("(7,6)", "(x,y)=(7,6)", _PAIR, True),
    ("(7,6)", "x=7, x=6", _PAIR, False),
    ("(7,6)", "x=7 or y=6", _PAIR, False),
    ("(7,6)", "x=7, y=6, z=5", _PAIR, False),
    ("(2,1)", "p=2, q=1", r"Find $\left(q,\, p\right)$.", False),
    ("(2,1)", "p=1, q=2", r"Find $\left(q,\, p\right)$.", True),
    ("(7,6,5)", "b=6, a=7, c=5", "Find $(a,b,c)$.", True),
    (r"(\frac12, 3)", r"x_1 = \frac{1}{2}, x_2 = 3", "", True),
    ("x=7, y=6", "y=6, x=7", "", True),
    ("x=7, y=6", "x=6, y=7", "", False),
    ("x=7, y=6", "a=7, b=6", "", False),
    ("x=7, y=6", "(7,6)", _PAIR, True),
    ("x=7, y=6", "(6,7)", _PAIR, False),
    ("x=7, y=6", "6, 7", "", False),
    ("6, 7", "x=7, y=6", "", True),  # two numbers in no order
    ("1, 2", "x=1, x=2", "", True),
  ],
)
def test_values_are_compared_by_their_names(gold, answer, statement, right):
  assert equivalent(gold, answer, statement) == right
