"""Judging looks at prefix and completion together, and never at half one."""

import numpy as np

from prefixrl_jax.embedded import checksum
from prefixrl_jax.embedded.checksum import ChecksumVerifier
from prefixrl_jax.rewards.judging import hold_answer, judge
from prefixrl_jax.text.tokenizer import SymbolTokenizer
from prefixrl_jax.types import Completion, Problem, Verdict

_TOKENIZER = SymbolTokenizer(
  checksum.SYMBOLS, pad=checksum.PAD, stop=checksum.STOP
)
_PROBLEM = Problem("p", "a00 b10?", "a=0 b=1", "", "train", 0)


def _judge(prefix, text, truncated=False):
  ids = np.array(_TOKENIZER.encode(text), np.int32)
  completion = Completion(ids, np.zeros(len(ids), np.float32), truncated)
  (verdict,) = judge(
    ChecksumVerifier(),
    _TOKENIZER,
    [_PROBLEM],
    [np.array(_TOKENIZER.encode(prefix), np.int32)],
    [completion],
  )
  return verdict.reward


def test_prefix_and_completion_are_one_answer():
  assert _judge("", "a=0b=1;") == 1
  assert _judge("a=0", "b=1;") == 1
  assert _judge("a0:0", "0=0b=1;") == 1
  assert _judge("a=0", "a=0b=1;") == 0


def test_a_truncated_completion_is_wrong_whatever_it_says():
  assert _judge("a=0", "b=1;", truncated=True) == 0


def test_a_prefix_holds_the_answer_if_stopping_there_is_right():
  prefixes = ("a=0b=1;", "a=0b=1", "a=0", "", "a=0b=2;")
  held = hold_answer(
    ChecksumVerifier(),
    _TOKENIZER,
    [_PROBLEM] * len(prefixes),
    [np.array(_TOKENIZER.encode(p), np.int32) for p in prefixes],
  )
  assert held == [True, False, False, False, False]


def test_a_prefix_that_is_paid_in_part_holds_the_answer():
  """As where config.rewards.partial gives a share of a program's tests."""

  class Partial:
    def judge(self, problems, texts):
      return [Verdict(0.5), Verdict(0.0)]

    def close(self):
      pass

  prefixes = [np.array(_TOKENIZER.encode("a=0"), np.int32)] * 2
  held = hold_answer(Partial(), _TOKENIZER, [_PROBLEM] * 2, prefixes)
  assert held == [True, False]


def test_what_could_not_be_judged_is_logged(caplog):
  class Slow:
    def judge(self, problems, texts):
      return [Verdict(0.0, timed_out=True), Verdict(0.0, died=True)]

    def close(self):
      pass

  nothing = np.zeros(0, np.int32)
  completion = Completion(nothing, np.zeros(0, np.float32), False)
  with caplog.at_level("WARNING", logger="absl"):
    judge(Slow(), _TOKENIZER, [_PROBLEM] * 2, [nothing] * 2, [completion] * 2)
  assert "Of 2 answers, 1 took the verifier too long" in caplog.text
