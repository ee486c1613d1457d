"""Text to token ids and back: one Protocol, three implementations."""

import re
from collections.abc import Sequence
from typing import Protocol

from prefixrl_jax.types import UserError


class Tokenizer(Protocol):
  """Ids in and out; special tokens never come from user text."""

  vocab_size: int
  pad: int
  stop_tokens: tuple[int, ...]

  def encode(self, text: str) -> list[int]:
    """Returns the text's ids, no special token added."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of the ids."""
    ...

  def encode_prompt(self, text: str) -> list[int]:
    """Returns the ids of a problem, ready for the assistant's first token."""
    ...


class SymbolTokenizer:
  """A fixed list of symbols, for tasks that bring their own alphabet."""

  def __init__(self, symbols: Sequence[str], *, pad: str, stop: str):
    """Numbers the symbols in their order.

    Args:
      symbols: all different.
      pad, stop: two of them.
    """
    self._symbols = tuple(symbols)
    self._ids = {s: i for i, s in enumerate(symbols)}
    self.vocab_size = len(symbols)
    self.pad = self._ids[pad]
    self.stop_tokens = (self._ids[stop],)
    longest_first = sorted(symbols, key=len, reverse=True)
    self._pattern = re.compile("|".join(map(re.escape, longest_first)))

  def encode(self, text: str) -> list[int]:
    """Splits into symbols, longest first; spaces are left out."""
    unknown = self._pattern.sub("", text).replace(" ", "")
    if unknown:
      raise UserError(f"{text!r} has {unknown!r}, which is no symbol.")
    return [self._ids[s] for s in self._pattern.findall(text)]

  def decode(self, ids: Sequence[int]) -> str:
    """Joins the symbols, the stop symbol included."""
    return "".join(self._symbols[i] for i in ids)

  encode_prompt = encode
