"""Numbers as people write them."""

from fractions import Fraction

import pytest

from prefixrl_jax.rewards import numbers


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("18", 18),
    ("-3", -3),
    ("1,234,567", 1234567),
    ("1 000", 1000),
    (".5", Fraction(1, 2)),
    ("0.10", Fraction(1, 10)),
    (r"16.\overline{6}", Fraction(50, 3)),
    (r"0.1\overline{36}", Fraction(3, 22)),
    ("3/4", Fraction(3, 4)),
    (r"-\frac{3}{4}", Fraction(-3, 4)),
    (r"\frac{-3}{4}", Fraction(-3, 4)),
    (r"\dfrac12", Fraction(1, 2)),
    (r"1\frac{1}{10}", Fraction(11, 10)),
    ("1 1/2", Fraction(3, 2)),
    ("12 cm", 12),
    ("12cm^2", 12),
    ("1,000.99m²", Fraction(100099, 100)),
    ("18 dollars per day", 18),
    (r"90^\circ", 90),
    (r"90^{\circ}", 90),
    ("90 degrees", 90),
    ("€5", 5),
  ],
)
def test_reads(text, value):
  assert numbers.read(text).value == value


@pytest.mark.parametrize(
  "text",
  [
    *("", "x", "18x", "4t", "1,23", "1, 2", "18 or 17", "17 and 18", "2 pi"),
    *("3 thousand", "1/0", r"\frac123", "2^3", "3+4", "18!", "12:00", "1.2.3"),
    *("18 not 17", "5 17", "18 plus two", "--", "1/2/3", "9" * 5000, "204_5"),
  ],
)
def test_does_not_read(text):
  assert numbers.read(text) is None


def test_percent_is_a_hundredth_or_the_number():
  percent, plain = numbers.read(r"28\%"), numbers.read("28")
  assert percent.equals(plain)
  assert plain.equals(percent)
  assert percent.equals(numbers.read("0.28"))
  assert numbers.read("28 percent").equals(percent)
  assert not percent.equals(numbers.read("2800"))
  assert not percent.equals(numbers.read("0.28%"))
  assert not plain.equals(numbers.read("0.28"))


def test_only_one():
  assert numbers.only_one("so $1,234 remain") == "1,234"
  assert numbers.only_one("it takes 3/4 of an hour") == "3/4"
  for text in ("3 and 4", "none", "2x apples", "x_2 or 5", "10^3"):
    assert numbers.only_one(text) is None
