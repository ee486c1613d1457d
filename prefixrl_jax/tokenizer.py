"""Text to token ids and back: one Protocol, three implementations."""

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

import jinja2
import jinja2.sandbox
import sentencepiece
import tokenizers
from etils import epath

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
    self.stop_tokens: tuple[int, ...] = (self._ids[stop],)
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


class JsonTokenizer:
  """A Hugging Face folder's tokenizer.json and chat template."""

  def __init__(self, folder: epath.Path):
    """Reads tokenizer.json and the folder's configs.

    Args:
      folder: of the model.

    Raises:
      UserError: tokenizer.json is missing, or no stop token is named.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
      raise UserError(f"{path} is missing.")
    self._folder = folder
    self._tokenizer = tokenizers.Tokenizer.from_str(path.read_text())
    # User text that looks like a special token is encoded as plain text.
    self._tokenizer.encode_special_tokens = True
    self.vocab_size = self._tokenizer.get_vocab_size()
    settings = _optional_json(folder / "tokenizer_config.json")
    self._special = {
      name: _token_text(settings[name])
      for name in ("bos_token", "eos_token", "pad_token", "unk_token")
      if settings.get(name)
    }
    self.stop_tokens = self._find_stops()
    # Padding is never looked at, so that any token can stand for it.
    pad = self._tokenizer.token_to_id(self._special.get("pad_token", ""))
    self.pad: int = self.stop_tokens[0] if pad is None else pad
    template_file = folder / "chat_template.jinja"
    self._template: str = (
      template_file.read_text()
      if template_file.exists()
      else settings.get("chat_template") or ""
    )

  def encode(self, text: str) -> list[int]:
    """Returns the text's ids; special tokens cannot come from it."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of the ids, special tokens left out."""
    return self._tokenizer.decode(list(ids), skip_special_tokens=True)

  def encode_prompt(self, text: str) -> list[int]:
    """Returns the chat template's prompt, open at the assistant's turn.

    The template is rendered around a marker, so that the user's text is
    encoded apart from it and no special token can come from that text.
    """
    if not self._template:
      return self.encode(text)
    marker = "\ufffcuser text\ufffc"
    before, found, after = self._render(marker).partition(marker)
    if not found or marker in after:
      raise UserError(
        f"{self._folder}: the chat template does not show the user's text"
        " exactly once."
      )
    self._tokenizer.encode_special_tokens = False
    try:
      opening, closing = (
        self._tokenizer.encode(part, add_special_tokens=False).ids
        for part in (before, after)
      )
    finally:
      self._tokenizer.encode_special_tokens = True
    return [*opening, *self.encode(text), *closing]

  def _render(self, content: str) -> str:
    def refuse(message):
      raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["raise_exception"] = refuse
    try:
      return environment.from_string(self._template).render(
        messages=[{"role": "user", "content": content}],
        add_generation_prompt=True,
        **self._special,
      )
    except jinja2.TemplateError as e:
      raise UserError(f"{self._folder}: the chat template fails: {e}") from None

  def _find_stops(self) -> tuple[int, ...]:
    stops: list[int] = []
    for name in ("generation_config.json", "config.json"):
      value = _optional_json(self._folder / name).get("eos_token_id")
      if value is not None:
        stops += value if isinstance(value, list) else [value]
    eos = self._tokenizer.token_to_id(self._special.get("eos_token", ""))
    if eos is not None:
      stops.append(eos)
    if not stops:
      raise UserError(
        f"{self._folder} names no stop token: set eos_token_id in"
        " generation_config.json."
      )
    return tuple(dict.fromkeys(stops))


class SentencePieceTokenizer:
  """A sentencepiece .model file, without a chat template."""

  def __init__(self, path: epath.Path):
    """Reads the model."""
    if not path.exists():
      raise UserError(f"{path} is missing.")
    self._pieces = sentencepiece.SentencePieceProcessor(
      model_proto=path.read_bytes()
    )
    self.vocab_size = self._pieces.vocab_size()
    self.stop_tokens: tuple[int, ...] = (self._pieces.eos_id(),)
    self.pad = max(self._pieces.pad_id(), 0)

  def encode(self, text: str) -> list[int]:
    """Returns the text's ids, no special token added."""
    return self._pieces.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of the ids; control pieces are left out."""
    return self._pieces.decode(
      [int(i) for i in ids if not self._pieces.is_control(int(i))]
    )

  def encode_prompt(self, text: str) -> list[int]:
    """Returns the beginning-of-sequence token, if any, and the text's ids."""
    bos = self._pieces.bos_id()
    return ([bos] if bos >= 0 else []) + self.encode(text)


def load_tokenizer(folder: epath.Path) -> Tokenizer:
  """Returns the tokenizer that a model folder holds.

  Raises:
    UserError: there is none.
  """
  if (folder / "tokenizer.json").exists():
    return JsonTokenizer(folder)
  if (folder / "tokenizer.model").exists():
    return SentencePieceTokenizer(folder / "tokenizer.model")
  raise UserError(f"{folder} has neither tokenizer.json nor tokenizer.model.")


def _optional_json(path: epath.Path) -> dict[str, Any]:
  if not path.exists():
    return {}
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as e:
    raise UserError(f"{path} is not JSON: {e}.") from None


def _token_text(token: str | dict[str, Any]) -> str:
  """Older configs keep a token with its settings."""
  return token if isinstance(token, str) else token["content"]
