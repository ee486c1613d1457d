"""Where the final answer stands."""

import pytest
from watching import ends

from prefixrl_jax.rewards import answers, surroundings


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
    # Tags.
    ("<answer>12</answer>", ["12"]),
    ("so\n<answer>\n x+1 \n</answer>", ["x+1"]),
    ("<Answer>12</Answer> <answer>13</answer>", ["12", "13"]),
    (r"<answer>The answer is \(12\).</answer>", [r"\(12\)"]),
    (r"<answer>so \boxed{12}</answer>", ["12"]),
    (r"\boxed{13} <answer>12</answer>", ["12", "13"]),
    ("The answer is 13. <answer>12</answer>", ["12"]),
    ("in <answer> tags: <answer>12</answer>", ["12"]),
    ("<answer>12", []),
    ("<answer>12</answer> <answer>13", []),
    ("<answer></answer>", []),
    ("<think><answer>13</answer></think><answer>12</answer>", ["12"]),
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
    ("Is it 7?", ""),
    ("**Is it 7?**", ""),
    ("So\n$$\nx = 9.\n$$", "$$ x = 9 $$"),
    ("We get \\[ x = 9. \\]", "We get \\[ x = 9 \\]"),
  ],
)
def test_last_sentence(text, sentence):
  assert answers.last_sentence(text) == sentence


@pytest.mark.parametrize(
  ("sentence", "denied"),
  [
    ("It cannot be 7", True),
    ("It is not 7", True),
    ("It isn't 7", True),
    ("It is never 7", True),
    ("rather than 8 it is 7", False),  # the other number is what is denied
    ("rather than 7", True),
    ("instead of 7", True),
    ("It is not the case that x is 7", True),
    ("7 is wrong", True),
    ("7 cannot be it", True),
    ("It is not 10 but 7", False),
    ("It is 7", False),
    ("There are notes for 7", False),
  ],
)
def test_what_is_denied(sentence, denied):
  assert surroundings.is_denied(sentence, "7") == denied


class _Reads(str):
  """A text that counts the characters which are taken out of it."""

  taken = 0

  def __getitem__(self, key):
    part = str.__getitem__(self, key)
    _Reads.taken += len(part)
    return part


def test_nested_boxes_are_cut_out_once():
  text = _Reads("\\boxed{" * 2000 + "4" + "}" * 2000)
  _Reads.taken = 0
  ((start, end, content),) = answers._boxes(text)
  assert (start, end) == (0, len(text))
  assert content.strip("{}") == "4"
  assert _Reads.taken < 2 * len(text)


@pytest.mark.parametrize(
  "piece",
  [
    *(
      "\\boxed{",
      "{",
      "}",
      "\\",
      "answer ",
      "answer is ",
      " ",
      "$",
      "\\[",
      "$$",
    ),
    *("I hope it is correct ", " \n", "\\boxed{1} ", "<answer>", "</answer>"),
    *("<think>", "is ", "not ", "####", "A:\n", "\\boxed{}", "\\boxed 1", "."),
    *("<answer></answer>", "<answer>1</answer> ", "\\text{", "{,}", "1 ", "-"),
  ],
)
def test_noise_of_any_length_is_done_with(piece):
  """What is quadratic would take many minutes."""
  text = piece * (200_000 // len(piece))
  noise = f"The answer is {text} \\boxed{{{text}}}"
  with ends():
    answers.given(noise)
    answers.last_sentence(noise)


def test_many_boxes_and_deep_ones_are_done_with():
  many = "".join(f"\\boxed{{{i}}}, " for i in range(100_000))
  assert answers.given(many)[0].count(",") == 99_999
  deep = "\\boxed{" * 100_000 + "4" + "}" * 100_000
  assert answers.given(deep)[0].strip("{}") == "4"


def test_a_sentence_that_begins_before_what_is_looked_at_is_none():
  words = "and so on " * 200
  assert not answers.last_sentence(f"It is not true {words} it is 7.")
  assert answers.last_sentence(f"It is true {words}. So it is 7.") == (
    "So it is 7"
  )
  assert answers.last_sentence(f"It is true {words}\nSo it is 7.") == (
    "So it is 7"
  )


@pytest.mark.parametrize(
  "text",
  [
    "The answer is 7. Wait, that is not right.",
    "The answer is 7.\nNo, wait.",
    r"\boxed{7}. No, wait.",
    r"\boxed{7}. Actually, it is 8.",
    "<answer>7</answer>. Wait, no.",
    r"It is not \boxed{7}",
    r"It isn't \boxed{7}.",
    "never <answer>7</answer>",
  ],
)
def test_an_answer_that_is_taken_back_or_denied_is_none(text):
  assert answers.given(text) == []
