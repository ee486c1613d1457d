"""Tokenizers of Hugging Face folders: the common part, and tokenizer.json."""

import functools
import itertools
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tokenizers
from etils import epath

from prefixrl_jax.text import chat_template, thoughts
from prefixrl_jax.types import UserError

# Characters that are encoded at a time: enough to occupy all cores, while the
# libraries' data per token (100 bytes and more) stay small.
_PORTION = 1 << 18


class FolderTokenizer:
  """What the folder of a chat model adds to its vocabulary.

  A control token is one that only the template and the model may write: every
    added token except those of white space, which are ordinary text, whether or
    not the folder flags it as special (Qwen3 does not flag <think>).
  """

  # Control tokens that swallow white space on this side of them.
  _bare_left: Collection[str] = ()
  _bare_right: Collection[str] = ()
  # Whether an ASCII character is normalized independently of its neighbours
  # before it is looked up in the vocabulary, except for a mark before it.
  _spells_alike: bool = False

  def __init__(
    self,
    folder: epath.Path,
    settings: Mapping[str, Any],
    *,
    controls: Mapping[str, int],
    text_size: int,
    eos: int | None,
  ):
    """Finds the template, the stop tokens and the padding.

    Args:
      folder: of the model.
      settings: its tokenizer_config.json.
      controls: ids of the control tokens.
      text_size: above every id that text can have.
      eos: the end-of-text id, if the vocabulary itself has one.

    Raises:
      UserError: no stop token is named, or a file cannot be read.
    """
    special = {
      name: token if isinstance(token, str) else token["content"]
      for name, token in settings.items()
      # Older configs store a token with its settings.
      if name.endswith("_token") and isinstance(token, str | dict)
    }
    self._controls = controls
    self._pattern = any_of(controls)
    self._template = chat_template.find_template(folder, settings, special)
    shown = self._template.source if self._template else ""
    self._marks = thoughts.marks_of_model(controls, shown)
    # Verifiers must see where thoughts end.
    self._mark_ids = {controls[m]: m for m in self._marks if m in controls}
    named = controls.get(special.get("eos_token", ""), eos)
    self.stop_tokens: tuple[int, ...] = _find_stops(folder, named)
    # Padding is never read, so any token can stand for it.
    self.pad: int = controls.get(
      special.get("pad_token", ""), self.stop_tokens[0]
    )
    # Gemma 3's text models have no embedding for an image token that their
    # tokenizer has: a control token that is never written does not count.
    texts = [*special.values(), shown]
    written = [i for s, i in controls.items() if any(s in t for t in texts)]
    written += self._mark_ids
    last = max(text_size - 1, self.pad, *self.stop_tokens, *written)
    self.vocab_size: int = last + 1

  def encode(self, text: str) -> list[int]:
    """Returns the text's ids, which include no control token."""
    [ids] = self._encode_turns([[text]])
    return ids

  def encode_prompts(self, texts: Iterable[str]) -> Iterator[list[int]]:
    """Yields the chat template's prompts, open at the assistant's turn.

    An assistant's turn that has begun is these ids followed by its own. Control
    tokens are recognized only in the template's words; the user's text is
    encoded together with the words around it, up to the control tokens on
    either side, as in training.
    """
    opening = [] if self._template else self._opening()
    for ids in self._encode_turns(map(self._prompt_parts, texts)):
      yield [*opening, *ids]

  def most_tokens(self, text: str) -> float:
    """Returns a number that a prompt's tokens do not exceed, without counting.

    It is infinite where nothing is known.
    """
    if not text.isascii():
      return math.inf
    around, each = self._most_of_ascii
    return around + len(text) * each

  @functools.cached_property
  def _most_of_ascii(self) -> tuple[float, int]:
    """The maximum number of tokens per prompt and per character.

    On its own a character has at least as many as anywhere else: nothing merges
      with it.
    """
    parts = self._prompt_parts("")
    texts = "".join(parts[::2])
    if not self._spells_alike or not texts.isascii():
      return math.inf, 0
    alone = [chr(i) for i in range(128)]
    each = max(map(len, self._encode_texts(alone, True)))
    opening = [] if self._template else self._opening()
    return len(opening) + len(parts[1::2]) + len(texts) * each, each

  def _prompt_parts(self, text: str) -> list[str]:
    if self._template is None:
      return [text]
    before, text, after = self._template.around(text)
    *parts, left = self._pattern.split(before)
    right, *rest = self._pattern.split(after)
    return [*parts, left + text + right, *rest]

  def encode_replies(self, texts: Iterable[str]) -> Iterator[list[int]]:
    """Yields the ids of assistants' turns, thoughts marked by tokens."""
    return self._encode_turns(map(self._reply_parts, texts))

  def _reply_parts(self, text: str) -> list[str]:
    parts = [""]
    for i, part in enumerate(
      thoughts.respelled(text, self._marks, begun=self._thoughts_begun)
    ):
      if i % 2 and part in self._controls:
        parts += [part, ""]
      else:
        parts[-1] += part
    return parts

  @functools.cached_property
  def _thoughts_begun(self) -> bool:
    """Whether every prompt ends within thoughts."""
    return thoughts.split(self.prompt_text("x").rpartition("x")[2]).is_open

  def _encode_turns(
    self, all_parts: Iterable[Sequence[str]]
  ) -> Iterator[list[int]]:
    """Encodes lists of text and control tokens in turns, in batches.

    The libraries spread a batch's texts over the cores.
    """
    for portion in _portions(all_parts):
      turns = [self._without_swallowed(parts) for parts in portion]
      first = [parts[0] for parts in turns if parts[0]]
      later = [x for parts in turns for x in parts[2::2] if x]
      of_first = iter(self._encode_texts(first, True))
      of_later = iter(self._encode_texts(later, False))
      for parts in turns:
        ids = next(of_first) if parts[0] else []
        for control, text in zip(parts[1::2], parts[2::2]):
          ids.append(self._controls[control])
          ids += next(of_later) if text else []
        yield ids

  def _without_swallowed(self, parts: Sequence[str]) -> list[str]:
    """Removes the white space that control tokens swallow."""
    kept = list(parts)
    for i in range(1, len(kept), 2):
      if kept[i] in self._bare_left:
        kept[i - 1] = kept[i - 1].rstrip()
      if kept[i] in self._bare_right:
        kept[i + 1] = kept[i + 1].lstrip()
    return kept

  def prompt_text(self, text: str) -> str:
    """Returns the chat template around a user's text."""
    return (
      text if self._template is None else "".join(self._template.around(text))
    )

  def _encode_texts(self, texts: list[str], first: bool) -> list[list[int]]:
    """Encodes texts that are the first of their turns, or later ones."""
    raise NotImplementedError

  def _opening(self) -> list[int]:
    """Ids that every text begins with where there is no template."""
    raise NotImplementedError


class JsonTokenizer(FolderTokenizer):
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
    content = read_json_if_any(path)
    added = content.get("added_tokens") or []
    self._hidden = {t["id"] for t in added if t["special"]}
    controls = {t["content"]: t for t in added if is_control(t["content"])}
    for token in controls.values():
      token["special"] = True  # the library's term: not from text
    text = json.dumps(content)
    self._tokenizer = _from_json(path, text)
    # Some models put a space before the beginning of a text, and only there.
    scheme = '"prepend_scheme": "%s"'
    inner = text.replace(scheme % "first", scheme % "never")
    self._inner = self._tokenizer if inner == text else _from_json(path, inner)
    vocabulary = self._tokenizer.get_vocab()
    model = content["model"]
    unknown = {vocabulary.get(model.get("unk_token")), model.get("unk_id")}
    self._forbidden = {vocabulary[s] for s in controls} - unknown
    self._spells_alike = _spells_alike(content.get("normalizer"))
    self._bare_left = {s for s, t in controls.items() if t["lstrip"]}
    self._bare_right = {s for s, t in controls.items() if t["rstrip"]}
    super().__init__(
      folder,
      read_tokenizer_config(folder),
      controls={s: t["id"] for s, t in controls.items()},
      text_size=1 + max(i for s, i in vocabulary.items() if s not in controls),
      eos=None,
    )

  def decode(self, many: Sequence[Sequence[int]]) -> list[str]:
    """Returns texts of ids; of special tokens, only the marks of thoughts."""
    hidden = self._hidden - self._mark_ids.keys()
    return self._tokenizer.decode_batch(
      [
        ids
        if hidden.isdisjoint(ids) and self._all_known(ids)
        else [i for i in ids if 0 <= i < self.vocab_size and i not in hidden]
        for ids in many
      ],
      skip_special_tokens=False,
    )

  def _all_known(self, ids: Sequence[int]) -> bool:
    return not ids or (min(ids) >= 0 and max(ids) < self.vocab_size)

  def _encode_texts(self, texts: list[str], first: bool) -> list[list[int]]:
    encoded = (self._tokenizer if first else self._inner).encode_batch(
      texts, add_special_tokens=False
    )
    return [
      ids
      if self._forbidden.isdisjoint(ids := one.ids)
      else self._without_forbidden(text, one, first)
      for text, one in zip(texts, encoded)
    ]

  def _without_forbidden(
    self, text: str, encoded: tokenizers.Encoding, first: bool
  ) -> list[int]:
    """Encodes a text that the underlying model takes for a control token.

    It may have one among its words: such a word is cut after its first
      character.
    """
    if len(text) == 1:
      return [i for i in encoded.ids if i not in self._forbidden]
    cuts = {
      min(start + 1, len(text) - 1)
      for i, (start, _) in zip(encoded.ids, encoded.offsets)
      if i in self._forbidden
    }
    ends = sorted({0, *cuts, len(text)})
    head, *tail = (text[i:j] for i, j in itertools.pairwise(ends))
    ids = self._encode_texts([head], first) + self._encode_texts(tail, False)
    return list(itertools.chain(*ids))

  def _opening(self) -> list[int]:
    encoded = self._tokenizer.encode("a", add_special_tokens=True)
    return [
      i
      for i, _ in itertools.takewhile(
        lambda pair: pair[1], zip(encoded.ids, encoded.special_tokens_mask)
      )
    ]


def _portions(
  all_parts: Iterable[Sequence[str]],
) -> Iterator[list[Sequence[str]]]:
  """Yields lists with at least this many characters each, except the last."""
  portion: list[Sequence[str]] = []
  size = 0
  for parts in all_parts:
    portion.append(parts)
    size += sum(map(len, parts))
    if size >= _PORTION:
      yield portion
      portion, size = [], 0
  if portion:
    yield portion


def any_of(words: Collection[str]) -> re.Pattern:
  """Matches the longest of the words, as a group; nothing if there are none."""
  longest_first = sorted(words, key=len, reverse=True)
  return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


def is_control(content: str) -> bool:
  """White space is text, and so is what has no other encoding."""
  return len(content) > 1 and bool(content.replace("\u2581", " ").strip())


def _spells_alike(normalizer: Mapping[str, Any] | None) -> bool:
  """Whether a normalizer treats ASCII character by character."""
  if normalizer is None:
    return True
  kind = normalizer["type"]
  if kind == "Sequence":
    return all(map(_spells_alike, normalizer["normalizers"]))
  if kind == "Replace":
    return len(normalizer["pattern"].get("String", "")) == 1
  return kind in ("Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Prepend", "Strip")


def _find_stops(folder: epath.Path, eos: int | None) -> tuple[int, ...]:
  """The generation config may name several, the tokenizer's is one more."""
  stops: list[int] = []
  for name in ("generation_config.json", "config.json"):
    value = read_json_if_any(folder / name).get("eos_token_id")
    if value is not None:
      stops += value if isinstance(value, list) else [value]
  if eos is not None:
    stops.append(eos)
  if not stops:
    raise UserError(
      f"{folder} names no stop token: set eos_token_id in"
      " generation_config.json."
    )
  return tuple(dict.fromkeys(stops))


def read_tokenizer_config(folder: epath.Path) -> dict[str, Any]:
  """Older folders have the names of special tokens in a separate file."""
  special = read_json_if_any(folder / "special_tokens_map.json")
  return special | read_json_if_any(folder / "tokenizer_config.json")


def _from_json(path: epath.Path, text: str) -> tokenizers.Tokenizer:
  try:
    tokenizer = tokenizers.Tokenizer.from_str(text)
  except Exception as e:  # the library raises no specific type
    raise UserError(f"{path} is not a tokenizer: {e}.") from None
  # User text that looks like a special token is encoded as plain text.
  tokenizer.encode_special_tokens = True
  # Some files still have the settings they were saved with.
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return tokenizer


def read_json_if_any(path: epath.Path) -> dict[str, Any]:
  """Returns the JSON object in a file; an empty one if there is no file.

  Raises:
    UserError: it cannot be read, or is no JSON object.
  """
  if not path.exists():
    return {}
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as e:
    said = " ".join(str(e).split())
    raise UserError(f"{path} cannot be read as JSON: {said}.") from None
  if not isinstance(content, dict):
    raise UserError(f"{path} is no JSON object.")
  return content
