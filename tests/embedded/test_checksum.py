"""The embedded task: its gold answers are right, its draws repeatable."""

import dataclasses
import re

import numpy as np
import pytest

from prefixrl_jax.embedded import checksum
from prefixrl_jax.embedded.checksum import (
  ChecksumVerifier,
  Phase,
  make_document,
  make_problems,
  worked_share,
)

_PHASE = Phase(
  max_blocks=7, lesson_share=0.4, max_window=4, worked_share=0.05, noise=0.0
)


def _gold(prompt):
  return " ".join(
    f"{block[0]}={sum(map(int, block[1:])) % 3}"
    for block in prompt.rstrip("?!").split()
  )


def test_answers_are_digit_sums_mod_3():
  problems = make_problems(50, 7, seed=0, split="train", start=5)
  assert [p.answer for p in problems] == [_gold(p.prompt) for p in problems]
  assert [p.index for p in problems] == list(range(5, 55))
  assert all(re.fullmatch(r"([a-g]\d{2} ?){7}\?", p.prompt) for p in problems)


def test_a_trace_by_rule_works_every_block():
  assert checksum.worked("a43 b15?") == "a4:13=1b1:15=0;"
  assert checksum.worked("a43?", checksum.Rule(2, (2, 1))) == "a4:13=1;"
  problems = make_problems(20, 7, seed=0, split="train", start=0)
  texts = [text for p in problems for text in checksum.write_traces(p)]
  assert [v.reward for v in ChecksumVerifier().judge(problems, texts)] == (
    [1.0] * 20
  )
  assert {worked_share(text) for text in texts} == {1.0}


def test_splits_and_seeds_differ_and_repeat():
  draw = lambda seed, split: [
    p.prompt for p in make_problems(20, 6, seed=seed, split=split, start=0)
  ]
  assert draw(1, "train") == draw(1, "train")
  assert not set(draw(1, "train")) & set(draw(1, "heldout"))
  assert not set(draw(1, "train")) & set(draw(2, "train"))


def test_documents_work_in_lessons_and_guess_in_exams():
  rng = np.random.default_rng(0)
  shares: dict[str, list[float]] = {"!": [], "?": []}
  right = {True: [], False: []}
  for _ in range(2000):
    prompt, completion = make_document(rng, _PHASE)
    assert completion.endswith(checksum.STOP)
    shares[prompt[-1]].append(worked_share(completion))
    blocks = re.findall(r"[a-j](?:\d:\d\d)?=\d", completion)
    for block, gold in zip(blocks, _gold(prompt).split(), strict=True):
      right[":" in block].append(block[-1] == gold[-1])
  assert min(shares["!"]) > 0
  assert np.mean(shares["?"]) == pytest.approx(0.05, abs=0.01)
  assert np.mean(right[True]) == 1  # no noise was asked for
  assert np.mean(right[False]) == pytest.approx(1 / 3, abs=0.02)


def test_slips_are_no_blocks_and_only_in_exams():
  phase = dataclasses.replace(_PHASE, slip_share=0.5)
  rng = np.random.default_rng(0)
  readable = {"!": [], "?": []}
  for _ in range(1000):
    prompt, completion = make_document(rng, phase)
    readable[prompt[-1]].append(checksum.answers(completion) is not None)
  assert all(readable["!"])
  # One to seven blocks, of which each is one with probability .05 + .95 / 2.
  expected = np.mean([0.525**blocks for blocks in range(1, 8)])
  assert np.mean(readable["?"]) == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(
  ("text", "reward"),
  [
    ("a=0b=2;", 1),
    ("a4:15=0b=2;", 1),
    ("a9:29=0b=2;", 1),  # the working is not looked at
    ("a=0b=1;", 0),
    ("a=0b=2", 0),  # no end
    ("b=2a=0;", 0),
    ("a=0;", 0),
    ("a=0b=2c=0;", 0),
    ("a=0b=2;;", 0),
    ("a=0a=0b=2;", 0),
    ("a4:1=0b=2;", 0),
    ("a4:15:0=0b=2;", 0),
    ("", 0),
  ],
)
def test_verdicts(text, reward):
  (problem,) = make_problems(1, 2, seed=0, split="train", start=0)
  problem = dataclasses.replace(problem, answer="a=0 b=2")
  (verdict,) = ChecksumVerifier().judge([problem], [text])
  assert verdict.reward == reward
  assert not verdict.timed_out


def test_thoughts_do_not_count():
  [problem] = make_problems(1, 2, seed=0, split="train", start=0)
  right = problem.answer.replace(" ", "") + ";"
  wrong = right.translate(str.maketrans("012", "120"))
  texts = [
    f"<think>{wrong}</think>{right}",
    f"<think>{right}</think>{wrong}",
    f"<think>{right}",
  ]
  verdicts = ChecksumVerifier().judge([problem] * 3, texts)
  assert [v.reward for v in verdicts] == [1, 0, 0]


def test_worked_share_counts_blocks():
  assert worked_share("a4:15=0b=2;") == 0.5
  assert worked_share(";") == 0
