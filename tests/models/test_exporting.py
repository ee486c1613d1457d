"""What is exported is what was loaded, under the names it had."""

import json
import pathlib
import subprocess
import sys
import tracemalloc
import types

import jax
import jax.numpy as jnp
import make_goldens
import numpy as np
import pytest
import safetensors
from etils import epath
from make_goldens import MODELS
from safetensors.numpy import load_file, save_file

from prefixrl_jax import checkpoints
from prefixrl_jax.batches import TrainState
from prefixrl_jax.configs import demo
from prefixrl_jax.distributed import cluster
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.models import exporting, folders, importing, parameters
from prefixrl_jax.pipeline import Pipeline
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.types import UserError

_HERE = pathlib.Path(__file__).parent
_INDEX = folders.INDEX
_SIDE = {
  "added_tokens.json": "{}",
  "additional_chat_templates/tool_use.jinja": "{{ tools }}",
  "chat_template.jinja": "{{ messages }}",
  "generation_config.json": '{"eos_token_id": 2}',
  "merges.txt": "a b",
  "special_tokens_map.json": "{}",
  "tokenizer.json": '{"größe": 1}',
  "tokenizer.model": "pieces",
  "tokenizer_config.json": "{}",
  "vocab.json": "{}",
}
_WEIGHTS = "model.safetensors"


def _load(folder, mesh, dtype="float32"):
  config = importing.read_config(
    epath.Path(folder), dtype="float32", param_dtype=dtype, remat="none"
  )
  return importing.load_weights(epath.Path(folder), config, mesh)


def _export(folder, source, params, dtype="float32", max_bytes=10**9):
  exporting.export(
    epath.Path(folder),
    epath.Path(source),
    params,
    dtype=dtype,
    max_bytes=max_bytes,
  )


def _names(folder):
  return sorted(p.name for p in pathlib.Path(folder).iterdir())


def _assert_same(ours, theirs):
  def same(x, y):
    assert x.dtype == y.dtype
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()

  jax.tree.map(same, ours, theirs)


@pytest.fixture
def source(tmp_path):
  """A folder with everything that a model's authors put there, and more."""
  folder = tmp_path / "source"
  folder.mkdir()
  make_goldens.write_model("qwen2", folder)
  for name, text in _SIDE.items():
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
  (folder / "README.md").write_text("not needed to open the model")
  (folder / "pytorch_model.bin").write_text("nor is this")
  (folder / "tokenizer").mkdir()
  return folder


@pytest.mark.parametrize(
  ("name", "dtype"),
  [
    ("smollm2", "float32"),
    ("qwen2", "float32"),
    ("gemma3", "float32"),
    ("qwen3_moe", "bfloat16"),
  ],
)
def test_round_trip_is_the_identity(tmp_path, eight_devices, name, dtype):
  source = tmp_path / "source"
  source.mkdir()
  make_goldens.write_model(name, source)
  params = _load(source, eight_devices, dtype)
  _export(tmp_path / "out", source, params, dtype)
  assert _names(tmp_path / "out") == ["config.json", _WEIGHTS]
  _assert_same(_load(tmp_path / "out", eight_devices, dtype), params)
  before = load_file(source / _WEIGHTS)
  after = load_file(tmp_path / "out" / _WEIGHTS)
  assert after.keys() == before.keys()
  for tensor, value in before.items():
    np.testing.assert_array_equal(
      after[tensor], value.astype(jnp.dtype(dtype)), err_msg=tensor
    )


def test_writes_every_file_that_the_model_needs(tmp_path, source, one_device):
  params = _load(source, one_device)
  _export(tmp_path / "out", source, params, "bfloat16")
  side = {name.partition("/")[0] for name in _SIDE}
  assert _names(tmp_path / "out") == sorted([*side, "config.json", _WEIGHTS])
  for name, text in _SIDE.items():
    assert (tmp_path / "out" / name).read_text() == text
  before = json.loads((source / "config.json").read_text())
  after = json.loads((tmp_path / "out/config.json").read_text())
  assert after == before | {"torch_dtype": "bfloat16"}
  # Newer folders name it otherwise.
  (source / "config.json").write_text(json.dumps(before | {"dtype": "float32"}))
  _export(tmp_path / "out", source, params, "bfloat16")
  after = json.loads((tmp_path / "out/config.json").read_text())
  assert after == before | {"dtype": "bfloat16"}


def test_divides_weights_into_files(tmp_path, source, eight_devices):
  params = _load(source, eight_devices)
  tensors = load_file(source / _WEIGHTS)
  limit = max(x.nbytes for x in tensors.values())
  _export(tmp_path / "out", source, params, max_bytes=limit)
  index = json.loads((tmp_path / "out" / _INDEX).read_text())
  assert index["metadata"] == {
    "total_size": sum(x.nbytes for x in tensors.values())
  }
  assert index["weight_map"].keys() == tensors.keys()
  files = sorted({*index["weight_map"].values()})
  n = len(files)
  assert files == [
    f"model-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)
  ]
  assert 2 < n < len(tensors)
  for file in files:
    with safetensors.safe_open(tmp_path / "out" / file, "numpy") as f:
      assert f.metadata() == {"format": "pt"}
      assert sum(tensors[name].nbytes for name in f.keys()) <= limit  # noqa: SIM118
  _assert_same(_load(tmp_path / "out", eight_devices), params)
  # Files that are small enough are left as they are, whatever they hold.
  _export(tmp_path / "again", tmp_path / "out", params, max_bytes=2 * limit)
  assert _names(tmp_path / "again") == _names(tmp_path / "out")
  assert json.loads((tmp_path / "again" / _INDEX).read_text()) == index
  # A tensor that is too large has a file to itself.
  _export(tmp_path / "split", source, params, max_bytes=1)
  assert len(_names(tmp_path / "split")) == len(_SIDE) + 2 + len(tensors)
  _assert_same(_load(tmp_path / "split", eight_devices), params)


def test_is_whole_or_absent(tmp_path, source, one_device, monkeypatch):
  params = _load(source, one_device)
  _export(tmp_path / "out", source, params)
  before = load_file(tmp_path / "out" / _WEIGHTS)
  zeros = jax.tree.map(jnp.zeros_like, params)

  def fail(tensors, *_):
    yield b"the beginning"
    raise OSError("no space left")

  with monkeypatch.context() as m:
    m.setattr(exporting, "_chunks", fail)
    for target in ("out", "new"):
      with pytest.raises(UserError, match="no space left"):
        _export(tmp_path / target, source, zeros)
  assert _names(tmp_path) == ["out", "source"]
  after = load_file(tmp_path / "out" / _WEIGHTS)
  jax.tree.map(np.testing.assert_array_equal, after, before)
  _export(tmp_path / "out", source, zeros)
  assert not any(
    x.any() for x in load_file(tmp_path / "out" / _WEIGHTS).values()
  )
  assert _names(tmp_path) == ["out", "source"]


def test_the_host_holds_one_tensor(tmp_path, eight_devices):
  settings = MODELS["llama"] | dict(
    num_hidden_layers=8,
    vocab_size=64,
    hidden_size=240,
    head_dim=24,
    intermediate_size=1200,
  )
  source = tmp_path / "source"
  source.mkdir()
  (source / "config.json").write_text(json.dumps(settings))
  config = importing.read_config(
    epath.Path(source), dtype="float32", param_dtype="float32", remat="none"
  )
  params = jax.tree.map(
    lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding),
    parameters.abstract_params(config, eight_devices),
  )
  # No weights are read from the source, only where they lie.
  names = {
    t.name: "model.safetensors" for t in importing.tensors(params, "llama")
  }
  for file in {*names.values()}:
    (source / file).touch()
  (source / _INDEX).write_text(json.dumps({"weight_map": names}))
  total = sum(x.nbytes for x in jax.tree.leaves(params))
  _export(tmp_path / "out", source, params)  # compiles
  tracemalloc.start()
  _export(tmp_path / "out", source, params)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert total > 20 * 1200 * 240 * 4
  assert peak < 2 * 1200 * 240 * 4


# -- as others see it ----------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "size"), [("llama", "1GB"), ("smollm2", "8KB"), ("qwen3", "16KB")]
)
def test_transformers_sees_what_it_saved(tmp_path, one_device, name, size):
  torch = pytest.importorskip("torch", reason="torch is not installed")
  transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed"
  )
  torch.manual_seed(0)
  settings = dict(MODELS[name])
  config = transformers.AutoConfig.for_model(**settings)
  model = transformers.AutoModelForCausalLM.from_config(config).eval()
  model.save_pretrained(tmp_path / "theirs", max_shard_size=size)
  params = _load(tmp_path / "theirs", one_device)
  max_bytes = int(size[:-2]) * {"KB": 10**3, "GB": 10**9}[size[-2:]]
  _export(tmp_path / "ours", tmp_path / "theirs", params, max_bytes=max_bytes)

  assert _names(tmp_path / "ours") == _names(tmp_path / "theirs")
  assert ((tmp_path / "ours" / _INDEX).exists()) == (size != "1GB")
  for file in _names(tmp_path / "ours"):
    if file.endswith(".safetensors"):
      theirs = load_file(tmp_path / "theirs" / file)
      ours = load_file(tmp_path / "ours" / file)
      assert ours.keys() == theirs.keys()
      jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    elif file == _INDEX:
      theirs = json.loads((tmp_path / "theirs" / file).read_text())
      ours = json.loads((tmp_path / "ours" / file).read_text())
      assert ours["weight_map"] == theirs["weight_map"]
      assert ours["metadata"]["total_size"] == theirs["metadata"]["total_size"]
    else:
      theirs = json.loads((tmp_path / "theirs" / file).read_text())
      assert json.loads((tmp_path / "ours" / file).read_text()) == theirs

  loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "ours", output_loading_info=True
  )
  assert not {k: v for k, v in info.items() if v and k != "conversion_errors"}
  rows = torch.from_numpy(make_goldens.token_rows(name)).long()
  with torch.no_grad():
    assert torch.equal(loaded.eval()(rows).logits, model(rows).logits)


# -- the stage -----------------------------------------------------------------


def _config(folder, **fields):
  config = demo.get_config("tiny=true,arms=rl+prefixrl,seeds=2")
  config.model.folder = str(folder)
  config.mesh.update(data=1, fsdp=-1)
  config.export.update(**fields)
  return config


def _run(workdir, config):
  Pipeline(config, epath.Path(workdir)).run(("export",))


def test_exports_a_tied_model_that_was_stored_as_its_head(tmp_path, one_device):
  """In files as before: the embedding goes where the head was."""
  source = tmp_path / "source"
  source.mkdir()
  make_goldens.write_model("gemma2", source)
  tensors = load_file(source / _WEIGHTS)
  whole = _load(source, one_device)
  tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
  (source / _WEIGHTS).unlink()
  names = sorted(tensors)
  index = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
  for file in {*index.values()}:
    part = {name: tensors[name] for name in names if index[name] == file}
    save_file(part, source / file)
  (source / _INDEX).write_text(json.dumps({"weight_map": index}))
  params = _load(source, one_device)
  _assert_same(params, whole)
  size = sum(x.nbytes for x in tensors.values())
  _export(tmp_path / "out", source, params, max_bytes=size - 1)
  _assert_same(_load(tmp_path / "out", one_device), whole)


@pytest.fixture
def trained(tmp_path, source, eight_devices):
  """A workdir with checkpoints of one arm, and the checkpoints' parameters."""
  params = _load(source, eight_devices)
  saved = {}
  directory = epath.Path(tmp_path) / "run/train/prefixrl/seed_1/checkpoints"
  with checkpoints.Checkpointer(directory, keep=2) as checkpointer:
    for step in (4, 8):
      saved[step] = jax.tree.map(
        lambda x, n=step: jax.device_put(np.asarray(x) * n, x.sharding), params
      )
      state = TrainState(step, saved[step], (params, {"count": np.zeros(2)}))
      checkpointer.save(step, state, {})
  return tmp_path / "run", saved


def test_exports_a_checkpoint(tmp_path, source, trained, one_device):
  workdir, saved = trained
  chosen = dict(arm="prefixrl", seed=1)
  _run(workdir, _config(source, **chosen))
  folder = workdir / "export/prefixrl/seed_1/model"
  _assert_same(_load(folder, one_device), saved[8])
  # An earlier export of the run is replaced.
  _run(workdir, _config(source, step=4, **chosen))
  _assert_same(_load(folder, one_device), saved[4])
  for dtype in ("bfloat16", "float32"):
    elsewhere = dict(directory=str(tmp_path / "there"), dtype=dtype)
    config = _config(source, shard_gigabytes=1e-5, **elsewhere, **chosen)
    _run(workdir, config)
    assert (tmp_path / "there" / _INDEX).exists()
    settings = json.loads((tmp_path / "there/config.json").read_text())
    assert settings["torch_dtype"] == dtype
  _assert_same(_load(tmp_path / "there", one_device), saved[8])


def test_exports_no_other_step_than_the_training_ended_at(
  tmp_path, source, trained, one_device
):
  workdir, saved = trained
  config = _config(source, arm="prefixrl", seed=1)
  train = Workspace(config, workdir).run_artifact("train", "prefixrl", 1)
  train._read_sources = dict  # as if nothing came before
  (workdir / "train").rename(tmp_path / "aside")
  train.begin()
  (train.directory / "curve.json").write_text('[{"ledger": {}}]')
  train.finish({"steps": 8}, ["curve.json"])
  newest = workdir / "train/prefixrl/seed_1/checkpoints/8"
  there = "train/prefixrl/seed_1/checkpoints"
  (tmp_path / "aside/prefixrl/seed_1/checkpoints").rename(workdir / there)
  newest.rename(tmp_path / "8")
  with pytest.raises(
    UserError, match=r"no checkpoint of step 8 in .*are 4 "
  ) as e:
    _run(workdir, config)
  assert f"remove {train.directory / 'manifest.json'}" in str(e.value)
  (tmp_path / "8").rename(newest)
  _run(workdir, config)
  folder = workdir / "export/prefixrl/seed_1/model"
  _assert_same(_load(folder, one_device), saved[8])


def test_says_what_cannot_be_exported(tmp_path, source, trained):
  workdir, _ = trained
  with pytest.raises(UserError, match=r"seed_0.*\. Run --stage=train first"):
    _run(workdir, _config(source))
  chosen = dict(arm="prefixrl", seed=1)
  with pytest.raises(UserError, match=r"of step 5 in .*; there are 4, 8 "):
    _run(workdir, _config(source, step=5, **chosen))
  config = _config(source, directory=str(source), **chosen)
  with pytest.raises(UserError, match="exists, is not empty and is no earlier"):
    _run(workdir, config)
  assert not (workdir / "export").exists()
  # It is found before anything else is done.
  with pytest.raises(UserError, match="exists, is not empty and is no earlier"):
    Pipeline(config, workdir).run(("screen", "export"))
  with pytest.raises(UserError, match="no Hugging Face family"):
    _run(workdir, _config(""))
  for file in (workdir / "train/prefixrl/seed_1/checkpoints/8").rglob("*"):
    if file.is_file():
      file.write_bytes(b"\0")
  with pytest.raises(UserError, match=r"checkpoint 8 in .* cannot be read"):
    _run(workdir, _config(source, **chosen))


@pytest.mark.slow
def test_processes_read_their_own_and_write_one_folder(
  tmp_path, source, free_address, environment_of
):
  out = tmp_path / "out"
  command = [sys.executable, __file__, free_address, source, out]
  started = [
    subprocess.Popen(
      [*command, str(i)], env=environment_of(2), stdout=subprocess.PIPE
    )
    for i in range(2)
  ]
  try:
    outputs = [process.communicate(timeout=300)[0] for process in started]
  finally:
    for process in started:
      process.kill()
  read = [int(output.splitlines()[-1]) for output in outputs]
  mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
  _assert_same(_load(out, mesh), _load(source, mesh))
  total = sum(x.nbytes for x in load_file(source / _WEIGHTS).values())
  # What fsdp does not divide, both read.
  assert read[0] == read[1]
  assert total / 2 <= read[0] < 0.6 * total


def _process(address, source, target, process):
  """Loads and exports; prints how many bytes were read."""
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(address, 2, int(process))
  cluster.join(types.SimpleNamespace(index=int(process), size=2))
  plain, total = importing._read, 0

  def counted(tensor, bounds, shape, weight, out):
    nonlocal total
    total += out.nbytes
    plain(tensor, bounds, shape, weight, out)

  importing._read = counted
  params = _load(source, make_mesh(1, 2, 2))
  _export(target, source, params)
  print(total)


if __name__ == "__main__":
  _process(*sys.argv[1:])
