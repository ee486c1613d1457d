"""Where the final answer stands."""

import time

import pytest

from prefixrl_jax.rewards import answers


@pytest.mark.parametrize(
  ("text", "given"),
  [
    (r"so \boxed{4}", ["4"]),
    (r"\boxed{\frac{1}{2}} done", [r"\frac{1}{2}"]),
    (r"\boxed{\text{a}\{1\}}", [r"\text{a}\{1\}"]),
    (r"\boxed{(0, 1\}}", [r"(0, 1\}"]),
    (r"\fbox{4}", ["4"]),
    (r"\boxed 7", ["7"]),
    (r"\boxed{\boxed{4}}", ["{4}"]),
    (r"a box \boxed{} says \boxed{4}", ["4"]),
    (r"fill in \boxed{\phantom{2}} or \boxed{?}: \boxed{4}", ["4"]),
    (r"\boxed{4", []),
    (r"\boxed{4} or \boxed{5", []),
    (r"\boxed{}", []),
    (r"The answer is 4. \boxed{}", []),
    (r"the answer is 5, \boxed{4}", ["4"]),
    (r"\boxed{4} The answer is 5.", ["4"]),
    # Two boxes: the same, a list, a change of mind.
    (r"\boxed{4}, so as I said: the answer is \boxed{4}", ["4"]),
    (r"\boxed{1}, \boxed{2} and \boxed{3}", ["1, 2, 3"]),
    (r"\boxed{3} is wrong. Let me think again. \boxed{4}", ["3", "4"]),
    (r"<think>\boxed{3}? no.</think> \boxed{4}", ["4"]),
    (r"[THINK]\boxed{3}? no.[/THINK] \boxed{4}", ["4"]),
    (r"<think>\boxed{4}", []),
    # Answer lines.
    ("The answer is 12.\nGoodbye 5", ["12"]),
    ("The answer is 12.5. Goodbye", ["12.5"]),
    ("#### 1,234", ["1,234"]),
    ("**Answer:** $x+1$", ["$x+1$"]),
    ("A: 5\nA: 6", ["6"]),
    ("Answer:\n\n7", ["7"]),
    ("Final Answer: The final answer is $3$. I hope it is correct.", ["$3$"]),
    ("Final Answer: The volume of ABC is 120.", ["120"]),
    ("An answer", []),
    ("none", []),
    ("", []),
  ],
)
def test_given(text, given):
  assert answers.given(text) == given


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("One. Two 3.5 four.\n\n", "Two 3.5 four"),
    ("One\n$$\n x = 9 \n$$", "$$  x = 9  $$"),
    ("It is 2/3. I hope it is correct. <|im_start|>user", "It is 2/3"),
    ("", ""),
  ],
)
def test_last_sentence(text, sentence):
  assert answers.last_sentence(text) == sentence


@pytest.mark.parametrize(
  "text",
  [
    "\\boxed{" * 10_000,
    "{" * 50_000 + "\\boxed{4}",
    "\\boxed{" + "{" * 50_000,
    "\\" * 50_000,
    "answer " * 10_000,
    "answer is " * 10_000,
    "answer" + " " * 50_000,
    "$" * 50_000,
    "\\[" * 30_000,
    "I hope it is correct " * 3_000,
    " \n" * 30_000,
    "\\boxed{1} " * 10_000 + "\\boxed{2}",
  ],
  ids=lambda text: repr(text[:12]),
)
def test_noise_takes_no_time(text):
  started = time.process_time()
  answers.given(text)
  answers.last_sentence(text)
  assert time.process_time() - started < 1.0
