"""Opening a session: what is refused before any weight is read."""

import json

import pytest
import tokenizers
from etils import epath

from configs import math
from prefixrl_jax.session import open_session
from prefixrl_jax.types import UserError


def test_tokenizer_of_another_model_is_an_error(tmp_path):
  words = {f"w{i}": i for i in range(40)}
  tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0")).save(
    str(tmp_path / "tokenizer.json")
  )
  (tmp_path / "config.json").write_text(
    json.dumps(
      {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-5,
        "vocab_size": 39,
        "eos_token_id": 1,
      }
    )
  )
  config = math.get_config("trial=true")
  with pytest.raises(UserError, match=r"40 ids, .* embedding for 39"):
    open_session(
      config, folder=epath.Path(tmp_path), base=epath.Path("none"), show=print
    )
