"""Word problems: gold answers, their tokenizer, what counts as an answer."""

import importlib.resources
import re

import jax
import numpy as np
import pytest
import scoring

from prefixrl_jax.configs import stories as config
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.embedded import stories
from prefixrl_jax.learner import pretraining
from prefixrl_jax.models import base_file
from prefixrl_jax.run import session
from prefixrl_jax.run.inputs import Inputs, own_tokenizer
from prefixrl_jax.types import Problem

_WORDS = "zero one two three four five six seven eight nine"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: i for i, word in enumerate(_WORDS.split())} | {
  word: 10 * i for i, word in enumerate(_TENS.split(), 2)
}


def _numbers(prompt):
  """(name, number) of each sentence but the question's."""
  sentences = prompt.split(". ")[:-1]
  found = [re.fullmatch(r"(\w+) \w+ (\w+)-(\w+) \w+", s) for s in sentences]
  return [(m[1], _VALUES[m[2]] + _VALUES[m[3]]) for m in found]


def test_gold_answers_are_remainders_and_draws_are_repeatable():
  draw = lambda split: stories.make_problems(
    40, 6, seed=1, split=split, start=5
  )
  problems = draw("train")
  for problem in problems:
    numbers = _numbers(problem.prompt)
    names = [name for name, _ in numbers]
    assert len(set(names)) == len(names) == 6
    assert problem.prompt.endswith(". In threes, how many are left?")
    answers = [s.split(": ") for s in problem.answer.rstrip(".").split(". ")]
    assert [(n, _VALUES[left]) for n, left in answers] == [
      (name, number % 3) for name, number in numbers
    ]
  assert draw("train") == problems
  prompts = {p.prompt for p in problems}
  assert not prompts & {p.prompt for p in draw("heldout")}
  assert [p.index for p in problems] == list(range(5, 45))


def test_a_trace_by_rule_works_every_sentence_out():
  problems = stories.make_problems(40, 6, seed=0, split="train", start=0)
  texts = [text for p in problems for text in stories.write_traces(p)]
  verdicts = stories.StoriesVerifier().judge(problems, texts)
  assert [v.reward for v in verdicts] == [1.0] * 40
  assert {stories.worked_share(text) for text in texts} == {1.0}
  pattern = r"(\w+): (\w+) leaves (\w+), (\w+) makes (\w+)\."
  for problem, text in zip(problems, texts, strict=True):
    worked = re.findall(pattern, text)
    for (name, number), (said, *words) in zip(
      _numbers(problem.prompt), worked, strict=True
    ):
      tens, first, ones, both = (_VALUES[w] for w in words)
      assert (name, number) == (said, tens + ones)
      assert (first, both) == (tens % 3, number % 3)


@pytest.mark.parametrize(
  ("text", "reward"),
  [
    ("Tom: two. Ann: one.", 1),
    ("Tom has two. Ann: one.", 1),
    ("Tom: two. Ann is left with one.", 1),
    ("Tom: forty leaves one, seven makes two. Ann has one.", 1),
    ("<think>hm</think>Tom: two. Ann: one.", 1),
    ("Tom: two. Ann: two.", 0),
    ("Tom: two.", 0),
    ("Ann: one. Tom: two.", 0),
    ("Tom: two. Ann: one. Ann: one.", 0),
    ("Tom: two. Bob: one.", 0),
    ("Tom: two. Ann: one. Well done", 0),
    ("Tom: forty leaves one. Ann: one.", 0),
    ("Tom: forty leaves nine, seven makes two. Ann: one.", 0),
    ("two. one.", 0),
    ("", 0),
  ],
)
def test_only_a_sentence_for_each_person_counts(text, reward):
  prompt = "Tom has forty-seven pens. Ann has fifty-two cups. In threes, …"
  gold = "Tom: two. Ann: one."
  problem = Problem("p", prompt, gold, "stories", "train", 0)
  [verdict] = stories.StoriesVerifier().judge([problem], [text])
  assert verdict.reward == reward


def test_exams_hardly_work_anything_out_and_lessons_a_window():
  phase = stories.Phase(
    max_blocks=6, lesson_share=0.5, max_window=2, worked_share=0.1, noise=0.0
  )
  rng = np.random.default_rng(0)
  shares, guesses = [], []
  for _ in range(2000):
    prompt, text = stories.make_document(rng, phase)
    share, count = stories.worked_share(text), text.count(".")
    if prompt.endswith(" Explain."):
      assert 1 <= round(share * count) <= 2
    else:
      shares.append(share)
      guesses += re.findall(r"(?::| has| with) (\w+)\.", text)
  assert np.mean(shares) == pytest.approx(0.1, abs=0.02)
  for word in ("zero", "one", "two"):  # nothing can be learnt from them
    assert guesses.count(word) / len(guesses) == pytest.approx(1 / 3, abs=0.03)


def test_the_shipped_tokenizer_is_what_its_function_makes():
  data = importlib.resources.files("prefixrl_jax") / "data" / stories.FOLDER
  shipped = (data / "tokenizer.model").read_bytes()
  assert stories.train_tokenizer() == shipped
  tokenizer = own_tokenizer("stories")
  assert tokenizer.vocab_size == stories.VOCAB_SIZE
  problems = stories.make_problems(50, 8, seed=2, split="easy", start=0)
  for problem in problems:
    [trace] = stories.write_traces(problem)
    for text in (problem.prompt, problem.answer, trace):
      ids = tokenizer.encode(text)
      assert tokenizer.decode([ids]) == [text]
      assert len(ids) == len(re.findall(r"\w+|[.,:?-]", text))  # no part of one


def test_pretraining_teaches_the_end_of_a_text():
  tokenizer = own_tokenizer("stories")
  [tree] = pretraining._encoded([("Tom has two.", "Tom: two.")], tokenizer)
  [lane] = tree.lanes
  assert tree.trunk.tolist() == tokenizer.encode("Tom has two.")
  assert lane.tokens.tolist() == [
    *tokenizer.encode("Tom: two."),
    *tokenizer.stop_tokens,
  ]


def test_a_hint_is_before_the_question():
  prompt = "Tom has forty-seven pens. In threes, how many are left?"
  assert stories.hinted(prompt, "Tom: forty") == (
    "Tom has forty-seven pens. Tom: forty In threes, how many are left?"
  )


def test_the_shipped_base_can_work_sentences_out_and_hardly_does():
  c = config.get_config("tiny=true")
  model, base = session.demo_model(c.model), Inputs(c).given_base
  assert base is not None
  mesh = make_mesh(devices=jax.devices()[:1])
  params = base_file.load(base, model, mesh)
  tokenizer = own_tokenizer("stories")
  shares = []
  for problem in stories.make_problems(8, 6, seed=9, split="easy", start=0):
    [trace] = stories.write_traces(problem)
    logprobs = scoring.teacher_forced(
      model,
      params,
      np.array(tokenizer.encode(problem.prompt)),
      np.array(tokenizer.encode(trace)),
    )
    # A sentence has ten tokens: a name, a colon, tens, "leaves", …
    shares.append(np.exp(logprobs).reshape(6, 10))
  name, _, tens, _, first, _, ones, _, both, _ = np.mean(shares, 0).T
  # (After three that are worked out it is unsure whose turn it is.)
  for known in (name[:3], first, ones, both):
    assert known.min() > 0.9
  assert tens[0] < 0.02
