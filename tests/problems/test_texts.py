"""When two texts are one problem."""

import pytest

from prefixrl_jax.problems.texts import fingerprint, normalise


@pytest.mark.parametrize(
  "other",
  [
    "Find  \\(\\dfrac{1}{2} + x\\) of the\n dog\u2019s 5% .",
    r"find $ \tfrac12+x $ of the dog's 5\%",
    r"Return your answer within \boxed{}. Find \[\frac{1}{2}+x\] of the dog's"
    r" 5%.",
    "Find $\\frac 12+{x}$ of the dog's 5%.\n\nPlease reason step by step, and"
    " put your final answer within \\boxed{}.",
  ],
)
def test_spellings_of_a_problem_are_one(other):
  assert normalise(other) == normalise(r"Find $\frac{1}{2}+x$ of the dog's 5%.")


@pytest.mark.parametrize(
  ("one", "other"),
  [("1+1", "1+2"), ("x^{12}3", "x^{1}23"), (r"\leftarrow", "arrow")],
)
def test_different_problems_stay_apart(one, other):
  assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
  "other",
  ["find the sum of 1.5, 2 and 3", "Find: the sum, of $1.5$, 2, and 3!"],
)
def test_copies_have_one_fingerprint(other):
  assert fingerprint(other) == fingerprint("Find the sum of 1.5, 2, and 3.")


@pytest.mark.parametrize(
  ("one", "other"),
  [("1.5+2", "15+2"), ("2+3", "2-3"), ("7 mod 5", "7 mod 15")],
)
def test_numbers_and_signs_make_a_difference(one, other):
  assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
  "text",
  [
    "a" * 1_000_000,
    "a \\boxed" * 100_000,
    "a \\boxed{" * 100_000,
    "\\boxed{ " * 100_000 + "}",
    "\\boxed{}" * 100_000,
    "a\\boxed{}. b" * 100_000,
    ("\\boxed" + " " * 1000) * 1000,
    "\\left" * 200_000,
    "{x" * 500_000,
    "1." * 500_000,
  ],
)
def test_long_texts_end(text):
  """Each took minutes to years while one expression found the sentences."""
  assert len(fingerprint(text)) == 16


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("a. b \\boxed{} c! d", "a.d"),
    ("a\nb \\boxed{ } c\nd", "ad"),
    ("a \\boxed{} b \\boxed{} c? d", "d"),
    ("\\boxed{}", ""),
    ("a \\boxed{7} b", "a\\boxed7b"),
    ("a. \\boxed{}\n. \\boxed{}. e", "a..e"),
  ],
)
def test_only_sentences_with_an_empty_box_are_left_out(text, expected):
  assert normalise(text) == expected
