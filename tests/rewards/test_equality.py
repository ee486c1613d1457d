"""Equal is equal in value, exactly; nothing is solved for an answer."""

import pytest

from prefixrl_jax.rewards import equality, formulas, spelling


def _equal(gold, answer):
  read = [formulas.read(spelling.clean(x)) for x in (gold, answer)]
  assert None not in read
  return equality.equal(*read)


@pytest.mark.parametrize(
  ("gold", "answer"),
  [
    # constants
    (r"\frac{1}{52!}", r"\frac{1}{52 \cdot 51!}"),
    (r"1.6 \times 10^{-19} e", r"0.16 \cdot 10^{-18} e"),
    (r"2\sqrt{2}", r"\sqrt{8}"),
    (r"\frac{5\sqrt{42}}{27}", r"\frac{10\sqrt{10.5}}{27}"),
    (r"1-\frac{1}{e}", r"1-\frac{1}{\mathrm{e}}"),
    ("3+4i", "4i+3"),
    ("(1+i)^2", "2i"),
    # formulas
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
    (r"\tan^2(y)+1", r"\sec^2(y)"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    ("n!", "n(n-1)!"),
    (r"\angle ABC + 1", r"1 + \angle CBA"),
    ("F_n = \\sum_{k=0}^{n-1} F_k G_k", "F_n = \\sum_{k=0}^{n-1} G_k F_k"),
    # relations
    ("x=5", "5"),
    ("5", "x=5"),
    ("|AB|=1", "1"),
    ("A:B=1", "1"),
    ("y=2x+1", "2x-y+1=0"),
    (r"y = \frac{1}{x}", "xy=1"),
    ("x^2/4+y^2/3=1", "x^2/16+y^2/12=1/4"),
    ("x<1", "-x>-1"),
    ("x < 1", "1 > x"),
    (r"x \neq 3", "x != 3"),
    ("f(2)<f(1)<f(4)", "f(4) > f(1) > f(2)"),
    # sets, intervals, tuples
    ("1,2", "2,1"),
    (r"\pm 2", "-2, 2"),
    ("a=4,-8,-10", "-10,-8,4"),
    ("(1,2)", "1,2"),
    (r"\{1,2\}", "(2,1)"),
    ("(1,2)", "1<x<2"),
    (r"[1,\infty)", r"x \ge 1"),
    (r"1 \le x < 2", "[1,2)"),
    (r"(-\infty,1)\cup(2,\infty)", r"x<1 \text{ or } x>2"),
    ("(1,2)", r"1<x \text{ and } x<2"),
    (r"\mathbb{R}", r"(-\infty,\infty)"),
    (r"(28\%,5)", "(28,5)"),
    (r"(0.28,5)", r"(28\%,5)"),
    (
      r"\begin{pmatrix} 1/3 \\ 2 \end{pmatrix}",
      r"\begin{bmatrix}\frac{1}{3} \\ 2\end{bmatrix}",
    ),
  ],
)
def test_equal(gold, answer):
  assert _equal(gold, answer)


@pytest.mark.parametrize(
  ("gold", "answer"),
  [
    # however small both are, or their difference
    ("10^{-20}", "10^{-30}"),
    ("e^{-40}", "e^{-41}"),
    ("2^{-50}", "2^{-51}"),
    (r"\frac{1}{52!}", r"\frac{1}{51!}"),
    (r"1+\frac{1}{52!}", r"1+\frac{1}{51!}"),
    (r"\sqrt2+\frac1{52!}", r"\sqrt2+\frac1{51!}"),
    (r"\sin(10^{-20})", r"\sin(10^{-21})"),
    ("x", "x+10^{-60}"),
    (r"10^{-20}x", "10^{-21}x"),
    (r"(10^{-20},1)", "(10^{-30},1)"),
    (r"\{10^{-20},1\}", r"\{10^{-30},1\}"),
    (r"[0,10^{-20}]", "[0,10^{-30}]"),
    (r"\{0,1\}", r"\{10^{-30},1\}"),
    ("x = 10^{-20}", "x = 10^{-30}"),
    (
      r"\begin{pmatrix}10^{-20} \\ 1\end{pmatrix}",
      r"\begin{pmatrix}10^{-30} \\ 1\end{pmatrix}",
    ),
    (
      r"\sqrt{2}",
      "1.41421356237309504880168872420969807856967187537694807317667973799",
    ),
    # letters have cases
    (r"\pi R^2", r"\pi r^2"),
    ("2M", "2m"),
    ("F = Ma", "F = mA"),
    (r"\angle ABC", r"\angle BAC"),
    (r"\sqrt{x^2}", "x"),
    # relations that the answer should have solved
    ("(2,3)", "x^2-5x+6<0"),
    ("(-2,2)", "|x|<2"),
    ("(-2,2)", "x^2 < 4"),
    (r"(3,\infty)", "2x-6>0"),
    ("x>3", "2x-6>0"),
    ("x=5", "2x=10"),
    ("x<1", "x>-1"),
    ("x+y<3", "x+y>3"),
    ("x+y<3", "-2x-2y<-6"),
    ("x^2/4+y^2/3=1", "x^2/16+y^2/12=1"),
    ("7=11a+c", "11a+c"),
    ("x=1", "y=1"),
    ("f(x)", "f(y)"),
    ("(1,2)", "(2,1)"),
    ("(3,1)", r"\{1,3\}"),
    ("D=(0,1)", "D=(0,1.5)"),
    ("[0,1)", "(0,1)"),
    (
      r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
      r"\begin{pmatrix} 1 & 2 \\ 4 & 3 \end{pmatrix}",
    ),
    # rows of a matrix are rows, whatever stands behind the two backslashes
    (
      r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
      r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}",
    ),
  ],
)
def test_different(gold, answer):
  assert not _equal(gold, answer)


@pytest.mark.parametrize(
  "text", ["5 factorial", "not 7", "17 or perhaps 18", r"\text{18 apples}"]
)
def test_words_are_no_products_of_letters(text):
  assert formulas.read(text) is None
