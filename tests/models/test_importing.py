"""Loading Hugging Face folders: exact, strict, sharded."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import save_file

from prefixrl_jax.models import attention, importing, transformer
from prefixrl_jax.types import UserError

_SETTINGS = dict(
  model_type="llama",
  hidden_size=24,
  num_hidden_layers=2,
  num_attention_heads=6,
  num_key_value_heads=2,
  head_dim=8,
  intermediate_size=40,
  vocab_size=17,
  rms_norm_eps=1e-5,
  rope_theta=10_000.0,
  hidden_act="silu",
  tie_word_embeddings=False,
)
_READ = dict(dtype="float32", param_dtype="float32", remat="none")


def _theirs(params, tied=False):
  """Our tree under their names, [outputs, inputs]."""
  p = jax.tree.map(np.asarray, params)
  tensors = {
    "model.embed_tokens.weight": p["embedding"],
    "model.norm.weight": p["final_norm"]["scale"],
  }
  if not tied:
    tensors["lm_head.weight"] = p["head"].T
  layers = p["layers"]
  for i in range(2):
    flat = lambda w, i=i: w[i].reshape(w.shape[1], -1).T
    name = f"model.layers.{i}."
    tensors |= {
      name + "input_layernorm.weight": layers["attention_norm"]["scale"][i],
      name + "post_attention_layernorm.weight": layers["mlp_norm"]["scale"][i],
      name + "self_attn.q_proj.weight": flat(layers["query"]),
      name + "self_attn.k_proj.weight": flat(layers["key"]),
      name + "self_attn.v_proj.weight": flat(layers["value"]),
      name + "self_attn.o_proj.weight": layers["output"][i].reshape(-1, 24).T,
      name + "mlp.gate_proj.weight": layers["gate"][i].T,
      name + "mlp.up_proj.weight": layers["up"][i].T,
      name + "mlp.down_proj.weight": layers["down"][i].T,
    }
  return {k: np.ascontiguousarray(v) for k, v in tensors.items()}


def _write(folder, tensors, num_files=1, **settings):
  (folder / "config.json").write_text(json.dumps(_SETTINGS | settings))
  names = sorted(tensors)
  if num_files == 1:
    save_file(tensors, folder / "model.safetensors")
  else:
    index = {
      n: f"part-{i % num_files}.safetensors" for i, n in enumerate(names)
    }
    for file in set(index.values()):
      save_file(
        {n: tensors[n] for n in names if index[n] == file}, folder / file
      )
    (folder / "model.safetensors.index.json").write_text(
      json.dumps({"weight_map": index})
    )
  return epath.Path(folder)


@pytest.mark.parametrize("num_files", [1, 3])
def test_loads_exactly_on_one_and_on_eight_devices(
  tmp_path, model, params, one_device, eight_devices, num_files
):
  folder = _write(tmp_path, _theirs(params), num_files)
  config = importing.read_config(folder, **_READ)
  assert config == model
  for mesh in (one_device, eight_devices):
    loaded = importing.load_params(folder, config, mesh)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
  assert len(loaded["layers"]["query"].sharding.device_set) == 8


def test_gives_weights_their_names(model, params):
  ours = importing.to_hugging_face(model, jax.device_get(params))
  theirs = _theirs(params)
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_loads_tied_embeddings(tmp_path, params, one_device):
  folder = _write(
    tmp_path, _theirs(params, tied=True), tie_word_embeddings=True
  )
  config = importing.read_config(folder, **_READ)
  assert "head" not in importing.load_params(folder, config, one_device)


def test_names_every_wrong_tensor(tmp_path, params, one_device):
  tensors = _theirs(params)
  del tensors["model.norm.weight"]
  tensors["extra"] = np.zeros(3, np.float32)
  tensors["lm_head.weight"] = np.zeros((17, 23), np.float32)
  folder = _write(tmp_path, tensors)
  config = importing.read_config(folder, **_READ)
  with pytest.raises(UserError) as e:
    importing.load_params(folder, config, one_device)
  for part in (
    "model.norm.weight is missing",
    "extra is unexpected",
    "lm_head.weight has shape (17, 23), expected (17, 24)",
  ):
    assert part in str(e.value)


@pytest.mark.parametrize(
  ("setting", "value"),
  [
    ("model_type", "mamba"),
    ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
    ("final_logit_softcapping", 30.0),
    ("sliding_window", 4096),
    ("attention_bias", True),
    ("hidden_act", "gelu"),
    ("quantization_config", {"bits": 4}),
  ],
)
def test_refuses_what_it_would_ignore(tmp_path, params, setting, value):
  folder = _write(tmp_path, _theirs(params), **{setting: value})
  with pytest.raises(UserError, match=setting):
    importing.read_config(folder, **_READ)


def test_says_what_to_do_instead(tmp_path, params):
  def message(**settings):
    folder = _write(tmp_path, _theirs(params), **settings)
    with pytest.raises(UserError) as e:
      importing.read_config(folder, **_READ)
    assert f"{folder}/config.json" in str(e.value)
    return str(e.value)

  known = message(model_type="mamba")
  assert "llama" in known
  assert "gemma3_text" in known
  assert "unquantised" in message(quantization_config={"bits": 4})
  assert "it must be False" in message(mlp_bias=True)
  assert "lacks 'factor'" in message(rope_scaling={"rope_type": "linear"})
  assert "beta_fast" in message(
    rope_parameters={"rope_type": "default", "beta_fast": 32}
  )
  assert "one a layer" in message(model_type="qwen2", layer_types=["full"])
  assert "mlp_only_layers = [0]" in message(
    model_type="qwen3_moe", mlp_only_layers=[0]
  )


def test_names_what_is_missing(tmp_path, params, one_device):
  with pytest.raises(UserError, match="no model folder"):
    importing.read_config(epath.Path(tmp_path / "none"), **_READ)
  with pytest.raises(UserError, match=r"config\.json is missing"):
    importing.read_config(epath.Path(tmp_path), **_READ)
  folder = _write(tmp_path, _theirs(params), 3)
  config = importing.read_config(folder, **_READ)
  (tmp_path / "part-1.safetensors").unlink()
  with pytest.raises(UserError, match="part-1"):
    importing.load_params(folder, config, one_device)


@pytest.mark.slow
def test_real_model_knows_the_capital_of_france(one_device):
  folder = os.environ.get("PREFIXRL_TEST_MODEL")
  if not folder:
    pytest.skip("PREFIXRL_TEST_MODEL names no model folder")
  from prefixrl_jax.rollouts.requests import Request
  from prefixrl_jax.rollouts.sampler import Sampler
  from prefixrl_jax.tokenizer import load_tokenizer

  path = epath.Path(folder)
  config = importing.read_config(path, **_READ)
  params = importing.load_params(path, config, one_device)
  tokenizer = load_tokenizer(path)
  sampler = Sampler(
    config,
    one_device,
    rows=1,
    lanes=1,
    trunk_length=64,
    completion_length=16,
    steps_per_dispatch=16,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    stop_tokens=tokenizer.stop_tokens,
  )
  sampler.load(params)
  prompt = tokenizer.encode_prompt("What is the capital of France?")
  [[completion]] = sampler.sample(
    [Request(np.array(prompt, np.int32), 1, 0, 0)],
    purpose="evaluation",
    seed=0,
  )
  assert tokenizer.decode(completion.tokens.tolist()) == (
    "The capital of France is Paris."
  )

  problems = pathlib.Path(__file__).parents[2] / (
    "../shared/data/gsm8k/test.jsonl"
  )
  if not problems.exists():
    pytest.skip("the GSM8K problems are not beside the project")
  texts = [
    json.loads(line)["problem"] for line in problems.read_text().splitlines()
  ]
  ids = tokenizer.encode("\n\n".join(texts[:60]))
  tokens = np.array(ids[:2048], np.int32).reshape(2, 1024)
  mask = jnp.tri(1024, dtype=bool)[None]

  @jax.jit
  def logprobs(params, tokens):
    hidden = transformer.forward(
      config,
      params,
      tokens,
      jnp.broadcast_to(jnp.arange(1024), tokens.shape),
      lambda q, k, v, _: attention.dense_attention(q, k, v, mask),
    )
    scores = transformer.logits(config, params, hidden[:, :-1])
    return jnp.take_along_axis(
      jax.nn.log_softmax(scores), tokens[:, 1:, None], -1
    )[..., 0]

  # A wrong rotary layout gives about 400.
  assert 10 < np.exp(-logprobs(params, tokens).mean()) < 12
