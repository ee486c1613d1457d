"""Other people's traces: matched, judged by our verifier, tokenised once.

What is kept are correct traces in the current tokenizer's tokens, like those
that rejection sampling finds. docs/imported_traces.md has the reasons for
which a trace is dropped.
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prefixrl_jax.problems.texts import normalise
from prefixrl_jax.rewards.judging import judge_texts
from prefixrl_jax.text.tokenizer import Tokenizer, with_stop
from prefixrl_jax.traces.foreign import ForeignTrace
from prefixrl_jax.types import Problem, Trace, UserError, Verdict, Verifier

KEPT = "kept"
DROPPED = (
  "no such problem",
  "problem has enough",
  "empty",
  "unfinished",  # by its finish reason, or its thinking is never closed
  "duplicate",
  "not in the vocabulary",
  "too long",
  "timed out",
  "no final answer",
  "wrong",
)
AGREEMENT = ("both right", "both wrong", "only ours right", "only theirs right")
# Of longer traces, a batch has fewer.
_MOST_CHARACTERS = 1 << 20


@dataclasses.dataclass
class Imported:
  """What an import has made.

  Attributes:
    traces: kept ones, in the order of the file.
    counts: KEPT, the reasons in DROPPED, and flaws of the file -> traces.
    agreement: how our verdict and the file's compare, AGREEMENT -> traces.
    disagreements: where the two differ.
  """

  traces: list[Trace]
  counts: Counter[str]
  agreement: dict[str, int]
  disagreements: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class ImportSettings:
  """How traces are matched and judged, and how many are kept.

  Attributes:
    verifier, tokenizer: the task's.
    has_answer: says whether a wrong text gives a final answer at all.
    max_completion_length: maximum tokens of a trace, the stop token included.
    traces_per_problem: how many are kept at most; the first ones are.
    text_of: returns a problem as others write it, by which their traces are
      matched; None: they are matched by the problem's id.
    origin: what the policy's name begins with, before the writer's.
  """

  verifier: Verifier
  tokenizer: Tokenizer
  has_answer: Callable[[str], bool]
  max_completion_length: int
  traces_per_problem: int
  text_of: Callable[[Problem], str] | None
  origin: str = "imported:"


@dataclasses.dataclass(slots=True)
class _Wanted:
  """A problem of ours, and what was found for it."""

  problem: Problem
  num_seen: int = 0
  num_kept: int = 0
  prompt_length: int | None = None  # once a trace is kept


@dataclasses.dataclass
class _Matched:
  """A trace of one of our problems, not yet kept or dropped."""

  foreign: ForeignTrace
  wanted: _Wanted
  attempt: int
  reason: str  # to drop it; empty: none yet
  tokens: Sequence[int] = ()
  text: str = ""  # of the tokens
  verdict: Verdict | None = None

  @property
  def is_right(self) -> bool:
    """Whether it was judged, and is correct."""
    return self.verdict is not None and self.verdict.reward == 1


def import_traces(
  rows: Iterable[tuple[float, Sequence[ForeignTrace]]],
  problems: Sequence[Problem],
  settings: ImportSettings,
  *,
  on_progress: Callable[[float, Mapping[str, int]], None],
  batch_size: int = 256,
) -> Imported:
  """Matches, tokenises and judges; keeps the first correct ones of a problem.

  Neither the traces kept nor the counts depend on batch_size.

  Args:
    rows: as from `read_foreign`; read at most one batch ahead.
    problems: those for which traces are wanted.
    settings: see `ImportSettings`.
    on_progress: called now and then with (share read, counts).
    batch_size: maximum traces tokenised and judged together, and rows between
      two calls of on_progress.
  """
  current = _Import(problems, settings)
  counts = current.made.counts
  waiting: list[_Matched] = []
  size = 0
  for number, (share, some) in enumerate(rows):
    for foreign in some:
      matched = current.match(foreign)
      if matched is None:
        counts[foreign.flaw or "no such problem"] += 1
        continue
      waiting.append(matched)
      size += len(foreign.text)
      if len(waiting) == batch_size or size >= _MOST_CHARACTERS:
        current.settle(waiting)
        waiting, size = [], 0
    if number % batch_size == 0:
      on_progress(share, counts)
  if waiting:
    current.settle(waiting)
  on_progress(1.0, counts)
  return current.made


class _Import:
  """What an import has made so far, and its state."""

  def __init__(self, problems: Sequence[Problem], settings: ImportSettings):
    self._settings = settings
    # The traces of a problem are mostly next to each other.
    self._normalise = functools.lru_cache(maxsize=64)(normalise)
    self._wanted: dict[str, _Wanted] = {}
    text_of = settings.text_of
    for p in problems:
      key = self._normalise(text_of(p)) if text_of else p.id
      self._wanted.setdefault(key, _Wanted(p))
    self._texts: set[tuple[str, bytes]] = set()  # of a problem
    self.made = Imported(
      [],
      Counter(dict.fromkeys((KEPT, *DROPPED), 0)),
      dict.fromkeys(AGREEMENT, 0),
      [],
    )

  def _is_full(self, wanted: _Wanted) -> bool:
    return wanted.num_kept >= self._settings.traces_per_problem

  def match(self, foreign: ForeignTrace) -> _Matched | None:
    """Returns the trace with its problem; None if that is not one of ours."""
    by_text = self._settings.text_of is not None
    key = self._normalise(foreign.problem) if by_text else foreign.problem_id
    wanted = self._wanted.get(key) if key else None
    if wanted is None:
      return None
    attempt = wanted.num_seen
    wanted.num_seen += 1
    return _Matched(foreign, wanted, attempt, self._flaw(foreign, wanted))

  def _flaw(self, foreign: ForeignTrace, wanted: _Wanted) -> str:
    """Returns why a trace is dropped unread; empty if it is not."""
    if foreign.flaw:
      return foreign.flaw
    if not foreign.text:
      return "empty"
    if not foreign.finished:
      return "unfinished"
    digest = hashlib.sha256(foreign.text.encode()).digest()
    identity = (wanted.problem.id, digest)
    if identity in self._texts:
      return "duplicate"
    if not self._is_full(wanted):
      self._texts.add(identity)
    return ""

  def settle(self, batch: Sequence[_Matched]) -> None:
    """Tokenises and judges a batch; then decides in the order of the file."""
    settings = self._settings
    asked = [m for m in batch if not m.reason and not self._is_full(m.wanted)]
    _tokenise(asked, settings.tokenizer, settings.max_completion_length)
    asked = [m for m in asked if not m.reason]
    _judge(asked, settings.verifier, settings.tokenizer)
    _measure_prompts(
      [m.wanted for m in asked if m.is_right], settings.tokenizer
    )
    for m in batch:
      # A trace of the same batch may have been the last one wanted.
      if self._is_full(m.wanted):
        self.made.counts["problem has enough"] += 1
        continue
      if m.verdict is not None:
        self._decide(m, m.verdict)
      self.made.counts[m.reason] += 1

  def _decide(self, m: _Matched, verdict: Verdict) -> None:
    """Keeps a trace that is correct; says why it is dropped otherwise."""
    _compare(m, self.made)
    if m.is_right:
      m.reason = KEPT
      m.wanted.num_kept += 1
      self.made.traces.append(_trace(m, self._settings.origin))
    elif verdict.timed_out or verdict.died:
      m.reason = "timed out"
    else:
      answered = self._settings.has_answer(m.foreign.text)
      m.reason = "wrong" if answered else "no final answer"


def _measure_prompts(wanted: Sequence[_Wanted], tokenizer: Tokenizer) -> None:
  """Counts the tokens of prompts that have not been counted yet."""
  new = {w.problem.id: w for w in wanted if w.prompt_length is None}.values()
  prompts = tokenizer.encode_prompts(w.problem.prompt for w in new)
  for w, ids in zip(new, prompts):
    w.prompt_length = len(ids)


def _tokenise(
  batch: Sequence[_Matched], tokenizer: Tokenizer, max_length: int
) -> None:
  """Sets each trace's tokens, stop token included, or why it is dropped."""
  for m, ids in zip(batch, _encode([m.foreign.text for m in batch], tokenizer)):
    if ids is None:
      m.reason = "not in the vocabulary"
      continue
    m.tokens = with_stop(tokenizer, ids)
    if len(m.tokens) > max_length:
      m.reason = "too long"


def _encode(
  texts: Sequence[str], tokenizer: Tokenizer
) -> list[list[int] | None]:
  """Returns the texts' ids; None for one with an unknown character."""
  try:
    return list(tokenizer.encode_replies(texts))
  except UserError:  # an alphabet of symbols does not have every character
    if len(texts) == 1:
      return [None]
    return [ids for text in texts for ids in _encode([text], tokenizer)]


def _judge(
  batch: Sequence[_Matched], verifier: Verifier, tokenizer: Tokenizer
) -> None:
  """Judges the decoded tokens, as for traces of our own."""
  texts = tokenizer.decode([m.tokens for m in batch])
  verdicts = judge_texts(verifier, [m.wanted.problem for m in batch], texts)
  for m, text, verdict in zip(batch, texts, verdicts):
    m.text, m.verdict = text, verdict


def _compare(m: _Matched, made: Imported) -> None:
  """Counts whether our verdict and the file's own agree."""
  right, theirs = m.is_right, m.foreign.verdict
  if theirs is None:
    return
  if right == theirs:
    made.agreement["both right" if right else "both wrong"] += 1
    return
  made.agreement["only ours right" if right else "only theirs right"] += 1
  made.disagreements.append(
    {
      "place": m.foreign.place,
      "problem_id": m.wanted.problem.id,
      "answer": m.wanted.problem.answer,
      "ours": right,
      "theirs": theirs,
      "end": m.foreign.text[-200:],
    }
  )


def _trace(m: _Matched, origin: str) -> Trace:
  assert m.wanted.prompt_length is not None
  return Trace(
    problem_id=m.wanted.problem.id,
    tokens=np.array(m.tokens, np.int32),
    text=m.text,
    reward=1.0,
    policy=origin + m.foreign.model,
    attempt=m.attempt,
    seed=0,  # nothing of ours was drawn
    prompt_length=m.wanted.prompt_length,
  )
