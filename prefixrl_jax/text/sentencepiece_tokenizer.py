"""Tokenizers of Hugging Face folders that have a sentencepiece model."""

from collections.abc import Sequence
from typing import Any

import google.protobuf.message
import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from prefixrl_jax.text.folder_tokenizer import (
  FolderTokenizer,
  is_control,
  read_json_if_any,
  read_tokenizer_config,
)
from prefixrl_jax.types import UserError


class SentencePieceTokenizer(FolderTokenizer):
  """A folder with a sentencepiece model: tokenizer.model."""

  def __init__(self, folder: epath.Path):
    """Reads tokenizer.model and the folder's configs.

    Args:
      folder: of the model.

    Raises:
      UserError: tokenizer.model is missing, or no stop token is named.
    """
    path = folder / "tokenizer.model"
    if not path.exists():
      raise UserError(f"{path} is missing.")
    proto = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]
    model, kind = _parse_pieces(path, proto), proto.SentencePiece
    settings = read_tokenizer_config(folder)
    decoder = settings.get("added_tokens_decoder") or {}
    named = read_json_if_any(folder / "added_tokens.json") | {
      token["content"]: int(i) for i, token in decoder.items()
    }
    added = {s: i for s, i in named.items() if is_control(s)}
    self._hidden = {int(i) for i, t in decoder.items() if t.get("special")}
    controls = {}
    for i, piece in enumerate(model.pieces):
      if piece.type == kind.CONTROL:
        controls[piece.piece] = i
      elif added.get(piece.piece) == i or (
        piece.type == kind.USER_DEFINED and is_control(piece.piece)
      ):
        controls[piece.piece] = i
        if piece.type != kind.UNKNOWN:
          piece.type = kind.UNUSED  # text never becomes it
    self._size = len(model.pieces)
    self._pieces = sentencepiece.SentencePieceProcessor(
      model_proto=model.SerializeToString()
    )
    rules = model.normalizer_spec.name
    self._spells_alike = rules in ("identity", "nfkc", "nmt_nfkc")
    self._adds_space = model.normalizer_spec.add_dummy_prefix
    self._opens = settings.get("add_bos_token") is not False
    eos = self._pieces.eos_id()
    super().__init__(
      folder,
      settings,
      controls=controls | added,
      text_size=self._size,
      eos=eos if eos >= 0 else None,
    )

  def decode(self, many: Sequence[Sequence[int]]) -> list[str]:
    """Returns texts of ids; of special tokens, only the marks of thoughts."""
    marks: list[list[str]] = []  # of each text
    parts: list[list[int]] = []  # of all texts; one more than marks of each
    for ids in many:
      marks.append([])
      parts.append([])
      for i in ids:
        if i in self._mark_ids:
          marks[-1].append(self._mark_ids[i])
          parts.append([])
        elif 0 <= i < self._size and i not in self._hidden:
          parts[-1].append(int(i))
    texts = iter(self._pieces.decode(parts))
    return [
      next(texts) + "".join(mark + next(texts) for mark in own) for own in marks
    ]

  def _encode_texts(self, texts: list[str], first: bool) -> list[list[int]]:
    # A template's space after a control token is the one that the model puts
    # before every text, as in the code that the models were trained with.
    if not first and self._adds_space:
      texts = [text.removeprefix(" ") for text in texts]
    return self._pieces.encode(texts)

  def _opening(self) -> list[int]:
    bos = self._pieces.bos_id()
    return [bos] if bos >= 0 and self._opens else []


def _parse_pieces(path: epath.Path, proto) -> Any:
  """Loads a sentencepiece model; other kinds of files have the same name."""
  content = path.read_bytes()
  try:
    model = proto.FromString(content)
  except google.protobuf.message.DecodeError:
    model = proto()
  if not model.pieces:
    pointer = content.startswith(b"version https://git-lfs")
    what = (
      "it is a pointer of Git LFS, whose file is still to be fetched"
      if pointer
      else "it is empty"
      if not content
      else "it may be of tiktoken, as Llama 3's is"
    )
    raise UserError(
      f"{path} is not a sentencepiece model ({what}); add the model's"
      " tokenizer.json, which is read in its place."
    )
  return model
