"""Host types: what travels between the stages. Numpy only, never jax."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

# What FLOPs and tokens are spent on, for the ledger.
PURPOSES = (
  "screening",
  "collection",
  "sft",
  "sampling",
  "scoring",
  "update",
  "evaluation",
)
# What an arm's place on the x axis sums up. Screening is shown separately,
# since the paper leaves it out, and evaluation is no cost of training.
TRAINING = ("collection", "sft", "sampling", "scoring", "update")


class Preempted(BaseException):
  """SIGTERM came. Like Ctrl-C, `except Exception` must not catch it."""


class UserError(Exception):
  """An error the user can fix; main prints it without a stack trace."""


class NonFiniteError(UserError):
  """A policy or its update is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Problem:
  """A question with a checkable answer.

  `index` is the problem's place in its source; random keys are derived from it,
  so they do not depend on which other problems are in a run.
  """

  id: str
  prompt: str
  answer: str
  source: str
  split: str  # "train", "heldout" or "easy"
  index: int
  metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Trace:
  """A stored, verified, off-policy completion of a problem.

  logprobs are those of the policy that wrote it, unmodified, at its sampling
  temperature; None: nobody recorded them.
  """

  problem_id: str
  tokens: np.ndarray  # int32 [trace length]; the stop token is the last one
  text: str
  reward: float
  policy: str  # its author: "<id>@<weight hash>"
  attempt: int  # which sample of the problem it was, from 0
  seed: int
  prompt_length: int  # tokens of the prompt it was sampled from
  logprobs: np.ndarray | None = None  # float32 [trace length]


@dataclasses.dataclass(frozen=True)
class PrefixedProblem:
  """A problem and the beginning of an answer; an empty prefix is no-prefix."""

  problem_id: str
  prefix: np.ndarray  # int32 [prefix length]
  fraction: float  # prefix length / trace length
  trace_policy: str
  trace_attempt: int


@dataclasses.dataclass(frozen=True)
class Completion:
  """What one lane sampled.

  logprobs are those of the unmodified policy at the sampling temperature.
  """

  tokens: np.ndarray  # int32 [completion length], the stop token included
  logprobs: np.ndarray  # float32 [completion length]
  truncated: bool  # the length limit came before a stop token


class Verdict(NamedTuple):
  """A verifier's judgement of one completion."""

  reward: float  # 1.0 correct, 0.0 wrong
  timed_out: bool = False  # judged 0 because the verifier ran out of time
  died: bool = False  # judged 0 because the verifier's process crashed


class Verifier(Protocol):
  """Judges completions of problems."""

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """Judges texts[i] (prefix and completion) as an answer to problems[i]."""
    ...

  def close(self) -> None:
    """Frees worker processes, if any."""
    ...


@dataclasses.dataclass(frozen=True)
class EvalResult:
  """Completions of one problem from one prefix fraction, judged."""

  problem_id: str
  split: str
  fraction: float
  num_samples: int
  num_correct: int


@dataclasses.dataclass(frozen=True)
class TrainData:
  """What the earlier stages made for one seed.

  Attributes:
    train: the hard problems that are trained on.
    heldout: problems that are not, hard or not.
    hard_heldout: ids of the hard ones among them.
    traces, prefixed: of the train problems.
    ledger: what the traces cost, {purpose: fields}.
    pass_rates: what screening found of the train problems, by id.
    easy: training problems that are not hard, for arms that mix them in.
  """

  train: Sequence[Problem]
  heldout: Sequence[Problem] = ()
  hard_heldout: frozenset[str] = frozenset()
  traces: Sequence[Trace] = ()
  prefixed: Sequence[PrefixedProblem] = ()
  ledger: dict = dataclasses.field(default_factory=dict)
  pass_rates: dict[str, float] = dataclasses.field(default_factory=dict)
  easy: Sequence[Problem] = ()


@dataclasses.dataclass
class SamplingUsage:
  """What sampling cost, for the ledger."""

  completions: int = 0
  input_tokens: int = 0  # trunk tokens, counted for every completion
  output_tokens: int = 0
  prefill_tokens: int = 0  # executed: padding included, shared trunks once
  decode_tokens: int = 0  # executed: idle lanes included
  pairs: float = 0.0  # executed: query-key pairs, masked ones included
  seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class UpdateUsage:
  """What an update cost, for the ledger.

  Attributes:
    tokens: input + output tokens of every sequence (the paper's D).
    work: what the device did, fields of `learner.update.WORK`.
    tokens_per_microbatch: rows times their length, padding included.
    has_reference: whether the base policy ran forward too.
    keeps_logits: whether a chunk is a whole row, so that XLA keeps the logits
      for the backward pass; otherwise it recomputes them.
    seconds: wall-clock.
    has_critic_trunk: whether a critic's own trunk was trained too.
  """

  tokens: int
  work: dict[str, float]
  tokens_per_microbatch: int
  has_reference: bool
  keeps_logits: bool
  seconds: float
  has_critic_trunk: bool = False


@dataclasses.dataclass(frozen=True)
class ScoringUsage:
  """What a scoring pass cost, for the ledger.

  Attributes:
    tokens: see `UpdateUsage`.
    work: what the device did in one pass; logits are of all passes.
    tokens_per_microbatch: see `UpdateUsage`.
    passes: how many models ran forward.
    seconds: wall-clock.
  """

  tokens: int
  work: dict[str, float]
  tokens_per_microbatch: int
  passes: int
  seconds: float


def one_line(e: BaseException) -> str:
  """Returns an exception's type and message in one short line."""
  text = " ".join(str(e).split())
  short = f"{text[:400]} …" if text[400:] else text
  return f"{type(e).__name__}: {short}" if text else type(e).__name__
