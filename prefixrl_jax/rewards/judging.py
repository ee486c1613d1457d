"""From token ids to verdicts: decodes, and asks the verifier."""

from collections.abc import Sequence

import numpy as np
from absl import logging

from prefixrl_jax.distributed import cluster
from prefixrl_jax.text.tokenizer import Tokenizer
from prefixrl_jax.types import Completion, Problem, Verdict, Verifier


def judge(
  verifier: Verifier,
  tokenizer: Tokenizer,
  problems: Sequence[Problem],
  prefixes: Sequence[np.ndarray],
  completions: Sequence[Completion],
) -> list[Verdict]:
  """Judges prefix + completion as an answer to the original problem.

  A completion that reached the length limit has not given its final answer and
  is wrong, whatever it says before.

  Args:
    verifier: of the task.
    tokenizer: the policy's.
    problems, prefixes, completions: aligned; prefixes are int [length].
  """
  whole = [i for i, c in enumerate(completions) if not c.truncated]
  texts = tokenizer.decode(
    [[*prefixes[i].tolist(), *completions[i].tokens.tolist()] for i in whole]
  )
  verdicts = [Verdict(0.0)] * len(completions)
  judged = judge_texts(verifier, [problems[i] for i in whole], texts)
  for i, verdict in zip(whole, judged):
    verdicts[i] = verdict
  return verdicts


def judge_texts(
  verifier: Verifier, problems: Sequence[Problem], texts: Sequence[str]
) -> list[Verdict]:
  """Judges answers; what could not be judged is logged.

  Args:
    verifier: of the task.
    problems, texts: aligned.
  """
  verdicts = _shared(verifier, problems, texts)
  late, dead = sum(v.timed_out for v in verdicts), sum(v.died for v in verdicts)
  if late or dead:
    logging.warning(
      "Of %d answers, %d took the verifier too long and %d killed its process;"
      " they count as wrong. The limits are config.rewards.timeout_seconds and,"
      " for all tests of a program together, total_seconds.",
      *(len(verdicts), late, dead),
    )
  return verdicts


def _shared(
  verifier: Verifier, problems: Sequence[Problem], texts: Sequence[str]
) -> list[Verdict]:
  """Returns the verdicts; each process of a cluster judges its share.

  All then have the same ones, whatever ran out of time where.
  """
  share = slice(cluster.current().index, None, cluster.current().size)
  own = verifier.judge(problems[share], texts[share])
  verdicts: list[Verdict] = [Verdict(0.0)] * len(texts)
  for i, part in enumerate(cluster.gather("verdicts", own)):
    verdicts[i :: cluster.current().size] = [Verdict(*v) for v in part]
  return verdicts


def hold_answer(
  verifier: Verifier,
  tokenizer: Tokenizer,
  problems: Sequence[Problem],
  prefixes: Sequence[np.ndarray],
) -> list[bool]:
  """Whether each prefix is already right, as it stands.

  Args:
    verifier: of the task.
    tokenizer: the policy's.
    problems, prefixes: aligned; prefixes are int [length].
  """
  nothing = np.zeros(0)
  stop = Completion(nothing.astype(np.int32), nothing, truncated=False)
  verdicts = judge(
    verifier, tokenizer, problems, prefixes, [stop] * len(problems)
  )
  return [verdict.reward > 0 for verdict in verdicts]
