"""Word problems: what is left of each person's things, packed in threes.

A problem is a story, `Tom has forty-seven apples. Ann sells fifty-two pens. In
threes, how many are left?`, and its answer a sentence for each person in their
order: `Tom: two. Ann has one.` A sentence may also show how it is worked out,
`Tom: forty leaves one, seven makes two.`; its last word is the answer. With
`Explain.` at the end a story is a lesson, in which a few sentences are worked
out: the base model learns from lessons how, and from the others hardly ever to.

Its tokenizer is sentencepiece's, trained on stories (`train_tokenizer`).
"""

import functools
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from prefixrl_jax.embedded.blocks import BlockPhase as Phase
from prefixrl_jax.embedded.blocks import share_worked
from prefixrl_jax.embedded.drawing import draw_problems
from prefixrl_jax.embedded.judging import TextVerifier
from prefixrl_jax.types import Problem

__all__ = ["Phase"]

SIZES, UNITS = range(1, 9), "people"  # of a problem
FOLDER, VOCAB_SIZE = "stories", 512  # of its tokenizer

_ONES, _TENS, _NAMES, _THINGS, _VERBS = map(
  str.split,
  (
    "zero one two three four five six seven eight nine",
    "twenty thirty forty fifty sixty seventy eighty ninety",
    "Ada Amy Ann Ben Bob Cleo Dan Dora Eli Emma Eva Finn Gina Hal Hugo Ida Ivan"
    " Jack Jane Joe Karl Kate Lara Leo Lily Mary Max Mia Milo Nina Noah Nora"
    " Olga Oscar Paul Pia Ralf Rosa Ruth Sam Sara Tara Theo Tim Tom Uma Vera"
    " Will Zoe",
    "apples balls beads bells books boxes buns cakes cards carrots chairs coins"
    " cups eggs figs flags hats jars keys kites lamps lemons maps marbles masks"
    " nuts onions pears pencils pens pins plates plums ropes roses seeds shells"
    " shirts socks spoons stamps stones tickets tiles toys tulips",
    "has finds buys sells counts packs brings makes",
  ),
)
_LEFT = "|".join(_ONES[:3])
# Of different lengths: otherwise a model finds whose turn it is by counting
# tokens, and no longer knows once sentences are worked out.
_GUESSES = (":", " has", " is left with")
_QUESTION, _EXPLAIN = "In threes, how many are left?", " Explain."
_PERSON = re.compile(r"([A-Z][a-z]+) [a-z]+ ([a-z]+)-([a-z]+) [a-z]+\.")
_SENTENCE = re.compile(
  rf"([A-Z][a-z]+)(?:{'|'.join(_GUESSES)}"
  rf"|:( [a-z]+ leaves (?:{_LEFT}), [a-z]+ makes)) ({_LEFT})\."
)


def make_problems(
  num_problems: int, num_people: int, *, seed: int, split: str, start: int
) -> list[Problem]:
  """Draws random problems.

  Args:
    num_problems: how many.
    num_people: of a problem, at most 8.
    seed: seed for the draw, together with split.
    split: "train", "heldout" or "easy".
    start: index of the first; indices must be distinct within a run.
  """

  def draw(rng: np.random.Generator, _: int) -> dict[str, Any]:
    names, tens, ones, story = _draw_story(rng, num_people)
    left = [_ONES[(t + o) % 3] for t, o in zip(tens, ones)]
    return {
      "prompt": f"{story} {_QUESTION}",
      "answer": " ".join(f"{name}: {n}." for name, n in zip(names, left)),
      "metadata": {"num_people": num_people},
    }

  return draw_problems(
    "stories", draw, num_problems, seed=seed, split=split, start=start
  )


def _draw_story(
  rng: np.random.Generator, num_people: int
) -> tuple[list[str], list[int], list[int], str]:
  """Draws names, all different, each one's tens and ones, and a text."""
  names = [str(n) for n in rng.choice(_NAMES, num_people, replace=False)]
  tens = [int(t) for t in rng.integers(2, 10, num_people)]
  ones = [int(o) for o in rng.integers(1, 10, num_people)]
  sentences = [
    f"{name} {rng.choice(_VERBS)} {_TENS[t - 2]}-{_ONES[o]}"
    f" {rng.choice(_THINGS)}."
    for name, t, o in zip(names, tens, ones)
  ]
  return names, tens, ones, " ".join(sentences)


def hinted(prompt: str, hint: str) -> str:
  """Returns a prompt with the beginning of an answer before its question."""
  return f"{prompt.removesuffix(_QUESTION)}{hint.strip()} {_QUESTION}"


def write_traces(problem: Problem) -> Iterator[str]:
  """Yields the one trace in which every sentence is worked out."""
  yield " ".join(
    _work(name, _TENS.index(tens) + 2, _ONES.index(ones))
    for name, tens, ones in _PERSON.findall(problem.prompt)
  )


def _work(
  name: str,
  tens: int,
  ones: int,
  noisy: Callable[[int], int] = lambda running: running,
) -> str:
  """Returns a sentence that is worked out.

  Args:
    name: of the person.
    tens, ones: digits of the number.
    noisy: a running sum -> what is written in its place, and gone on with.
  """
  first = noisy(tens % 3)
  both = noisy((first + ones) % 3)
  return (
    f"{name}: {_TENS[tens - 2]} leaves {_ONES[first]}, {_ONES[ones]} makes"
    f" {_ONES[both]}."
  )


def make_document(rng: np.random.Generator, phase: Phase) -> tuple[str, str]:
  """Draws a pretraining document: (prompt, completion)."""
  num_people = int(rng.integers(1, phase.max_blocks + 1))
  names, tens, ones, story = _draw_story(rng, num_people)
  is_lesson, is_worked = phase.draw_worked(rng, num_people)
  noisy = functools.partial(phase.draw_sum, rng)
  # What is not worked out is noise, so that guessing cannot be learnt here.
  sentences = [
    _work(name, t, o, noisy)
    if works
    else f"{name}{rng.choice(_GUESSES)} {_ONES[rng.integers(0, 3)]}."
    for name, t, o, works in zip(names, tens, ones, is_worked)
  ]
  prompt = f"{story} {_QUESTION}{_EXPLAIN if is_lesson else ''}"
  return prompt, " ".join(sentences)


def train_tokenizer() -> bytes:
  """Returns FOLDER's tokenizer.model, made from 4,000 documents."""
  # Imported here, so that --help answers at once.
  import sentencepiece

  rng = np.random.default_rng(0)
  phase = Phase(8, lesson_share=0.5, max_window=8, worked_share=0.0, noise=0.0)
  documents = (make_document(rng, phase) for _ in range(4000))
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(text for document in documents for text in document),
    model_writer=model,
    model_type="bpe",
    vocab_size=VOCAB_SIZE,
    num_threads=1,
    bos_id=-1,
    unk_id=0,
    eos_id=1,
    normalization_rule_name="identity",
    character_coverage=1.0,
    minloglevel=2,
  )
  return model.getvalue()


# -- its verifier --------------------------------------------------------------


def worked_share(text: str) -> float:
  """Returns the share of the text's sentences that are worked out."""
  return share_worked(_SENTENCE, text)


MARKER = ("share of worked sentences", worked_share)


class StoriesVerifier(TextVerifier):
  """Compares each person's name and answer, in their order, with the gold ones.

  A completion must be such sentences and nothing else. The working is not
  checked.
  """

  def is_correct(self, problem: Problem, text: str) -> bool:
    """See `TextVerifier`."""
    return answers(text) == problem.answer


def answers(text: str) -> str | None:
  """Returns `Tom: two. Ann: one.`; None if anything else is in the text."""
  if _SENTENCE.sub("", text).strip():
    return None
  return " ".join(f"{name}: {n}." for name, _, n in _SENTENCE.findall(text))
