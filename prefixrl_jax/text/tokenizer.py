"""Text to token ids and back: one Protocol, three implementations."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from etils import epath

from prefixrl_jax.text.folder_tokenizer import JsonTokenizer, any_of
from prefixrl_jax.text.sentencepiece_tokenizer import SentencePieceTokenizer
from prefixrl_jax.types import UserError, one_line

# What malformed tokenizer files may raise.
_UNLIKE = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Tokenizer(Protocol):
  """Ids in and out; special tokens never come from user text.

  Attributes:
    vocab_size: above every id that a prompt or completion can have.
    pad: fills places without a token; may also be a stop token.
    stop_tokens: each ends a completion.
  """

  vocab_size: int
  pad: int
  stop_tokens: tuple[int, ...]

  def encode(self, text: str) -> list[int]:
    """Returns the text's ids, without special tokens."""
    ...

  def encode_prompts(self, texts: Iterable[str]) -> Iterator[list[int]]:
    """Yields the ids of problems, ready for the assistant's first token.

    Texts are read in batches, each encoded on all cores.
    """
    ...

  def most_tokens(self, text: str) -> float:
    """Returns a number that a prompt's tokens do not exceed, without counting.

    It is infinite where nothing is known.
    """
    ...

  def encode_replies(self, texts: Iterable[str]) -> Iterator[list[int]]:
    """Yields the ids of assistants' whole turns, after `encode_prompts`'.

    Thoughts are marked as the model itself marks them, and not begun again
    where the prompt has begun them; nothing else becomes a control token. Texts
    are read as in `encode_prompts`.
    """
    ...

  def decode(self, many: Sequence[Sequence[int]]) -> list[str]:
    """Returns the texts of lists of ids; unknown ids are skipped.

    The text of a completion that ends inside a character does not encode back
    to its ids, so ids are what is stored.
    """
    ...

  def prompt_text(self, text: str) -> str:
    """Returns what `encode_prompts` encodes, chat template included."""
    ...


class SymbolTokenizer:
  """A fixed list of symbols, for tasks with their own alphabet."""

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
    self.stop_tokens: tuple[int, ...] = (self._ids[stop],)
    self._pattern = any_of(symbols)

  def encode(self, text: str) -> list[int]:
    """Splits into symbols, longest first; spaces are skipped.

    Raises:
      UserError: something in it is not a symbol.
    """
    unknown = self._pattern.sub("", text).replace(" ", "")
    if unknown:
      raise UserError(f"{text!r} has {unknown!r}, which is not a symbol.")
    return [self._ids[s] for s in self._pattern.findall(text)]

  def encode_prompts(self, texts: Iterable[str]) -> Iterator[list[int]]:
    """Yields each text's ids."""
    return map(self.encode, texts)

  encode_replies = encode_prompts

  def most_tokens(self, text: str) -> float:
    """Returns the number of characters: each symbol has one or more."""
    return len(text)

  def decode(self, many: Sequence[Sequence[int]]) -> list[str]:
    """Joins the symbols, the stop symbol included."""
    return [
      "".join(self._symbols[i] for i in ids if 0 <= i < self.vocab_size)
      for ids in many
    ]

  def prompt_text(self, text: str) -> str:
    """Returns the text: there is no template."""
    return text


def with_stop(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
  """Returns a reply's ids with a stop token at their end.

  Args:
    tokenizer: of the ids.
    ids: of a whole reply; those of an alphabet have one already.
  """
  stops = tokenizer.stop_tokens
  return ids if ids and ids[-1] in stops else [*ids, stops[0]]


def load_tokenizer(folder: epath.Path) -> Tokenizer:
  """Returns the tokenizer in a model folder.

  Raises:
    UserError: there is none.
  """
  for name, kind in (
    ("tokenizer.json", JsonTokenizer),
    ("tokenizer.model", SentencePieceTokenizer),
  ):
    if (folder / name).exists():
      try:
        return kind(folder)
      # The files may be malformed in any way.
      except (*_UNLIKE, OSError) as e:
        raise UserError(
          f"{folder / name}, or a file beside it, is not a valid tokenizer"
          f" file: {one_line(e)}."
        ) from None
  raise UserError(f"{folder} has neither tokenizer.json nor tokenizer.model.")


def exceeding(
  tokenizer: Tokenizer, texts: Sequence[str], limit: int
) -> list[bool]:
  """Returns which prompts have more tokens than the limit.

  Only those that may exceed it are tokenised.
  """
  lengths = [tokenizer.most_tokens(text) for text in texts]
  unsure = [i for i, length in enumerate(lengths) if length > limit]
  prompts = tokenizer.encode_prompts(texts[i] for i in unsure)
  for i, ids in zip(unsure, prompts, strict=True):
    lengths[i] = len(ids)
  return [length > limit for length in lengths]


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
  """Refuses a tokenizer with ids that the model has no embedding for.

  Args:
    tokenizer: may have fewer ids, since embeddings are often padded.
    vocab_size: the size of the model's embedding.

  Raises:
    UserError: there are such ids.
  """
  if tokenizer.vocab_size > vocab_size:
    raise UserError(
      f"The tokenizer has {tokenizer.vocab_size} ids, but the model has an"
      f" embedding for only {vocab_size}: tokenizer and config.json belong to"
      " different models."
    )
