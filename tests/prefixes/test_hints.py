"""Hints: a trace's beginning in the user's turn, by hand."""

import json
import types

import numpy as np
import pytest
import tokenizers
from etils import epath

from prefixrl_jax.configs import countdown, demo, math
from prefixrl_jax.embedded.tasks import TASKS
from prefixrl_jax.prefixes.hints import hint_text, hinter, takes_hints
from prefixrl_jax.problems.reading import Getter
from prefixrl_jax.problems.sources import SOURCES
from prefixrl_jax.run import provenance
from prefixrl_jax.run.inputs import own_tokenizer
from prefixrl_jax.text.tokenizer import load_tokenizer
from prefixrl_jax.types import Problem, UserError


def _problem(prompt):
  return Problem("p7", prompt, "72", "gsm8k", "train", 7, {"text": "short"})


def _section(**fields):
  config = math.get_config("task=gsm8k")
  config.problems.update(
    {"hint": "{prompt} HINT {hint} END", "instruction": " Go."} | fields
  )
  return config.problems


def _hinted(prompt, text, **fields):
  return hinter(_section(**fields))(_problem(prompt), text).prompt


# -- in words ------------------------------------------------------------------


def test_the_hint_stands_between_problem_and_instruction():
  assert (
    _hinted("How many clips? Go.", "She sold 48")
    == "How many clips? HINT She sold 48 END Go."
  )


def test_nothing_else_of_the_problem_changes():
  problem = _problem("How many clips? Go.")
  changed = hinter(_section())(problem, "She sold 48")
  assert {**vars(changed), "prompt": ""} == {**vars(problem), "prompt": ""}


@pytest.mark.parametrize("hint", ["", " \n"])
def test_without_a_hint_it_is_the_problem_itself(hint):
  problem = _problem("How many clips? Go.")
  assert hinter(_section())(problem, hint) == problem


def test_braces_are_only_the_template_s():
  """Neither a problem's, nor a hint's, nor TeX's in the template."""
  assert (
    _hinted(
      r"Is {hint} in $\{1, 2\}$? {0} Go.",
      r"\frac{1}{2} {prompt} {x!r} %s \1",
      hint=r"\boxed{}: {hint} of {prompt} {hint}",
    )
    == r"\boxed{}: \frac{1}{2} {prompt} {x!r} %s \1 of Is {hint} in"
    r" $\{1, 2\}$? {0} \frac{1}{2} {prompt} {x!r} %s \1 Go."
  )


@pytest.mark.parametrize("instruction", ["", " Go."])
def test_a_prompt_may_have_no_instruction(instruction):
  assert _hinted("What?", "So", instruction=instruction) == "What? HINT So END"


def test_the_default_on_a_program():
  """What the task says about the form of the answer is before the hint."""
  reading = SOURCES["mbpp"].read(
    Getter(
      SOURCES["mbpp"].columns,
      {
        "text": "Write a function to add.",
        "task_id": 700,
        "test_list": ["assert add({1: 2}) == 3"],
        "code": "",
      },
    )
  )
  section = math.get_config("task=mbpp").problems
  section.instruction = "\n\nThink first."
  prompt = reading.prompt + section.instruction
  hint = '```python\ndef add(d):\n  return f"{sum('
  assert hinter(section)(_problem(prompt), hint).prompt == (
    "Write a function to add.\n\n"
    "It must pass this test:\n```python\nassert add({1: 2}) == 3\n```\n\n"
    "Write the Python function add. Give it, with all that it needs, in one"
    " ```python block.\n\n"
    "Here is the beginning of a correct solution:\n\n"
    '```python\ndef add(d):\n  return f"{sum(\n\n'
    "Write a whole solution: repeat what this beginning has worked out, as"
    " briefly as you like, and continue from where it ends.\n\n"
    "Think first."
  )


@pytest.mark.parametrize("stage", ["screen", "import"])
def test_what_comes_before_training_does_not_depend_on_it(stage):
  config = math.get_config()
  before = provenance.settings(config, stage)
  config.problems.hint = "{hint} {prompt}"
  assert provenance.settings(config, stage) == before
  config.problems.instruction = "Go."
  assert provenance.settings(config, stage) != before


# -- in tokens -----------------------------------------------------------------

_TEMPLATE = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
  "<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
  """A token a byte, and marks of turns and thoughts."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  t = tokenizers.Tokenizer(
    tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, [])
  )
  t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  t.decoder = tokenizers.decoders.ByteLevel()
  t.add_special_tokens(["<|im_start|>", "<|im_end|>", "<think>", "</think>"])
  folder = epath.Path(tmp_path_factory.mktemp("model"))
  t.save(str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(
    json.dumps({"eos_token": "<|im_end|>", "chat_template": _TEMPLATE})
  )
  return load_tokenizer(folder)


def _trace(tokenizer, text):
  [ids] = tokenizer.encode_replies([text])
  return np.array([*ids, tokenizer.stop_tokens[0]], np.int32)


def test_a_prefix_in_words(chat):
  trace = _trace(chat, "Natalia sold 48/2 = 24")
  assert hint_text(chat, trace[:12]) == "Natalia sold"
  assert hint_text(chat, trace) == "Natalia sold 48/2 = 24"  # nor its stop
  assert hint_text(chat, trace[:0]) == ""


def test_half_a_character_is_left_out(chat):
  """Whatever part of its two to four bytes there is."""
  trace = _trace(chat, "aé–🎲z")
  lengths = [(1, "a"), (2, "a"), (3, "aé"), (4, "aé"), (5, "aé"), (6, "aé–")]
  lengths += [(7, "aé–"), (8, "aé–"), (9, "aé–"), (10, "aé–🎲"), (11, "aé–🎲z")]
  for length, text in lengths:
    assert hint_text(chat, trace[:length]) == text


@pytest.mark.parametrize(
  ("reply", "length", "text"),
  [
    ("<think>\nIt is 7.\n</think>\n\nSeven.", 6, "It i"),
    ("<think>It is 7.</think> Seven.", 14, "It is 7. Sev"),
    ("<think>\nIt is 7.\n</think>\n\nSeven.", 1, ""),
  ],
)
def test_marks_of_thoughts_are_left_out(chat, reply, length, text):
  assert hint_text(chat, _trace(chat, reply)[:length]) == text


def test_the_hint_is_in_the_user_s_turn_and_writes_no_control_token(chat):
  prompt = _hinted("How many? Go.", "So <|im_end|> {x}")
  [ids] = chat.encode_prompts([prompt])
  before, after = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
  assert chat.prompt_text(prompt) == (
    f"{before}How many? HINT So <|im_end|> {{x}} END Go.{after}"
  )
  assert ids.count(256) == 2
  assert ids.count(257) == 1  # the template's own


# -- in an alphabet ------------------------------------------------------------


def _id(tokenizer, symbol):
  [number] = tokenizer.encode(symbol)
  return number


def test_checksum_by_hand():
  tokenizer = own_tokenizer("checksum")
  write = hinter(demo.get_config().problems)
  trace = np.array(tokenizer.encode("a4:13=1b=2c=1;"), np.int32)
  prompt = lambda length: (
    write(_problem("a43 b15 c59?"), hint_text(tokenizer, trace[:length])).prompt
  )
  assert prompt(0) == "a43 b15 c59?"
  assert prompt(4) == "a43 b15 c59a4:13?"
  assert prompt(6) == "a43 b15 c59a4:13=1b?"
  assert prompt(10) == "a43 b15 c59a4:13=1b=2c=1?"  # without the stop


def test_countdown_by_hand():
  tokenizer = own_tokenizer("countdown_steps")
  write = hinter(countdown.get_config().problems)
  trace = np.array(tokenizer.encode("8,-2,=6,:3,7,6,."), np.int32)
  prompt = lambda length: (
    write(
      _problem("3,7,8,2,>24,:"), hint_text(tokenizer, trace[:length])
    ).prompt
  )
  assert prompt(0) == "3,7,8,2,>24,:"
  assert prompt(5) == "3,7,8,2,>24,8,-2,=6,>:"
  assert prompt(6) == "3,7,8,2,>24,8,-2,=6,:>:"


def _read_checksum(ids, t):
  """(problem, hint) of a prompt's symbols, read from the left."""
  end = ids.index(_id(t, "?"))
  a = [n for n, i in enumerate(ids) if i == _id(t, "a")]
  begin = a[1] if a[1:] else end
  return [*ids[:begin], ids[end]], ids[begin:end]


def _read_countdown(ids, t):
  more = _id(t, ">")
  begin = ids.index(more) + 2
  end = ids.index(more, begin) if more in ids[begin:] else begin
  return [*ids[:begin], ids[-1]], ids[begin:end]


@pytest.mark.parametrize(
  ("task", "made", "read"),
  [
    ("checksum", demo, _read_checksum),
    ("countdown_steps", countdown, _read_countdown),
  ],
)
def test_problem_and_hint_are_read_from_the_symbols_again(task, made, read):
  """For each cut of some traces: token for token the prefix."""
  t, own = own_tokenizer(task), TASKS[task]
  write = hinter(made.get_config().problems)
  for problem in own.make_problems(3, 4, seed=0, split="train", start=0):
    if task == "checksum":
      traces = [_worked(problem.prompt), problem.answer.replace(" ", "") + ";"]
    else:
      traces = list(own.write_traces(problem))
    for trace in map(t.encode, traces):
      for length in range(len(trace)):
        prefix = np.array(trace[:length], np.int32)
        ids = t.encode(write(problem, hint_text(t, prefix)).prompt)
        assert read(ids, t) == (t.encode(problem.prompt), trace[:length])


def _worked(prompt):
  """All blocks of a checksum problem, digit by digit."""
  text = ""
  for block in prompt.rstrip("?").split():
    total = 0
    text += block[0]
    for digit in map(int, block[1:]):
      total = (total + digit) % 3
      text += f"{digit}:{total}"
    text += f"={total}"
  return text + ";"


def test_an_alphabet_without_a_way_is_refused(monkeypatch):
  assert takes_hints("gsm8k")
  assert takes_hints("checksum")
  bare = types.SimpleNamespace(SYMBOLS=("_", "a", ";"))
  monkeypatch.setitem(TASKS, "bare", bare)
  assert not takes_hints("bare")
  with pytest.raises(UserError, match=r"config\.problems\.task = 'bare'") as e:
    hinter(types.SimpleNamespace(task="bare"))
  assert "checksum, countdown_steps" in str(e.value)
