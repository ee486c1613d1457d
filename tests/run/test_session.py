"""Opening a session: what is refused before any weight is read."""

import importlib.resources
import json

import jax
import pytest
import tokenizers
from etils import epath

from prefixrl_jax.configs import code, demo, math
from prefixrl_jax.rewards.logic import LogicVerifier
from prefixrl_jax.run.session import open_session
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.types import UserError


def _folder(path, *, vocab_size):
  """A model with 40 words and no weights."""
  words = {f"w{i}": i for i in range(40)}
  tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0")).save(
    str(path / "tokenizer.json")
  )
  (path / "config.json").write_text(
    json.dumps(
      {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocab_size,
        "eos_token_id": 1,
      }
    )
  )
  return dict(
    folder=epath.Path(path),
    base=epath.Path("none"),
    verifier=LogicVerifier(),
    show=print,
  )


def test_tokenizer_of_another_model_is_an_error(tmp_path):
  config = math.get_config("trial=true")
  with pytest.raises(UserError, match=r"40 ids, .* embedding for only 39"):
    open_session(config, **_folder(tmp_path, vocab_size=39))


def test_without_a_sandbox_the_code_task_does_not_start(tmp_path, monkeypatch):
  config = code.get_config("trial=true")
  monkeypatch.setenv("PATH", str(tmp_path))
  _folder(tmp_path, vocab_size=40)
  config.model.folder = str(tmp_path)
  work = Workspace(config, epath.Path(tmp_path / "run"))
  with pytest.raises(UserError, match=r"install bubblewrap(.|\n)*unsafe_sub"):
    _ = work.session


@pytest.mark.parametrize(
  ("dtype", "precision"), [("float32", "highest"), ("bfloat16", None)]
)
def test_a_session_in_float32_asks_for_it(
  change_backend, default_precision, dtype, precision
):
  """As on a GPU, whose products are in TF32 unless it is told otherwise."""
  change_backend(float32_precision="highest")
  config = demo.get_config("tiny=true")
  config.model.dtype = dtype
  data = importlib.resources.files("prefixrl_jax") / "data"
  open_session(
    config,
    folder=None,
    base=epath.Path(str(data / "demo_base.safetensors")),
    verifier=LogicVerifier(),
    show=print,
  )
  assert jax.config.values["jax_default_matmul_precision"] == precision


@pytest.mark.parametrize(
  ("fields", "text", "message"),
  [
    ({"model.width": 64}, None, r"shape .* \(30, 32\), .* \(30, 64\)"),
    ({"model.num_layers": 2}, None, r"\(3, 32.*, config.model asks for \(2,"),
    ({"model.mlp": "gated_silu"}, None, r"gate.* has shape None"),
    ({}, "# Read me", "base.safetensors is no safetensors file"),
  ],
)
def test_a_base_of_another_shape_is_named(tmp_path, fields, text, message):
  config = demo.get_config("tiny=true")
  config.update_from_flattened_dict(fields)
  base = importlib.resources.files("prefixrl_jax") / "data"
  base = epath.Path(str(base / "demo_base.safetensors"))
  if text:
    base = epath.Path(tmp_path / "base.safetensors")
    base.write_text(text)
  with pytest.raises(UserError, match=message):
    open_session(
      config, folder=None, base=base, verifier=LogicVerifier(), show=print
    )
