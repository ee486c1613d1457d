"""The verifier of labels: True, False, Unknown; or the letters of a choice.

The answer stands where `answers.given` says, else in the last sentence. It
must name one label and no other; one that is denied ("not True") is no answer.
"""

import re
from collections.abc import Sequence

from prefixrl_jax.rewards import Verdict, answers
from prefixrl_jax.types import Problem, UserError

_SAME = {"uncertain": "unknown"}  # FOLIO's word and everybody's
_DENIAL = re.compile(
  r"\b(?:not|no|nor|neither|never|cannot|without|unlike)\b|n['’]t\b",
  re.IGNORECASE,
)
_LONGEST = 500  # characters; who needs more does not say a label


class LogicVerifier:
  """Compares the one label that a completion ends with to the gold one.

  A problem's metadata has `labels`, all that may be answered (list of str).
  Words count in upper and lower case, single letters as they are written.
  """

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`."""
    return [
      Verdict(float(_is_right(problem, text)))
      for problem, text in zip(problems, texts)
    ]

  def close(self) -> None:
    """Nothing to free."""


def extract_label(text: str, labels: Sequence[str]) -> str | None:
  """Returns the label that a completion answers with, None where none is.

  Args:
    text: completion.
    labels: all that may be answered.
  """
  found = answers.given(text)
  if not answers.is_marked(text):
    found = [answers.last_sentence(text)]
  named = {_label_in(answer, labels) for answer in found}
  return named.pop() if len(named) == 1 else None


def _is_right(problem: Problem, text: str) -> bool:
  labels = problem.metadata["labels"]
  gold = _label_in(problem.answer, labels)
  if gold is None:
    raise UserError(
      f"Problem {problem.id} has the answer {problem.answer!r}, which is none"
      f" of its labels: {', '.join(labels)}. Mend its answer or its labels."
    )
  return extract_label(text, labels) == gold


def _label_in(answer: str, labels: Sequence[str]) -> str | None:
  if len(answer) > _LONGEST or _DENIAL.search(answer):
    return None
  spoken = {_key(label): label for label in labels}
  spoken |= {
    word: spoken[same] for word, same in _SAME.items() if same in spoken
  }
  words = re.findall(r"[^\W_]+", answer.replace("\\text", " "))
  named = {spoken[_key(w)] for w in words if _key(w) in spoken}
  return named.pop() if len(named) == 1 else None


def _key(word: str) -> str:
  return word if len(word) == 1 else word.lower()
