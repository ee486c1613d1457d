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
from prefixrl_jax.text.tokenizer import Tokenizer
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
# A batch of longer traces has fewer of them.
_MOST_CHARACTERS = 1 << 20


@dataclasses.dataclass
class Imported:
  """What an import has made.

  Attributes:
    traces: kept ones, in the order of the file.
    counts: KEPT, the reasons in DROPPED and flaws of the file's -> traces.
    agreement: our verdict and the file's own, AGREEMENT -> traces judged.
    disagreements: where the two differ.
  """

  traces: list[Trace]
  counts: Counter[str]
  agreement: dict[str, int]
  disagreements: list[dict[str, Any]]


@dataclasses.dataclass
class _Matched:
  """A trace of one of our problems, to be decided on."""

  foreign: ForeignTrace
  problem: Problem
  attempt: int
  reason: str  # to drop it; empty: none yet
  tokens: Sequence[int] = ()
  text: str = ""  # of the tokens
  verdict: Verdict | None = None


def import_traces(
  rows: Iterable[tuple[float, Sequence[ForeignTrace]]],
  problems: Sequence[Problem],
  *,
  text_of: Callable[[Problem], str],
  by_id: bool,
  verifier: Verifier,
  tokenizer: Tokenizer,
  has_answer: Callable[[str], bool],
  max_completion_length: int,
  traces_per_problem: int,
  on_progress: Callable[[float, Mapping[str, int]], None],
  origin: str = "imported:",
  batch_size: int = 256,
) -> Imported:
  """Matches, tokenises and judges; keeps the first correct ones of a problem.

  Neither the traces kept nor the counts depend on batch_size.

  Args:
    rows: as from `read_foreign`; read no further ahead than a batch.
    problems: that traces are wanted of.
    text_of: a problem as others write it.
    by_id: match problems by id, not by their text.
    verifier, tokenizer: of the task.
    has_answer: whether a wrong text gives a final answer at all.
    max_completion_length: tokens of a trace at most, the stop token included.
    traces_per_problem: kept at most, first come, first served.
    on_progress: called with (share read, counts) now and then.
    origin: what the policy's name begins with, before the writer's.
    batch_size: traces tokenised and judged together at most, and rows between
      two calls.
  """
  # The traces of a problem mostly stand together.
  normal = functools.lru_cache(maxsize=64)(normalise)
  known: dict[str, Problem] = {}
  for p in problems:
    known.setdefault(p.id if by_id else normal(text_of(p)), p)
  attempts = {p.id: 0 for p in problems}
  num_kept = {p.id: 0 for p in problems}
  prompt_lengths: dict[str, int] = {}
  seen: set[tuple[str, bytes]] = set()
  made = Imported(
    [],
    Counter(dict.fromkeys((KEPT, *DROPPED), 0)),
    dict.fromkeys(AGREEMENT, 0),
    [],
  )
  is_full = lambda problem: num_kept[problem.id] >= traces_per_problem

  def match(foreign: ForeignTrace) -> _Matched | None:
    key = foreign.problem_id if by_id else normal(foreign.problem)
    problem = known.get(key) if key else None
    if problem is None:
      return None
    attempt = attempts[problem.id]
    attempts[problem.id] += 1
    reason = ""
    identity = (problem.id, hashlib.sha256(foreign.text.encode()).digest())
    if foreign.flaw:
      reason = foreign.flaw
    elif not foreign.text:
      reason = "empty"
    elif not foreign.finished:
      reason = "unfinished"
    elif identity in seen:
      reason = "duplicate"
    elif not is_full(problem):
      seen.add(identity)
    return _Matched(foreign, problem, attempt, reason)

  def settle(batch: Sequence[_Matched]) -> None:
    """Tokenises and judges a batch; then decides in the order of the file."""
    asked = [m for m in batch if not m.reason and not is_full(m.problem)]
    _tokenise(asked, tokenizer, max_completion_length)
    asked = [m for m in asked if not m.reason]
    _judge(asked, verifier, tokenizer)
    right = [m.problem for m in asked if m.verdict and m.verdict.reward == 1]
    prompts = {p.id: p.prompt for p in right if p.id not in prompt_lengths}
    lengths = map(len, tokenizer.encode_prompts(prompts.values()))
    prompt_lengths.update(zip(prompts, lengths))
    for m in batch:
      # A trace of the same batch may have been the last that was wanted.
      if is_full(m.problem):
        made.counts["problem has enough"] += 1
        continue
      if m.verdict is not None:
        _compare(m, m.verdict.reward == 1, made)
        if m.verdict.reward == 1:
          num_kept[m.problem.id] += 1
          length = prompt_lengths[m.problem.id]
          made.traces.append(_trace(m, length, origin))
          m.reason = KEPT
        elif m.verdict.timed_out or m.verdict.died:
          m.reason = "timed out"
        else:
          answered = has_answer(m.foreign.text)
          m.reason = "wrong" if answered else "no final answer"
      made.counts[m.reason] += 1

  waiting: list[_Matched] = []
  size = 0
  for number, (share, some) in enumerate(rows):
    for foreign in some:
      matched = match(foreign)
      if matched is None:
        made.counts[foreign.flaw or "no such problem"] += 1
        continue
      waiting.append(matched)
      size += len(foreign.text)
      if len(waiting) == batch_size or size >= _MOST_CHARACTERS:
        settle(waiting)
        waiting, size = [], 0
    if number % batch_size == 0:
      on_progress(share, made.counts)
  if waiting:
    settle(waiting)
  on_progress(1.0, made.counts)
  return made


def _tokenise(
  batch: Sequence[_Matched], tokenizer: Tokenizer, max_length: int
) -> None:
  """Gives each its tokens with the stop token, or the reason to drop it."""
  stops = tokenizer.stop_tokens
  for m, ids in zip(batch, _encode([m.foreign.text for m in batch], tokenizer)):
    if ids is None:
      m.reason = "not in the vocabulary"
      continue
    m.tokens = ids if ids and ids[-1] in stops else [*ids, stops[0]]
    if len(m.tokens) > max_length:
      m.reason = "too long"


def _encode(
  texts: Sequence[str], tokenizer: Tokenizer
) -> list[list[int] | None]:
  """Returns the texts' ids, None for one that has a character too many."""
  try:
    return list(tokenizer.encode_replies(texts))
  except UserError:  # an alphabet of symbols does not have every character
    if len(texts) == 1:
      return [None]
    return [ids for text in texts for ids in _encode([text], tokenizer)]


def _judge(
  batch: Sequence[_Matched], verifier: Verifier, tokenizer: Tokenizer
) -> None:
  """Judges what the tokens say, as with traces of our own."""
  texts = tokenizer.decode([m.tokens for m in batch])
  verdicts = judge_texts(verifier, [m.problem for m in batch], texts)
  for m, text, verdict in zip(batch, texts, verdicts):
    m.text, m.verdict = text, verdict


def _compare(m: _Matched, right: bool, made: Imported) -> None:
  """Counts how our verdict and the file's own go together."""
  theirs = m.foreign.verdict
  if theirs is None:
    return
  if right == theirs:
    made.agreement["both right" if right else "both wrong"] += 1
    return
  made.agreement["only ours right" if right else "only theirs right"] += 1
  made.disagreements.append(
    {
      "place": m.foreign.place,
      "problem_id": m.problem.id,
      "answer": m.problem.answer,
      "ours": right,
      "theirs": theirs,
      "end": m.foreign.text[-200:],
    }
  )


def _trace(m: _Matched, prompt_length: int, origin: str) -> Trace:
  return Trace(
    problem_id=m.problem.id,
    tokens=np.array(m.tokens, np.int32),
    text=m.text,
    reward=1.0,
    policy=origin + m.foreign.model,
    attempt=m.attempt,
    seed=0,  # nothing of ours was drawn
    prompt_length=prompt_length,
  )
