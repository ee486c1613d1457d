r"""One value in many spellings, and other values that look like it."""

import pytest

from prefixrl_jax.rewards import math

_SAME = [
  # How it is set.
  ("5", r"\Large 5"),
  ("5", r"{\bf 5}"),
  ("5", r"\boldsymbol{5}"),
  ("5", r"\color{red}{5}"),
  ("5", r"\textcolor{red}{5}"),
  ("5", r"\underline{5}"),
  ("5", "5\\ "),
  ("5", r"5\ \checkmark"),
  ("C", "**C**"),
  ("C", r"\texttt{C}"),
  # Roots, fractions, periods, powers of ten.
  (r"\sqrt{2}", "√2"),
  (r"\sqrt{x+1}", "√(x+1)"),
  (r"\sqrt[3]{2}", r"\sqrt[3]2"),
  ("0.5", "½"),
  ("3.5", "3½"),
  ("0.5", r"1\over2"),
  (r"\frac{x}{2}", r"{x \over 2}"),
  ("1/2", r"1\div2"),
  (r"\frac13", r"0.\overline3"),
  (r"\frac13", r"0.\bar{3}"),
  (r"\frac16", r"0.1\dot{6}"),
  ("3e8", "3x10^8"),
  (r"12\pi", "12 pi"),
  ("3:4", r"3\colon4"),
  (r"\emptyset", r"\varnothing"),
  # Units and places.
  ("10", r"10\ \Omega"),
  ("10", "10 Ω"),
  ("10", r"10\,\mu\text{m}"),
  (r"30^\circ", "30 degrees"),
  ("100", "100 people"),
  ("10", r"\pounds 10"),
  ("10", r"\textdollar10"),
  ("10", r"\text{€}10"),
  ("10", r"\text{Rs. }10"),
  ("2", r"2\text{ years old}"),
  ("5", "5th"),
  ("5th", "5"),
  ("5", r"5^{\text{th}}"),
  ("3 hours and 20 minutes", r"3\text{ hours and }20\text{ minutes}"),
  # Options and bases.
  ("C", "Option C"),
  ("C", r"\text{choice C}"),
  ("(C) 12", "C"),
  ("C. 12", "(C)"),
  ("101_2", r"101_{\text{two}}"),
  (r"x \neq \pm 1", r"x\ne\pm1"),
  (r"\langle 1, 2\rangle", "(1,2)"),
  (r"\text{16 cm}", "16"),
  (r"\frac{1}{1{,}000}", "0.001"),
  # Subscripts.
  ("x_1", "x_{1}"),
  ("k_B", r"k_{\mathrm{B}}"),
  (r"x_{\max}", r"x_{\text{max}}"),
  (r"I_{\max} = \frac{q}{\sqrt{2LC}}", r"\frac{q}{\sqrt{2CL}}"),
  (r"n_{\gamma}(\nu) = AR_{\odot}", r"n_\gamma(\nu) = R_\odot A"),
  ("FF_{16}", "FF"),
  # Words.
  ("7", "seven"),
  ("seven", "7"),
  ("21", r"\text{twenty-one}"),
  ("7 apples", "seven"),
  ("3:4", "3 to 4"),
  ("3:4", r"3\text{ to }4"),
  (r"3\text{ to }4", "3:4"),
  # As programs write it.
  ("x^2", "x**2"),
  ("x^{10}", "x**10"),
  (r"\sqrt{2}", "2**(1/2)"),
  ("x^{-1}", "x^-1"),
  ("e^{2x}", "exp(2x)"),
  (r"\frac{\pi}{4}", "pi/4"),
  # Values of functions of angles, roots, constants of integration.
  (r"\sin 30^\circ", r"\frac12"),
  (r"\tan{45^{\circ}}", "1"),
  (r"2\cos 60^\circ", "1"),
  ("x^{2/3}", r"\sqrt[3]{x^2}"),
  ("x^2+C", "x^2 + c"),
  # Decimal commas, money in formulas.
  ("2.74", r"2,74\ \$"),
  ("5", r"\$5.00"),
]
_OTHERS = [
  ("5", r"x\not=5"),
  ("5", "x=/=5"),
  ("3", "2=3"),
  ("3", "x=2=3"),
  (r"\sqrt{2}", r"2=\sqrt{2}"),
  ("5", "5_6"),
  ("101", "101_2"),
  ("101_2", r"101_{\text{three}}"),
  (r"\Gamma", r"\gamma"),
  (r"\Lambda x", r"\lambda x"),
  ("5", "5 per mille"),
  ("5", "5 basis points"),
  ("5", "5 and a half"),
  ("5", "5 more than x"),
  ("5", "all but 5"),
  ("5", "the opposite of 5"),
  ("5", "the reciprocal of 5"),
  ("5", "5 subtracted from ten"),
  ("5", "5th root"),
  ("5", "3½"),
  ("5", "˗5"),
  ("C", "Option C or D"),
  ("C", "Option D"),
  ("C", "option c"),
  ("I_1", "I_2"),
  ("I_1", "i"),
  ("2IR", "2iR"),
  ("x_1", "x"),
  (r"x_{\max}", "x"),
  (r"x_{\max}", r"x_{\min}"),
  ("7", "seven or eight"),
  ("0", r"\text{zero or one}"),
  ("34", r"3\text{ }4"),
  ("60", r"60 \pm 0"),
  ("60", "12 5"),
  ("60", "60.0 1"),
  ("0.00001", r"10^{-5}1"),
  ("7", "seven and a half"),
  ("7", "seventy"),
  ("0.07", "seven hundredths"),
  (r"\frac{3}{4}", "3 to 4"),
  ("3:4", "4 to 3"),
  ("1", "x/x"),
  (r"\frac12", r"\frac{x}{2x}"),
  (r"\sin 30^\circ", r"\sin 30"),
  ("x", r"\sqrt{x^2}"),
  ("x^2+C", "x^2"),
  ("cx+C", "cx+c"),
  ("60", "2 = 60"),
  (r"\frac{10}{9}", r"\frac12 \$ = \frac{10}{9}"),
]


@pytest.mark.parametrize(("gold", "answer"), _SAME)
def test_one_value_in_many_spellings(gold, answer):
  assert _is_right(gold, rf"\boxed{{{answer}}}")


@pytest.mark.parametrize(("gold", "answer"), _OTHERS)
def test_other_values_that_look_alike(gold, answer):
  assert not _is_right(gold, rf"\boxed{{{answer}}}")


@pytest.mark.parametrize(
  ("gold", "answer", "right"),
  [
    (r"\$50", r"50 \text{ cents}", False),
    (r"\$50", "50¢", False),
    (r"\$50", "€50", False),
    (r"\$0.50", "50 cents", True),
    ("50 cents", r"\$0.50", True),
    (r"50\text{ m}", r"50\text{ cm}", False),
    (r"2\text{ m}", r"200\text{ cm}", True),
    (r"50 \text{ cm}^2", r"50 \text{ m}^2", False),
    (r"\frac{1}{2}\text{ hour}", r"\frac12\text{ minute}", False),
    (r"18\pi\text{ cm}", r"18\pi\text{ m}", False),
    (r"18\pi\text{ cm}", r"18\pi", True),
    ("18", r"\$18", True),
    ("18", "18$", True),
    ("18", "$18$", True),
  ],
)
def test_units_of_another_size_are_another_value(gold, answer, right):
  assert _is_right(gold, rf"\boxed{{{answer}}}") == right


def test_money_is_counted_as_the_problem_counts_it():
  statement = r"A pen costs \$3 and a clip half of that. How much is it?"
  assert _is_right("1.5", r"\boxed{150 cents}", statement)
  assert not _is_right("150", r"\boxed{150 cents}", statement)


def test_a_base_counts_where_it_is_asked_for():
  for statement in ("Write it in base 2.", "In base two", "As a binary number"):
    assert _is_right("101", r"\boxed{101_2}", statement)
  assert not _is_right("101", r"\boxed{101_2}", "Write it in base 3.")


@pytest.mark.parametrize(
  "said",
  [
    "-$5$",
    "−$5$",
    "– $5$",
    "negative $5$",
    "the opposite of $5$",
    "$5$ squared",
    "$5$ factorial",
    "$5$²",
    "twice $5$",
    "less than $5$",
    "$5$ less than ten",
    "√$5$",
    "$5$ below zero",
    "$5$ dozen",
    "the reciprocal of 5",
    "!= 5",
    "Step 5",
    "See equation 5",
  ],
)
def test_what_stands_beside_a_formula_may_change_it(said):
  for sentence in ("The value is {}.", "Hence x = {}.", "So we get {}"):
    assert not _is_right("5", sentence.format(said))


@pytest.mark.parametrize(
  "text",
  [
    "The number of ways is $5$.",
    "Adding up, $x = 2 + 3 = 5$ as needed.",
    "So she has $5$ left over.",
    "This gives $n = 5$, but only for positive n.",
    "Since x is not zero, x = \\boxed{5}.",
    "It is not hard to see that the answer is \\boxed{5}.",
    "x is \\boxed{5}, not 4.",
    "The answer is not 4 but \\boxed{5}.",
    "The answer is 5, since that is what is left.",
    "< answer >5</ answer >",
    "<answer>**5**</answer>",
    "<answer>`5`</answer>",
    "So she needs 5 more apples.",
    "So he is $5 short.",
    "They walk 5 miles south.",
    "She left 5 days before.",
    "So she has 5 pairs.",
  ],
)
def test_what_stands_beside_an_answer_may_leave_it(text):
  assert _is_right("5", text)


@pytest.mark.parametrize(
  "text",
  [
    "It is not the case that the answer is 7.",
    "It isn't true that the answer is \\boxed{7}.",
    "I doubt that the answer is \\boxed{7}.",
    "I doubt that it is \\boxed{7}.",
    "I doubt \\boxed{7}.",
    "The answer is not \\boxed{7}.",
    "The answer isn't $\\boxed{7}$.",
    "\\boxed{7} is wrong.",
    "$\\boxed{7}$ is not the answer.",
    "The answer is not <answer>7</answer>",
    "<answer>7</answer> is wrong.",
    "Is the answer \\boxed{7}?",
    "The answer is 7?",
    "Answer: 7? No.",
    "Nobody gets 7.",
  ],
)
def test_an_answer_that_is_denied_or_asked_for_is_none(text):
  assert not _is_right("7", text)


@pytest.mark.parametrize(
  "text",
  [
    "You would think it is 7.",
    "It seems to be 7 at first.",
    "At first glance it is 7.",
    "One might guess 7.",
    "It could be 7.",
    "The answer may well be 7.",
    "It might be 7.",
    "Perhaps it is 7.",
    "I guess it's 7.",
    "Suppose it is 7.",
    "If x were even, it would be 7.",
    "A careless reader gets 7.",
    "You might think the answer is 7.",
    r"A student in a hurry would say \boxed{7}.",
    r"\boxed{7} is what many people would say.",
    "Some would say <answer>7</answer>.",
  ],
)
def test_a_guess_and_what_others_say_are_no_answer(text):
  assert not _is_right("7", text)


@pytest.mark.parametrize(
  "text",
  [
    "The answer is 7. No, wait, that is wrong.",
    "The answer is 7. Actually it is 8.",
    "Answer: 7\nJust kidding, it is 8.",
    r"\boxed{7}. No, that's wrong.",
    r"$\boxed{7}$. Actually, it is 8.",
    "<answer>7</answer> Wait, I forgot one.",
  ],
)
def test_an_answer_that_the_next_sentence_takes_back_is_none(text):
  assert not _is_right("7", text)


@pytest.mark.parametrize(
  "text",
  [
    r"-\boxed{7}",
    r"$x = - \boxed{7}$",
    r"$x = -(\boxed{7})$",
    r"2\boxed{7}",
    r"\boxed{7}8",
    r"\boxed{7},000",
    r"\boxed{7}.5",
    r"\boxed{7}x",
    r"\boxed{7}+1",
    r"$\boxed{7} + C$",
    r"\[x = 8 - \boxed{7}\]",
    r"$\boxed{7}^2$",
    r"$\boxed{7}!$",
    r"$\boxed{7}\sqrt{2}$",
    r"$\boxed{7} \cdot 3$",
    r"$\frac{\boxed{7}}{2}$",
    r"$\frac{1}{\boxed{7}}$",
    r"$\sqrt{\boxed{7}}$",
    r"$x \neq \boxed{7}$",
    r"$x > \boxed{7}$",
    r"negative \boxed{7}",
  ],
)
def test_a_box_that_is_a_part_of_a_formula_is_no_answer(text):
  assert not _is_right("7", text)


@pytest.mark.parametrize(
  "text",
  [
    r"$x = \boxed{7}$",
    r"- \boxed{7}",
    r"* the answer - \boxed{7}",
    r"**\boxed{7}**",
    r"$\boxed{7}^\circ$",
    r"$\boxed{7}\%$",
    r"$\boxed{7}\text{ cm}$, or so they say",
    r"$\boxed{7} = 3 + 4$",
    r"$129 \equiv \boxed{7} \pmod{11}.$",
    r"\boxed{7}! Hooray!",
    r"$\Rightarrow\boxed{7}$",
    r"One might say 8, but it is \boxed{7}.",
    r"$a + b \ge \boxed{7}$",
    "Hooray! The answer is 7.",
    "The answer is $7$!",
    "**So it is 7.**",
    "The number of people who might come is 7.",
    "She would have 7 left.",
  ],
)
def test_a_box_beside_which_nothing_counts(text):
  assert _is_right("7", text)


def test_a_number_with_an_exclamation_mark_is_a_factorial():
  assert not _is_right("5", "The answer is 5!")
  assert not _is_right("120", "The answer is 5!")  # it is not worked out
  assert _is_right("5!", "The answer is 5!")
  assert not _is_right("n", "The answer is n!")


def test_what_trails_off_is_no_answer():
  assert not _is_right("7", "The answer is 7...")
  assert not _is_right("7", "Answer: ~7")


def _is_right(gold, text, statement=""):
  """Judges in this process."""
  found = math.final_answers(text)
  return bool(found) and all(math._work((gold, a, statement)) for a in found)
