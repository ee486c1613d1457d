"""An answer that only repeats the question."""

import pytest

from prefixrl_jax.rewards import comparison, formulas, statements

_STATEMENT = (
  "Factor $x^2-9$, expand $(x+2)(x-3)$, simplify $\\frac{\\sqrt{8}}{2} + 3y$"
  " and \\[\\frac{2x+4}{x^2-1} < 5.\\] Compute (1+2x)(3-y).\n"
  "[asy] draw((0,0)--(7,t)); [/asy] Solve $2x^2 = 8z$."
)


def _repeats(gold, answer):
  return statements.repeats(_STATEMENT, gold, answer, formulas.read)


def test_formulas_are_found_with_and_without_delimiters():
  assert statements.formulas_of(_STATEMENT) == (
    "x^2-9",
    "(x+2)(x-3)",
    r"\frac{\sqrt{8}}{2} + 3y",
    r"\frac{2x+4}{x^2-1} < 5",
    "2x^2 = 8z",
    "2x^2",
    "8z",
    "(1+2x)(3-y)",
  )


@pytest.mark.parametrize(
  ("gold", "answer"),
  [
    ("(x-3)(x+3)", "x^2-9"),
    ("(x-3)(x+3)", "x^{2} - 9"),
    ("(x-3)(x+3)", "x^2-9+0"),
    ("(x-3)(x+3)", r"1\cdot(x^2-9)"),
    ("(x-3)(x+3)", "-9+x^2"),
    ("(x-3)(x+3)", "-(9-x^2)"),
    ("(x-3)(x+3)", r"\frac{2x^2-18}{2}"),
    ("(x-3)(x+3)", "x^2-9+y-y"),
    ("x^2-x-6", "(x-3)(x+2)"),
    ("x^2-x-6", r"\left(x-3\right) \cdot (x+2)^1"),
    ("x^2-x-6", "-(3-x)(x+2)"),
    ("x^2-x-6", "f(x) = (x+2)(x-3)"),
    (r"\sqrt{2}", r"\dfrac{\sqrt{8}}{2}"),
    (r"\sqrt{2}", r"\sqrt{8}/2"),
    (r"2\sqrt{2}", r"\sqrt{8}"),
    ("z", r"\frac{4+2x}{(x^2-1)}"),
    ("z", r"\frac{2(x+2)}{x^2-1}"),
    ("z", "(2x+1)(3-y)"),
    ("z = x^2/4", "8z = 2x^2"),
  ],
)
def test_repeats(gold, answer):
  assert _repeats(gold, answer)


@pytest.mark.parametrize(
  ("gold", "answer"),
  [
    ("(x-3)(x+3)", "(x+3)(x-3)"),
    ("x^2-x-6", "-x+x^2-6"),
    (r"\sqrt{2}", r"\sqrt{2}"),
    ("x^2-9", "x^2-9"),  # the gold answer itself
    ("x^2-9", "-9 + x^2"),
    ("2x", "x+x"),
    ("x", "x"),
  ],
)
def test_what_is_an_answer(gold, answer):
  assert not _repeats(gold, answer)


@pytest.mark.parametrize(
  ("statement", "gold", "answer", "right"),
  [
    (r"Simplify $\frac24$.", r"\frac12", r"\frac{2}{4}", False),
    (r"Simplify $\frac24$.", r"\frac12", r"\frac{1}{2}", True),
    (r"Simplify $\frac24$.", r"\frac12", "0.5", True),
    ("Write 0.5 as a fraction.", r"\frac12", "0.50", False),
    ("What is 50% as a fraction?", r"\frac12", r"50\%", False),
    (r"Write $0.\overline{36}$.", r"\frac{4}{11}", r"0.\overline{36}", False),
    ("Of 18 apples all are left.", "18", "18.0", True),
    ("Factor $x^2-9$.", "(x-3)(x+3)", "x^2-9", False),
    ("Solve $x^2-5x+6<0$.", "(2,3)", "x^2-5x+6<0", False),
    ("Solve $2x^2=8z$ for $z$.", "z=x^2/4", "4z = x^2", False),
    ("Solve $x + 1 = 4$.", "x = 3", "x + 2 = 5", False),
    ("Solve $x + 1 > 4$.", "x > 3", "x + 2 > 5", False),
    ("Solve $2x^2=8z$ for $z$.", "z=x^2/4", r"z = \frac{1}{4}x^2", True),
  ],
)
def test_the_question_is_no_answer(statement, gold, answer, right):
  assert comparison.equivalent(gold, answer, statement) == right
