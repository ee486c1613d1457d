"""The verifier of checksum chains: answers count, working does not."""

import re
from collections.abc import Sequence

from prefixrl_jax.rewards import Verdict
from prefixrl_jax.thoughts import without_thoughts
from prefixrl_jax.types import Problem

_BLOCK = re.compile(r"([a-j])((?:\d:\d){3})?(=\d)")


def worked_share(text: str) -> float:
  """Returns the share of the text's blocks that are worked."""
  blocks = _BLOCK.findall(text)
  return sum(bool(work) for _, work, _ in blocks) / max(1, len(blocks))


class ChecksumVerifier:
  """Compares the sequence of (label, answer), and the end, with the gold.

  A completion must be blocks and `;`, nothing else. A block is direct (`a=0`)
  or worked (`a4:13:18:0=0`); what stands in the working is not looked at.
  """

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`."""
    return [
      Verdict(float(_answers(without_thoughts(text)) == problem.answer))
      for problem, text in zip(problems, texts)
    ]

  def close(self) -> None:
    """Nothing to free."""


def _answers(text: str) -> str | None:
  if not text.endswith(";") or _BLOCK.sub("", text) != ";":
    return None
  return " ".join(label + answer for label, _, answer in _BLOCK.findall(text))
