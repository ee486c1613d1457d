"""Where thoughts end, however a family of models marks them."""

import pytest

from prefixrl_jax.text.thoughts import (
  Split,
  marks_of_model,
  respelled,
  split,
  without_thoughts,
)

_HARMONY = "<|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
  "text",
  [
    "<think>mull</think>say",
    "mull</think>say",  # the prompt opened it
    "<THINK>mull</THINK>say",
    "<thinking>mull</thinking>say",
    "<thought>mull</thought>say",
    "<reasoning>mull</reasoning>say",
    "<seed:think>mull</seed:think>say",
    "[THINK]mull[/THINK]say",
    "◁think▷mull◁/think▷say",
    "<|begin_of_thought|>mull<|end_of_thought|>"
    "<|begin_of_solution|>say<|end_of_solution|>",
    "<|START_THINKING|>mull<|END_THINKING|>"
    "<|START_RESPONSE|>say<|END_RESPONSE|>",
    f"<|channel|>analysis<|message|>mull<|end|>{_HARMONY}say<|return|>",
    f"mull<|end|>{_HARMONY}say<|return|>",
    "<|channel|>analysis<|message|>mull<|channel|>final json<|message|>say",
  ],
)
def test_splits(text):
  assert split(text) == Split("mull", "say")


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("say", Split(None, "say")),
    ("", Split(None, "")),
    ("<think>mull", Split("mull", "", is_open=True)),
    ("say<think>mull", Split("mull", "say", is_open=True)),
    ("<think>a</think>b<think>c</think>d", Split("a</think>b<think>c", "d")),
    ("<think>a</think>b<think>c", Split("a\nc", "b", is_open=True)),
    # Channels that are no final one are thoughts, whatever lies between.
    (
      "<|channel|>analysis<|message|>a<|end|><|start|>assistant"
      f"<|channel|>commentary<|message|>b<|end|>{_HARMONY}c",
      Split("a<|end|><|start|>assistant<|channel|>commentary<|message|>b", "c"),
    ),
  ],
)
def test_what_is_not_ended_in_order(text, expected):
  assert split(text) == expected


@pytest.mark.parametrize(
  "mark",
  ["<think>", "</think>", "<|channel|>final", "<|end|>", "<", "[THINK"],
)
def test_a_million_characters_are_one_pass(mark):
  text = mark * (1_000_000 // len(mark))
  assert len(without_thoughts(text + "say")) <= len(text) + 3


_THINK, _OTHER = ("<think>", "</think>"), ("[THINK]", "[/THINK]")


@pytest.mark.parametrize(
  ("controls", "template", "expected"),
  [
    ((), "", _THINK),
    (_OTHER, "", _OTHER),
    ((*_OTHER, *_THINK), "", _THINK),
    # Of several that are tokens the template's own; and tokens before words.
    ((*_OTHER, *_THINK), "[THINK] [/THINK]", _OTHER),
    (_OTHER, "<think> </think>", _OTHER),
    (
      (),
      "<|begin_of_thought|><|end_of_thought|>",
      ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ),
    (("<think>",), "[THINK][/THINK]", _OTHER),
    (("◁think▷", "◁/think▷"), "", ("◁think▷", "◁/think▷")),
  ],
)
def test_how_a_model_marks_its_thoughts(controls, template, expected):
  assert marks_of_model(controls, template) == expected


@pytest.mark.parametrize(
  "text",
  [
    "<think>mull</think>say",
    "[THINK]mull[/THINK]say",
    "◁think▷mull◁/think▷say",
    "<|begin_of_thought|>mull<|end_of_thought|>"
    "<|begin_of_solution|>say<|end_of_solution|>",
    f"<|channel|>analysis<|message|>mull<|end|>{_HARMONY}say<|return|>",
  ],
)
@pytest.mark.parametrize("marks", [_THINK, _OTHER])
def test_any_marks_become_the_models_own(text, marks):
  assert respelled(text, marks) == ["", marks[0], "mull", marks[1], "say"]
  # The prompt has begun them already.
  assert respelled(text, marks, begun=True) == ["mull", marks[1], "say"]


@pytest.mark.parametrize(
  ("text", "begun", "expected"),
  [
    ("say", False, ["say"]),
    ("say", True, ["", "</think>", "\n\nsay"]),
    ("", False, [""]),
    (
      "mull\n</think>\n\nsay",
      False,
      ["", "<think>", "\nmull\n", "</think>", "\n\nsay"],
    ),
    ("mull\n</think>\n\nsay", True, ["mull\n", "</think>", "\n\nsay"]),
    ("<think>\nmull\n</think>\n\nsay", True, ["mull\n", "</think>", "\n\nsay"]),
    (
      "<think>\nmull</think>\nsay",
      False,
      ["", "<think>", "\nmull", "</think>", "\nsay"],
    ),
    (
      "<think>a</think>b<think>c</think>d",
      False,
      ["", "<think>", "a", "</think>", "b", "<think>", "c", "</think>", "d"],
    ),
    (
      "<think><think>a</think>b",
      False,
      ["", "<think>", "\na", "</think>", "b"],
    ),
    (
      "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>"
      f"commentary<|message|>b<|end|>{_HARMONY}c<|return|>",
      False,
      ["", "<think>", "a\nb", "</think>", "c"],
    ),
  ],
)
def test_thoughts_are_begun_once_and_ended(text, begun, expected):
  assert respelled(text, _THINK, begun=begun) == expected


def test_what_stands_around_an_answer_stays_with_those_who_write_it():
  own = ("<|begin_of_thought|>", "<|end_of_thought|>")
  answer = "<|begin_of_solution|>b<|end_of_solution|>"
  text = f"{own[0]}a{own[1]}{answer}"
  assert respelled(text, own) == ["", own[0], "a", own[1], answer]
