"""What --stage=problems prints."""

import dataclasses
import io
from collections import Counter

import pytest
from rich.console import Console

from prefixrl_jax.problems.showing import answer_type, show_parts
from prefixrl_jax.problems.streams import Part
from prefixrl_jax.types import Problem

_PROBLEM = Problem("a/0", "What is 1+1?", "2", "a", "train", 0)


class _Words:
  def encode_prompts(self, texts):
    return ([0, *range(len(text.split())), 0] for text in texts)

  def prompt_text(self, text):
    return f"<user> {text} <assistant>"


@pytest.mark.parametrize(
  ("answer", "metadata", "expected"),
  [
    ("-1,000", {}, "integer"),
    ("0.5", {}, "decimal"),
    (r"\frac{1}{2}", {}, "fraction"),
    (r"\frac{1}{2} + x", {}, "expression"),
    ("(3, 4)", {}, "tuple, set or interval"),
    (r"\text{east}", {}, "word"),
    ("True", {"labels": ["True", "False"]}, "True"),
    ("", {"format": "stdin"}, "stdin tests"),
    ("(1 + 2) * 8", {"target": 24}, "expression, one of many"),
    ("", {}, "judged by rule"),
  ],
)
def test_types_of_answers(answer, metadata, expected):
  problem = dataclasses.replace(_PROBLEM, answer=answer, metadata=metadata)
  assert answer_type(problem) == expected


def test_table_samples_and_what_is_wrong():
  longer = dataclasses.replace(
    _PROBLEM, id="a/1", prompt="one two three four [b]", answer="x"
  )
  parts = [
    Part(
      "a",
      "hub/a@12",
      "MIT",
      "train",
      [_PROBLEM, longer],
      Counter({"repeated": 3}),
      Counter({"no answer": 4}),
      too_long=["a/1"],
    ),
    Part("b", "b.jsonl", "", "heldout", [_PROBLEM] * 3),
  ]
  console = Console(record=True, width=120, file=io.StringIO())
  show_parts(
    console,
    parts,
    _Words(),
    seed=0,
    max_prompt_length=6,
    most=2,
    unreadable=[longer],
    num_judged=3,
  )
  lines = [" ".join(x.split()) for x in console.export_text().splitlines()]
  for line in (
    "problems, seed 0 train heldout",
    "from hub/a@12 b.jsonl",
    "license MIT not stated",
    "problems 2 3",
    "answers 1 integer, 1 word 3 integer",
    "prompt tokens, least / median / most 5 / 6 / 7 5 / 5 / 5 of 2",
    "left out 3 repeated none",
    "rows that are no problem 4 no answer none",
  ):
    assert line in lines
  text = "\n".join(lines)
  assert text.count("<user> What is 1+1? <assistant>") == 2  # three in all
  assert "one two three four [b] <assistant>" in text
  assert (
    "1 prompts are longer than config.rollouts.max_prompt_length = 6" in text
  )
  assert "answers were tried on 3 of 5 problems" in text
  assert "answers that their own verifier rejects (1): a/1 (x)." in text


def test_tests_that_stand_in_the_statement_are_counted():
  metadata = {
    "format": "stdin",
    "tests": [{"input": "3 4", "output": "7"}, {"input": "8", "output": "8"}],
    "tolerance": None,
  }
  ours = [
    dataclasses.replace(_PROBLEM, prompt=prompt, metadata=metadata)
    for prompt in ("Add: 3 4 -> 7", "Add: 3 4 -> 7, 8 -> 8")
  ]
  parts = [Part("a", "a.jsonl", "", "train", ours)]
  console = Console(record=True, width=120, file=io.StringIO())
  show_parts(
    console,
    parts,
    _Words(),
    seed=0,
    max_prompt_length=60,
    most=10,
    unreadable=[],
    num_judged=2,
  )
  text = " ".join(console.export_text().split())
  assert "answers were tried" not in text  # all were
  wanted = "tests that stand in the statement 3 of 4; all of 1 problems"
  assert wanted in text
