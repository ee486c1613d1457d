"""Loading Hugging Face folders: exact, strict, sharded."""

import gc
import json
import os
import pathlib
import time
import tracemalloc

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import save_file

from prefixrl_jax.models import (
  attention,
  folders,
  importing,
  parameters,
  transformer,
)
from prefixrl_jax.models.families import FAMILIES, Family
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
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
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
    loaded = importing.load_weights(folder, config, mesh)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
  assert len(loaded["layers"]["query"].sharding.device_set) == 8


def test_gives_weights_their_names(model, params):
  ours = importing.to_hugging_face(jax.device_get(params))
  theirs = _theirs(params)
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_loads_tied_embeddings(tmp_path, params, one_device):
  folder = _write(
    tmp_path, _theirs(params, tied=True), tie_word_embeddings=True
  )
  config = importing.read_config(folder, **_READ)
  assert "head" not in importing.load_weights(folder, config, one_device)


def test_a_tied_model_may_be_stored_as_its_head_alone(
  tmp_path, params, one_device
):
  """As safetensors' own save_model leaves it; transformers 5 loads it so."""
  tensors = _theirs(params)
  del tensors["model.embed_tokens.weight"]
  tensors["lm_head.weight"] = np.asarray(params["embedding"])
  (tmp_path / "tied").mkdir()
  tied = _write(tmp_path / "tied", tensors, 3, tie_word_embeddings=True)
  config = importing.read_config(tied, **_READ)
  loaded = importing.load_weights(tied, config, one_device)
  np.testing.assert_array_equal(loaded["embedding"], params["embedding"])
  assert "head" not in loaded
  untied = _write(tmp_path, tensors)
  with pytest.raises(UserError, match=r"embed_tokens\.weight is missing"):
    importing.load_weights(
      untied, importing.read_config(untied, **_READ), one_device
    )


@pytest.mark.parametrize(
  "name",
  [
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.layers.1.self_attn.rotary_emb.original_inv_freq",
    "model.layers.1.self_attn.rotary_emb.cos_cached",
    "model.rotary_emb.inv_freq",
    "model.rotary_emb_local.inv_freq",
    "rotary_emb.sin_cached",
  ],
)
def test_buffers_that_config_json_gives_are_passed_over(
  tmp_path, params, one_device, name
):
  folder = _write(tmp_path, _theirs(params) | {name: np.ones(4, np.float32)})
  config = importing.read_config(folder, **_READ)
  loaded = importing.load_weights(folder, config, one_device)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.parametrize(
  "name",
  [
    "model.layers.0.self_attn.extra.weight",
    "model.layers.0.self_attn.rotary_emb.weight",
    "model.layers.0.self_attn.inv_freq",
    "model.layers.0.my_rotary_emb.inv_freq",
  ],
)
def test_no_other_tensor_is_passed_over(tmp_path, params, one_device, name):
  folder = _write(tmp_path, _theirs(params) | {name: np.ones(4, np.float32)})
  config = importing.read_config(folder, **_READ)
  with pytest.raises(UserError, match=f"{name} is unexpected"):
    importing.load_weights(folder, config, one_device)


@pytest.mark.parametrize(
  "settings",
  [
    {"pretraining_tp": 2},
    {"rope_scaling": {"type": "default", "factor": 1.0}},
    {"rope_scaling": {"rope_type": "default", "factor": 8.0}},
    {"rope_scaling": {"type": None, "original_max_position_embeddings": 8}},
    {"rope_scaling": {}},
    {"rope_parameters": {"rope_type": "default", "beta_fast": 32}},
    {"rope_parameters": {"partial_rotary_factor": 1.0}},
    {"logits_scaling": 1.0, "embedding_multiplier": 1, "logit_scale": 1.0},
    {"residual_multiplier": 1.0, "hidden_act": "swish"},
    {"hidden_activation": "silu", "mlp_bias": False, "attention_bias": None},
    {"num_experts": 0, "clip_qkv": None, "use_sliding_window": False},
    {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    {"quantization_config": {}},
    {"tie_word_embeddings": False, "head_dim": 8, "rope_theta": None},
  ],
)
def test_settings_that_change_nothing_are_passed_over(
  tmp_path, model, params, settings
):
  folder = _write(tmp_path, _theirs(params), **settings)
  assert importing.read_config(folder, **_READ) == model


def test_what_other_types_of_rope_scaling_use_is_passed_over(tmp_path, params):
  scaling = {"type": "linear", "factor": 2.0, "beta_fast": 32}
  folder = _write(tmp_path, _theirs(params), rope_scaling=scaling)
  [kind] = {*importing.read_config(folder, **_READ).layer_kinds}
  assert (kind.rope_scaling.kind, kind.rope_scaling.factor) == ("linear", 2.0)


@pytest.mark.parametrize(
  ("types", "window", "is_right"),
  [
    (["sliding_attention"] * 2, 7, True),
    (["full_attention"] * 2, None, True),
    (["full_attention"] * 2, 7, False),
    (["sliding_attention", "full_attention"], 7, False),
  ],
)
def test_mistral_may_say_what_its_layers_are(
  tmp_path, params, types, window, is_right
):
  settings = dict(model_type="mistral", sliding_window=window)
  plain = _write(tmp_path, _theirs(params), **settings)
  expected = importing.read_config(plain, **_READ)
  said = _write(tmp_path, _theirs(params), layer_types=types, **settings)
  if is_right:
    assert importing.read_config(said, **_READ) == expected
  else:
    with pytest.raises(UserError, match="layer_types"):
      importing.read_config(said, **_READ)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"{", "config.json cannot be read as JSON"),
    (b"\xff", "config.json cannot be read as JSON"),
    (b"[" * 100_000, "config.json cannot be read as JSON"),
    (b"", "config.json cannot be read as JSON"),
    (b"[1]", "config.json is no JSON object"),
    (b"{}", "config.json: model_type None is not known"),
    (b'{"model_type": "llama"}', "config.json lacks 'num_attention_heads'"),
  ],
)
def test_a_config_that_is_none_is_one_line(tmp_path, content, message):
  (tmp_path / "config.json").write_bytes(content)
  with pytest.raises(UserError, match=message) as e:
    importing.read_config(epath.Path(tmp_path), **_READ)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "settings",
  [
    {"hidden_size": "24"},
    {"hidden_size": 0},
    {"num_attention_heads": -6},
    {"num_hidden_layers": 2.5},
    {"vocab_size": None},
    {"rms_norm_eps": "small"},
    {"rope_scaling": "linear"},
    {"rope_scaling": [1]},
    {"rope_scaling": {"type": "linear", "factor": None}},
    {"rope_theta": "x"},
    {"model_type": ["llama"]},
    {"layer_types": 3},
  ],
)
def test_settings_of_the_wrong_kind_are_one_line(tmp_path, params, settings):
  folder = _write(tmp_path, _theirs(params), **settings)
  with pytest.raises(UserError, match=r"config\.json: ") as e:
    importing.read_config(folder, **_READ)
  assert "\n" not in str(e.value)


def test_names_every_wrong_tensor(tmp_path, params, one_device):
  tensors = _theirs(params)
  del tensors["model.norm.weight"]
  tensors["extra"] = np.zeros(3, np.float32)
  tensors["lm_head.weight"] = np.zeros((17, 23), np.float32)
  folder = _write(tmp_path, tensors)
  config = importing.read_config(folder, **_READ)
  with pytest.raises(UserError) as e:
    importing.load_weights(folder, config, one_device)
  for part in (
    "a llama model",
    "model.norm.weight is missing",
    "extra is unexpected",
    "lm_head.weight has shape (17, 23), expected (17, 24)",
  ):
    assert part in str(e.value)


def test_names_tensors_that_are_there_twice(tmp_path, params, one_device):
  tensors = _theirs(params)
  folder = _write(tmp_path, tensors, 2)
  path = folder / "model.safetensors.index.json"
  index = json.loads(path.read_text())
  moved = "model.layers.0.mlp.up_proj.weight"
  [other] = {*index["weight_map"].values()} - {index["weight_map"][moved]}
  index["weight_map"][moved] = other
  path.write_text(json.dumps(index))
  twice = {"model.norm.weight": tensors["model.norm.weight"]}
  save_file(twice, tmp_path / "part-9.safetensors")
  index["weight_map"]["more"] = "part-9.safetensors"
  path.write_text(json.dumps(index))
  with pytest.raises(UserError) as e:
    importing.load_weights(
      folder, importing.read_config(folder, **_READ), one_device
    )
  first = index["weight_map"]["model.norm.weight"]
  for part in (
    f"{moved} is not in {other}, where model.safetensors.index.json has it",
    f"model.norm.weight is there twice, in {first} and part-9.safetensors",
    "more is not in part-9.safetensors",
  ):
    assert part in str(e.value)


def test_names_a_tensor_of_two_parameters(
  tmp_path, params, one_device, monkeypatch
):
  llama = FAMILIES["llama"]
  up = "layers.up"
  weights = dict(llama.weights) | {up: llama.weights["layers.gate"]}
  monkeypatch.setitem(FAMILIES, "llama", Family(llama.settings, weights))
  folder = _write(tmp_path, _theirs(params))
  with pytest.raises(UserError) as e:
    importing.load_weights(
      folder, importing.read_config(folder, **_READ), one_device
    )
  assert (
    "model.layers.1.mlp.gate_proj.weight is used twice, for layers.gate and"
    " layers.up"
  ) in str(e.value)
  assert "model.layers.1.mlp.up_proj.weight is unexpected" in str(e.value)


def test_refuses_files_that_are_no_weights(tmp_path, params, one_device):
  tensors = _theirs(params)
  name = "model.layers.0.mlp.up_proj.weight"
  tensors[name] = tensors[name].astype(np.int8)
  folder = _write(tmp_path, tensors)
  config = importing.read_config(folder, **_READ)
  with pytest.raises(UserError, match=f"{name} is of type I8, which is none"):
    importing.load_weights(folder, config, one_device)
  file = tmp_path / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(UserError, match="not a complete safetensors file"):
    importing.load_weights(folder, config, one_device)
  file.rename(tmp_path / "pytorch_model.bin")
  with pytest.raises(UserError, match="pickles"):
    importing.load_weights(folder, config, one_device)


@pytest.mark.parametrize(
  ("stored", "kept"), [("bfloat16", "float32"), ("float32", "bfloat16")]
)
def test_converts_on_the_way(tmp_path, params, eight_devices, stored, kept):
  cast = lambda x: np.asarray(x).astype(jnp.dtype(stored))
  tensors = {name: cast(x) for name, x in _theirs(params).items()}
  folder = _write(tmp_path, tensors)
  config = importing.read_config(folder, **_READ | {"param_dtype": kept})
  loaded = importing.load_weights(folder, config, eight_devices)
  for x, y in zip(jax.tree.leaves(loaded), jax.tree.leaves(params)):
    assert x.dtype == kept
    np.testing.assert_array_equal(x, cast(y).astype(jnp.dtype(kept)))


class _Recorder:
  """Stands for an open file; counts the bytes that are read."""

  def __init__(self, opened, reads):
    self._opened, self._reads = opened, reads

  def keys(self):
    return self._opened.keys()

  def get_slice(self, name):
    reads, tensor = self._reads, self._opened.get_slice(name)

    class Slice:
      get_shape, get_dtype = tensor.get_shape, tensor.get_dtype

      def __getitem__(self, index):
        value = tensor[index]
        reads.append(value.nbytes)
        return value

    return Slice()


def _unaligned(shape, dtype=float, plain=np.empty, **settings):
  """Memory that JAX has to copy; what is aligned it may keep, on a CPU."""
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  if size < 2**16:
    return plain(shape, dtype, **settings)
  memory = plain(size + 64, np.uint8)
  start = (16 - memory.ctypes.data) % 64
  return memory[start : start + size].view(dtype).reshape(shape)


def _wait_for_certain(alive, plain=importing._wait_for_end):
  """On a busy machine JAX lets go of a copied array later than it waits."""
  plain(alive)
  until = time.monotonic() + 60
  while alive() is not None:
    assert time.monotonic() < until, "JAX keeps what it has copied"
    time.sleep(1e-3)
    gc.collect()


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_reads_every_byte_once_and_holds_one_shard(
  tmp_path, eight_devices, monkeypatch, stored
):
  settings = dict(
    num_hidden_layers=8,
    hidden_size=256,
    intermediate_size=1024,
    vocab_size=16_000,
  )
  (tmp_path / "config.json").write_text(json.dumps(_SETTINGS | settings))
  config = importing.read_config(epath.Path(tmp_path), **_READ)
  abstract = parameters.abstract_params(config, eight_devices)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, stored), abstract)
  tensors = importing.to_hugging_face(zeros)
  tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
  folder = _write(tmp_path, tensors, 5, **settings)
  shard = max(
    4 * np.prod(x.sharding.shard_shape(x.shape))
    for x in jax.tree.leaves(abstract)
  )
  assert shard > 4e6

  reads: list[int] = []
  plain = folders._open
  monkeypatch.setattr(
    folders, "_open", lambda file: _Recorder(plain(file), reads)
  )
  monkeypatch.setattr(importing, "READ_BYTES", int(shard) // 8)
  monkeypatch.setattr(np, "empty", _unaligned)
  monkeypatch.setattr(importing, "_wait_for_end", _wait_for_certain)
  tracemalloc.start()
  params = importing.load_weights(folder, config, eight_devices)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert params["embedding"].shape == (16_000, 256)
  # Copies on the data axis come of one reading.
  assert sum(reads) == sum(x.nbytes for x in tensors.values())
  assert max(reads) <= shard // 8
  # What lies on devices is no memory of Python's.
  assert peak <= 1.5 * shard, peak / shard


def test_fetches_a_model_by_its_name(tmp_path, monkeypatch):
  asked = []

  def fetch(*names, **settings):
    asked.append((*names, settings))
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
  assert folders.find_folder(str(tmp_path)) == epath.Path(tmp_path)
  assert not asked
  found = folders.find_folder("some-org/Model-1.5B")
  assert found == epath.Path(tmp_path)
  folders.find_folder("some-org/Model-1.5B@refs/pr/1")
  assert [(name, s["revision"]) for name, s in asked] == [
    ("some-org/Model-1.5B", None),
    ("some-org/Model-1.5B", "refs/pr/1"),
  ]
  wanted = huggingface_hub.utils.filter_repo_objects(
    [
      "README.md",
      "additional_chat_templates/tool_use.jinja",
      "chat_template.jinja",
      "config.json",
      "consolidated.safetensors",
      "generation_config.json",
      "merges.txt",
      "model-00001-of-00002.safetensors",
      "model.safetensors.index.json",
      "original/tokenizer.model",
      "pytorch_model.bin",
      "special_tokens_map.json",
      "tokenizer.json",
      "tokenizer.model",
      "tokenizer_config.json",
      "vocab.json",
    ],
    allow_patterns=asked[0][1]["allow_patterns"],
  )
  assert list(wanted) == [
    "additional_chat_templates/tool_use.jinja",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
  ]


def test_says_what_to_do_without_the_hub(monkeypatch):
  def fetch(*_, **__):
    raise ConnectionError("Name or service\n not known")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
  with pytest.raises(UserError) as e:
    folders.find_folder("some-org/model@v2")
  for part in (
    "there is no folder some-org/model@v2",
    "ConnectionError: Name or service not known",
    "hf download some-org/model --revision v2 --local-dir FOLDER",
    "--config.model.folder=FOLDER",
  ):
    assert part in str(e.value)
  for name in ("./model", "/a/b", "a/b/c", "model"):
    with pytest.raises(UserError, match=r"there is no folder \S+\.$"):
      folders.find_folder(name)


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
  assert "mrope_section" in message(
    rope_parameters={"rope_type": "default", "mrope_section": [2, 1, 1]}
  )
  assert "one per layer" in message(model_type="qwen2", layer_types=["full"])
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
    importing.load_weights(folder, config, one_device)


@pytest.mark.slow
def test_real_model_knows_the_capital_of_france(one_device):
  folder = os.environ.get("PREFIXRL_TEST_MODEL")
  if not folder:
    pytest.skip("PREFIXRL_TEST_MODEL names no model folder")
  from prefixrl_jax.rollouts.requests import Request
  from prefixrl_jax.rollouts.sampler import Sampler
  from prefixrl_jax.text.tokenizer import load_tokenizer

  path = epath.Path(folder)
  config = importing.read_config(path, **_READ)
  params = importing.load_weights(path, config, one_device)
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
  [prompt] = tokenizer.encode_prompts(["What is the capital of France?"])
  [[completion]] = sampler.sample(
    [Request(np.array(prompt, np.int32), 1, 0, 0)],
    purpose="evaluation",
    seed=0,
  )
  assert tokenizer.decode([completion.tokens.tolist()]) == [
    "The capital of France is Paris."
  ]

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
    hidden, _ = transformer.forward(
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
