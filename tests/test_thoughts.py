"""Where thoughts end, however a family of models marks them."""

import pytest

from prefixrl_jax.thoughts import Split, split, without_thoughts

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
