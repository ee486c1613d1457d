"""One label, said and not denied."""

import json
import pathlib

import pytest

from prefixrl_jax.rewards.logic import LogicVerifier, extract_label
from prefixrl_jax.types import Problem, UserError

_FOLIO = (
  pathlib.Path(__file__).parents[3] / "shared/data/folio/validation.jsonl"
)
_THREE = ["True", "False", "Unknown"]


def _reward(text, *, gold="True", labels=_THREE):
  problem = Problem("p", "?", gold, "", "train", 0, {"labels": labels})
  (verdict,) = LogicVerifier().judge([problem], [text])
  return verdict.reward


@pytest.mark.parametrize(
  "text",
  [
    r"so \boxed{True}",
    r"\boxed{\text{true}}",
    r"\boxed{\Large True}",
    "The answer is True ✓",
    "True for sure.",
    "For certain it is True.",
    r"\boxed{\text{The label is }\text{True}}",
    "<answer>definitely True</answer>",
    r"\boxed{necessarily true}",
    r"\boxed{True because cats bark}",
    "Answer: True",
    "**Answer:** TRUE.",
    "Some are not blue.\nThe answer is: True",
    "If it were False, we could tell. The conclusion is true.",
    "<think>False? Unknown?</think>True",
    r"\boxed{True}, and once more: the answer, finally, is \boxed{True}",
    r"Answer: $\mathbf{True}$",
    r"**Final answer:** \(\text{True}\).",
    "Answer: 'True'",
    "Answer: True!",
    "Answer: The conclusion is True.",
    "Answer: True, all premises hold.",
    "Answer: True and True",
    "Since no cat barks, the answer is True.",
    "No cat barks, so the answer is True.",
    "It does not follow that Tom barks. Hence, the conclusion is true.",
    'The statement "Tom is not a cat" is True',
    "It's true.",
    "Not all cats bark; therefore it is true.",
    "We reason.\n\\[\n\\boxed{True}\n\\]",
    r"Tom is not a cat. So it must be \boxed{True}, since no cat barks.",
    "Answer: True\nNo cat barks, after all.",
    "<think>It is not \\boxed{True}.</think>Answer: True",
  ],
)
def test_says_the_label(text):
  assert _reward(text) == 1
  assert _reward(text, gold="False") == 0
  assert _reward(text, gold="Unknown") == 0


@pytest.mark.parametrize("gold", _THREE)
@pytest.mark.parametrize(
  "text",
  [
    "",
    "I do not know.",
    "True or Unknown",
    "True, False, Unknown",
    "True False Unknown",
    "Answer: True/False",
    "Answer: True or Unknown",
    "Answer: not True",
    "Answer: it isn't False",
    "Answer: neither True",
    r"\boxed{\text{True or False}}",
    r"\boxed{True} \boxed{False}",
    r"\boxed{True}, \boxed{False}, \boxed{Unknown}",
    r"\boxed{True} is what it looks like, but then it could be \boxed{Unknown}",
    r"\boxed{\neg True} or \boxed{Unknown}",
    r"\boxed{}",
    r"\boxed{True",
    "The conclusion is true, false or uncertain.",
    "The answer is x where x is the gold answer.",
    "Untrue truefalse",
    "True " * 10_000 + "False",
    "True, " * 10_000,
    "True.\n" + "no label " * 5000,
  ],
)
def test_hedging_is_wrong(text, gold):
  if text == "True, " * 10_000:
    gold = "Unknown"  # one label, however often, is that label
  assert _reward(text, gold=gold) == 0


@pytest.mark.parametrize(
  "answer",
  [
    *(r"in\text{}True", "in{}True", r"\text{in}True", "in**True**", "in{True}"),
    *("¬True", "¬ True", "~True", "~ True", "!True", "-True", "−True", "∼True"),
    *(r"\neg True", r"\lnot\text{True}", r"\sim True", r"\not True"),
    *(r"\overline{True}", r"\bar{True}", r"\cancel{\text{True}}"),
    *("True'", "True^c", "~~True~~", "<del>True</del>", "≠ True", "T̶r̶u̶e̶"),
    *(
      "not True",
      "isn't true",
      "it isn't true",
      "can't be True",
      "cannot be true",
    ),
    *(
      "never True",
      "neither",
      "neither True",
      "nor True",
      "no",
      "none",
      "un-true",
    ),
    *("untrue", "non-true", "hardly True", "barely true", "scarcely True"),
    *(
      "anything but True",
      "far from true",
      "the opposite of True",
      "all but true",
    ),
    *(
      "True is wrong",
      "True is not right",
      "True? No",
      "True?",
      "True (wrong)",
    ),
    *("True, or not", "True, perhaps", "True - just kidding", "True: no"),
    *("maybe True", "probably True", "possibly true", "could be True"),
    *("it is doubtful that it is True", "nobody says True", "True unless"),
    *("half True", "True-ish", "truer", "partly true", "less than True"),
  ],
)
def test_what_turns_a_label_round_is_no_answer(answer):
  texts = (answer, f"Answer: {answer}", f"The answer is {answer}.")
  for text in (*texts, rf"\boxed{{{answer}}}", f"The conclusion is {answer}."):
    for gold in _THREE:
      assert _reward(text, gold=gold) == 0, text


@pytest.mark.parametrize(
  "text",
  [
    r"It is not \boxed{True}.",
    r"un\boxed{True}",
    r"not-\boxed{True}",
    r"\boxed{True}ish",
    r"Most would say \boxed{True}.",
    "It isn't\n\\[\\boxed{True}\\]",
    r"$\neg\boxed{True}$",
    r"¬\boxed{\text{True}}",
    r"\lnot \boxed{True}",
    r"Hardly \boxed{True}, I would say.",
    r"It is anything but \boxed{True}",
    r"\boxed{True} is wrong.",
    r"\boxed{True} is not the answer",
    r"\boxed{True}? No.",
    r"\boxed{True}. No, wait.",
    r"It is false that the conclusion is \boxed{True}",
    "Wrong answer: True",
    "I doubt that the answer is True.",
    "I don't think the answer is True.",
    "Nobody says that the answer is True",
    "It cannot be that, given the premises, the answer is True.",
    "Answer: True? No.",
    "Answer: True. Wrong!",
    "Answer: True\nWait, that is not right.",
    "Is the conclusion true?",
    "It is doubtful whether the conclusion is true.",
    "It is not the case" + ", really" * 500 + ", that the answer is True.",
  ],
)
def test_a_sentence_that_denies_its_answer_has_none(text):
  for gold in _THREE:
    assert _reward(text, gold=gold) == 0


def test_letters_stand_alone_or_before_what_they_are_for():
  letters = list("ABCD")
  for text in (
    "(B)",
    r"\boxed{\textbf{(B)}\ 4}",
    "Answer: B. a cat",
    "The answer is B: two dogs",
  ):
    assert _reward(text, gold="B", labels=letters) == 1, text
  for text in (
    *("Answer: not B", "Answer: ¬B", "Answer: B is wrong", "Answer: B or not"),
    *("Answer: B) or C)", r"\boxed{\overline{B}}", "Answer: B'", "vitamin B"),
  ):
    assert _reward(text, gold="B", labels=letters) == 0, text


@pytest.mark.parametrize(
  "part",
  ["since ", "not, so ", "truer.\n", "¬", "'", '"a b', "(", "\\["],
)
def test_long_texts_are_read_to_their_end(part):
  """Time in proportion to the length: in its square this takes hours."""
  many = part * 50_000
  assert _reward(f"{many}\nAnswer: True") == 1
  assert _reward(f"{many} \\boxed{{True}}, \\boxed{{False}}") == 0
  assert _reward(f"\\boxed{{True}} is not what {many}") == 0


def test_uncertain_is_unknown():
  assert _reward("Answer: Uncertain", gold="Unknown") == 1
  assert _reward("Answer: Unknown", gold="Uncertain") == 1
  assert _reward("Answer: Unknown or Uncertain", gold="Unknown") == 1


def test_other_labels():
  two = ["True", "False"]
  assert _reward("Answer: False", gold="False", labels=two) == 1
  assert _reward("Answer: Unknown", gold="False", labels=two) == 0
  letters = list("ABCD")
  for text in (
    "Answer: B",
    r"\boxed{B}",
    "The answer is (B).",
    "Answer: B) a cat",
  ):
    assert _reward(text, gold="B", labels=letters) == 1
  for text in (
    "Answer: A or B",
    "A B C D",
    "Answer: b",
    "Answer: ABCD",
    "A cat",
  ):
    assert _reward(text, gold="B", labels=letters) == 0
  assert extract_label("Answer: E", letters) is None


def test_a_gold_answer_that_is_no_label_is_named():
  with pytest.raises(UserError, match=r"Problem p.*'Maybe'.*True, False"):
    _reward("Answer: True", gold="Maybe")


def test_folio():
  if not _FOLIO.exists():
    pytest.skip(f"{_FOLIO} is absent")
  rows = [json.loads(line) for line in _FOLIO.read_text().splitlines()]
  golds = [row["answer"] for row in rows]
  assert {"True", "False", "Uncertain"} == set(golds)
  for gold in golds:
    assert _reward(f"We reason.\nAnswer: {gold}", gold=gold) == 1
  # The conclusion repeated is no label.
  assert sum(_reward(r["conclusion"], gold=r["answer"]) for r in rows) == 0


def test_two_labels_far_apart_are_no_answer():
  for first, second in (("True", "False"), ("False", "True")):
    text = rf"\boxed{{{first}}} {'and so on, ' * 20} \boxed{{{second}}}"
    assert extract_label(text, _THREE) is None
