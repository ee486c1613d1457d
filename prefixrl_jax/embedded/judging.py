"""What verifiers of embedded tasks share: each text is judged by itself."""

import abc
from collections.abc import Sequence

from prefixrl_jax.text.thoughts import without_thoughts
from prefixrl_jax.types import Problem, Verdict


class TextVerifier(abc.ABC):
  """Rewards a correct completion with 1 and any other with 0."""

  @abc.abstractmethod
  def is_correct(self, problem: Problem, text: str) -> bool:
    """Whether a completion, without its thoughts, is correct."""

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`."""
    return [
      Verdict(float(self.is_correct(problem, without_thoughts(text))))
      for problem, text in zip(problems, texts)
    ]

  def close(self) -> None:  # noqa: B027 - most have nothing to free
    """Nothing to free."""
