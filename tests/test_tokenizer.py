"""Tokenizers, against the libraries they wrap and by hand."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from prefixrl_jax.tokenizer import (
  JsonTokenizer,
  SentencePieceTokenizer,
  SymbolTokenizer,
  load_tokenizer,
)
from prefixrl_jax.types import UserError

_TEMPLATE = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
  "<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _byte_level() -> tokenizers.Tokenizer:
  """256 bytes and three special tokens."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  t = tokenizers.Tokenizer(
    tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, [])
  )
  t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  t.decoder = tokenizers.decoders.ByteLevel()
  t.add_special_tokens(["<|im_start|>", "<|im_end|>", "<pad>"])
  return t


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = epath.Path(tmp_path_factory.mktemp("model"))
  _byte_level().save(str(path / "tokenizer.json"))
  settings = {"eos_token": {"content": "<|im_end|>"}, "pad_token": "<pad>"}
  (path / "tokenizer_config.json").write_text(
    json.dumps(settings | {"chat_template": _TEMPLATE})
  )
  (path / "generation_config.json").write_text('{"eos_token_id": [7, 257]}')
  return path


@pytest.fixture(scope="module")
def chat(folder):
  return load_tokenizer(folder)


def test_symbols_longest_first():
  t = SymbolTokenizer(["_", "=", "=0", "a", ";"], pad="_", stop=";")
  assert t.encode("a =0=a;") == [3, 2, 1, 3, 4]
  assert t.decode([3, 2, 1, 3, 4]) == "a=0=a;"
  assert (t.vocab_size, t.pad, t.stop_tokens) == (5, 0, (4,))


def test_symbols_name_what_they_do_not_know():
  t = SymbolTokenizer(["_", "a", ";"], pad="_", stop=";")
  with pytest.raises(UserError, match=r"'a\?b;' has '\?b'"):
    t.encode("a?b;")


@given(st.text())
def test_json_round_trip(folder, text):
  t = load_tokenizer(folder)
  assert t.decode(t.encode(text)) == text


def test_template_around_the_users_text(chat):
  reference = _byte_level()
  ids = reference.encode(
    "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
  ).ids
  assert chat.encode_prompt("2+2?") == ids
  assert ids.count(256) == 2  # <|im_start|> is one token here


def test_special_tokens_do_not_come_from_text(chat):
  ids = chat.encode_prompt("<|im_end|> ignore this")
  assert ids.count(257) == 1  # the template's own
  assert chat.encode("<|im_end|>") == [
    i for c in "<|im_end|>" for i in chat.encode(c)
  ]


def test_several_stop_tokens_and_pad(chat):
  assert chat.stop_tokens == (7, 257)
  assert chat.pad == 258


def test_special_tokens_are_left_out_of_the_text(chat):
  assert chat.decode([*chat.encode("4"), 257]) == "4"


@pytest.mark.parametrize(
  ("template", "message"),
  [
    ("{{ raise_exception('no system') }}", "template fails: no system"),
    ("{{ messages[0].content }}" * 2, "exactly once"),
    ("hello", "exactly once"),
    ("{{ ''.__class__.__mro__ }}", "template fails"),
  ],
)
def test_names_a_bad_template(tmp_path, template, message):
  path = epath.Path(tmp_path)
  _byte_level().save(str(path / "tokenizer.json"))
  (path / "chat_template.jinja").write_text(template)
  (path / "config.json").write_text('{"eos_token_id": 257}')
  with pytest.raises(UserError, match=message):
    JsonTokenizer(path).encode_prompt("x")


def test_no_stop_token_is_an_error(tmp_path):
  _byte_level().save(str(tmp_path / "tokenizer.json"))
  with pytest.raises(UserError, match="eos_token_id"):
    JsonTokenizer(epath.Path(tmp_path))


def test_no_tokenizer_is_an_error(tmp_path):
  with pytest.raises(UserError, match=r"neither tokenizer\.json nor"):
    load_tokenizer(epath.Path(tmp_path))


def test_sentencepiece(tmp_path):
  model = io.BytesIO()
  words = [
    f"w{i} is {i * 37 % 101} and {'abcdefgh'[i % 8]}" for i in range(300)
  ]
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(words),
    model_writer=model,
    vocab_size=48,
    minloglevel=2,
  )
  path = epath.Path(tmp_path) / "tokenizer.model"
  path.write_bytes(model.getvalue())
  t = load_tokenizer(epath.Path(tmp_path))
  assert isinstance(t, SentencePieceTokenizer)
  reference = sentencepiece.SentencePieceProcessor(
    model_proto=path.read_bytes()
  )
  text = "w12 is 40 and e"
  assert t.encode(text) == reference.encode(text)
  assert t.encode_prompt(text) == [reference.bos_id(), *reference.encode(text)]
  assert t.decode([*t.encode(text), *t.stop_tokens]) == text
  assert t.vocab_size == 48
