"""Hints: the beginning of a trace as text in the user's turn.

What POPE, BREAD and QuestA do in place of prefixes: the model reads the
beginning of a solution, and writes a whole one of its own.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import replace

import ml_collections
import numpy as np

from prefixrl_jax.embedded.tasks import TASKS
from prefixrl_jax.text import thoughts
from prefixrl_jax.text.tokenizer import Tokenizer
from prefixrl_jax.types import Problem, UserError


def hint_text(tokenizer: Tokenizer, prefix: np.ndarray) -> str:
  """Returns what a prefix says: no control tokens, no part of a character.

  Args:
    tokenizer: of the trace.
    prefix: int32 [prefix length], its first tokens.
  """
  ids = [i for i in prefix.tolist() if i not in tokenizer.stop_tokens]
  [text] = tokenizer.decode([ids])
  text = "".join(thoughts.respelled(text, ("", ""))[::2])
  return text.rstrip("\ufffd").strip("\n")


def takes_hints(task: str) -> bool:
  """Whether prompts of the task can have a hint: not every alphabet can."""
  return task not in TASKS or hasattr(TASKS[task], "hinted")


def hinter(
  config: ml_collections.ConfigDict,
) -> Callable[[Problem, str], Problem]:
  """Returns (problem, hint) -> the problem with the hint in its prompt.

  All else of the problem stays, and an empty hint changes nothing. Completions
  are judged as answers to the original: verifiers may read the prompt.

  Args:
    config: section `problems`.

  Raises:
    UserError: the task's alphabet has no way to write a hint.
  """
  if not takes_hints(config.task):
    able = [name for name in TASKS if takes_hints(name)]
    raise UserError(
      f"config.problems.task = {config.task!r}: its alphabet has no way to"
      " write a hint into a prompt; tasks with text have, and so have"
      f" {', '.join(able)}."
    )
  if config.task in TASKS:
    write = TASKS[config.task].hinted
  else:
    write = functools.partial(
      _in_words, template=config.hint, instruction=config.instruction
    )

  def hinted(problem: Problem, hint: str) -> Problem:
    prompt = write(problem.prompt, hint) if hint.strip() else problem.prompt
    return replace(problem, prompt=prompt)

  return hinted


def _in_words(prompt: str, hint: str, template: str, instruction: str) -> str:
  """The instruction stays the end of the prompt."""
  told = prompt.removesuffix(instruction)
  fields = {"prompt": told, "hint": hint}
  # In one pass: a problem or a hint may have braces itself.
  said = re.sub(r"\{(prompt|hint)\}", lambda m: fields[m[1]], template)
  return said + prompt[len(told) :]
