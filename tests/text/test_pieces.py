"""Tokens' own texts: joined they are the completion's."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from etils import epath

from prefixrl_jax.text.pieces import token_pieces
from prefixrl_jax.text.tokenizer import (
  JsonTokenizer,
  SymbolTokenizer,
  load_tokenizer,
)


@pytest.fixture(scope="module")
def bytes_tokenizer(tmp_path_factory):
  """Each byte is a token, and so is `he`; <stop> is none of the text."""
  path = tmp_path_factory.mktemp("bytes")
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {c: i for i, c in enumerate([*alphabet, "he", "<stop>"])}
  model = tokenizers.models.BPE(vocab=vocabulary, merges=[("h", "e")])
  t = tokenizers.Tokenizer(model)
  t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  t.decoder = tokenizers.decoders.ByteLevel()
  t.add_special_tokens(["<stop>"])
  t.save(str(path / "tokenizer.json"))
  stop = {"eos_token_id": vocabulary["<stop>"]}
  (path / "generation_config.json").write_text(json.dumps(stop))
  return JsonTokenizer(epath.Path(path))


@pytest.mark.parametrize(
  ("text", "pieces"),
  [
    ("he he", ["he", " ", "he"]),
    ("aé!", ["a", "é", "", "!"]),  # é is of two bytes
    ("é€x", ["é€", "", "", "", "", "x"]),  # of two and three
    ("", []),
    ("\n\t\u2028", ["\n", "\t", "\u2028", "", ""]),
  ],
)
def test_a_character_of_several_tokens_is_the_firsts(
  bytes_tokenizer, text, pieces
):
  assert token_pieces(bytes_tokenizer, [bytes_tokenizer.encode(text)]) == [
    pieces
  ]


def test_what_is_no_text_and_what_is_no_whole_character(bytes_tokenizer):
  [stop] = bytes_tokenizer.stop_tokens
  half = bytes_tokenizer.encode("é")[:1]
  ids = [*bytes_tokenizer.encode("a"), *half]
  assert token_pieces(bytes_tokenizer, [ids, [stop], [*ids[:1], stop]]) == [
    ["a", "\ufffd"],
    [""],
    ["a", ""],
  ]


def test_symbols_are_themselves():
  t = SymbolTokenizer(["_", "=0", "a", ";"], pad="_", stop=";")
  assert token_pieces(t, [[2, 1, 3], []]) == [["a", "=0", ";"], []]


def test_sentencepiece_keeps_the_space_before_a_word(tmp_path):
  trained = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["one two", "two one two"] * 9),
    model_writer=trained,
    model_type="bpe",
    vocab_size=274,
    byte_fallback=True,
    minloglevel=2,
  )
  (tmp_path / "tokenizer.model").write_bytes(trained.getvalue())
  t = load_tokenizer(epath.Path(tmp_path))
  ids = t.encode("two one€ two")
  [pieces] = token_pieces(t, [ids])
  assert len(pieces) == len(ids)
  assert "".join(pieces) == "two one€ two"
  assert [p for p in pieces if p.strip()][-1] == " two"
  assert pieces[pieces.index("€") :][1:3] == ["", ""]
