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
    "Answer: True",
    "**Answer:** TRUE.",
    "Some are not blue.\nThe answer is: True",
    "If it were False, we could tell. The conclusion is true.",
    "<think>False? Unknown?</think>True",
    r"\boxed{True}, and once more: the answer, finally, is \boxed{True}",
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
