"""Verifiers: a completion in, a reward out."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from prefixrl_jax.types import Problem


class Verdict(NamedTuple):
  """What a verifier says of one completion."""

  reward: float  # 1.0 correct, 0.0 wrong
  timed_out: bool = False  # judged 0 because the verifier ran out of time
  died: bool = False  # judged 0 because the verifier's process came to grief


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
