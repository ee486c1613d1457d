"""A tokenizer of text whose tokens are its bytes."""

from prefixrl_jax.types import UserError


class Letters:
  """A token a character; 0 stops, 1 pads."""

  vocab_size, pad, stop_tokens = 256, 1, (0,)

  def encode(self, text):
    if "\x01" in text:
      raise UserError("padding is no text")
    return list(text.encode())

  def encode_prompts(self, texts):
    return map(self.encode, texts)

  encode_replies = encode_prompts

  def decode(self, many):
    return [bytes(i for i in ids if i).decode() for ids in many]
