"""An export is pushed to the hub, as it is in its folder, or not lost."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import types

import huggingface_hub
import jax
import jax.numpy as jnp
import make_goldens
import numpy as np
import pytest
import yaml
from etils import epath
from pair import Pair

from prefixrl_jax import __version__, checkpoints
from prefixrl_jax.batches import TrainState
from prefixrl_jax.configs import demo
from prefixrl_jax.distributed import cluster
from prefixrl_jax.models import adapters, importing
from prefixrl_jax.pipeline import Pipeline
from prefixrl_jax.run import inputs
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.stages import export
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.storage.files import write_json
from prefixrl_jax.storage.results import write_results
from prefixrl_jax.types import EvalResult, UserError

pytestmark = pytest.mark.usefixtures("one_device_alone")

_REAL = huggingface_hub.HfApi
_FILES = ["README.md", "config.json", "model.safetensors"]


class _Api:
  """Stands for huggingface_hub.HfApi; what it was asked is in `asked`."""

  asked: tuple = ()
  failing = ""

  def create_repo(self, repo_id, *, private, exist_ok):
    _bind("create_repo", repo_id, private=private, exist_ok=exist_ok)
    type(self).asked = (repo_id, private, exist_ok)

  def upload_folder(self, *, repo_id, folder_path, **kwargs):
    _bind("upload_folder", repo_id=repo_id, folder_path=folder_path, **kwargs)
    if self.failing:
      raise ConnectionError(self.failing)
    files = sorted(epath.Path(folder_path).iterdir())
    type(self).asked += (repo_id, [f.name for f in files])
    return f"https://hub/{repo_id}/commit/1"


def _bind(method, *args, **kwargs):
  """Fails if the real method does not take these."""
  inspect.signature(getattr(_REAL, method)).bind(None, *args, **kwargs)


@pytest.fixture
def api(monkeypatch):
  fake = type("Api", (_Api,), {})
  monkeypatch.setattr(huggingface_hub, "HfApi", fake)
  monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
  return fake


@pytest.fixture
def config(tmp_path, one_device):
  """Of a run whose training and evaluation are complete, after 4 steps."""
  config = demo.get_config("tiny=true,arms=prefixrl,seeds=1")
  (tmp_path / "Tiny-Qwen").mkdir()
  make_goldens.write_model("qwen2", tmp_path / "Tiny-Qwen")
  config.model.folder = str(tmp_path / "Tiny-Qwen")
  config.mesh.update(data=1, fsdp=-1)
  config.export.update(hub="me/tiny", step=4)
  source = epath.Path(config.model.folder)
  model = importing.read_config(
    source, dtype="float32", param_dtype="float32", remat="none"
  )
  params = importing.load_weights(source, model, one_device)
  _save(tmp_path, params)
  return config


def _save(tmp_path, params):
  """Writes the checkpoints of steps 2 and 4."""
  folder = epath.Path(tmp_path) / "run/train/prefixrl/seed_0/checkpoints"
  with checkpoints.Checkpointer(folder, keep=2) as checkpointer:
    for step in (2, 4):
      params = jax.tree.map(lambda x: x + 1, params)
      state = TrainState(step, params, (params, {"count": np.zeros(2)}))
      checkpointer.save(step, state, {})


def _complete(monkeypatch, workdir, config):
  """Adds records of a training and of evaluations, as if from nothing."""
  monkeypatch.setattr(Artifact, "_other_sources", lambda self, record: [])
  # A run's training begins in a folder without checkpoints.
  monkeypatch.setattr(Artifact, "_leftovers", lambda self: [])
  work = Workspace(config, workdir)
  spent = {
    "sampling": {"flops_paper": 2e9},
    "update": {"flops_paper": 1e9},
    "evaluation": {"flops_paper": 7e9},
  }
  training = work.run_artifact("train", "prefixrl", 0)
  training._read_sources = dict
  training.begin()
  write_json(training.directory / "curve.json", [{"ledger": spent}])
  training.finish({"steps": 4, "skipped_updates": 0}, ["curve.json"])
  for who, correct in (("base", 0), ("prefixrl", 6)):
    artifact = work.run_artifact("evaluate", who, 0)
    artifact._read_sources = dict
    artifact.begin()
    results = [
      EvalResult("a", "heldout", 0.0, 8, correct),
      EvalResult("b", "heldout", 0.0, 8, correct),
      EvalResult("a", "train", 0.5, 8, 8),  # after a prefix: not in the table
    ]
    write_results(artifact.directory / "results.parquet", results)
    artifact.finish({}, ["results.parquet"])


def test_an_export_is_pushed_with_a_card_of_its_run(
  tmp_path, monkeypatch, config, api, capsys
):
  workdir = epath.Path(tmp_path) / "run"
  _complete(monkeypatch, workdir, config)
  Pipeline(config, workdir).run(("export",))
  assert api.asked == ("me/tiny", True, True, "me/tiny", _FILES)
  out = capsys.readouterr()
  assert "https://hub/me/tiny/commit/1" in out.out + out.err
  card = (workdir / "export/prefixrl/seed_0/model/README.md").read_text()
  _, header, text = card.split("---\n", 2)
  # The folder is on this machine alone: no address of it is published.
  assert yaml.safe_load(header) == {
    "library_name": "transformers",
    "pipeline_tag": "text-generation",
    "tags": ["prefixrl", "reinforcement-learning"],
  }
  assert str(tmp_path) not in card
  assert "# PrefixRL from Tiny-Qwen\n" in text
  assert f"prefixrl_jax {__version__}," in text
  assert "arm `prefixrl`, seed 0, step 4." in text
  assert "| FLOPs, as the paper counts | 3e+09 |" in text
  [row] = [x for x in text.splitlines() if x.startswith("| held-out")]
  assert row == (
    "| held-out | 2 | 8 | 0.0 (0.0 to 0.0) | 75.0 (75.0 to 75.0) |"
  )
  assert "| training |" not in text.replace("| training | |", "")


@pytest.fixture
def adapters_config(tmp_path, config, one_device):
  """Of the same run, as one that trained adapters, exported as peft's."""
  shutil.rmtree(tmp_path / "run")
  config.lora.rank = 2
  config.export.lora = "peft"
  model = importing.read_config(
    epath.Path(config.model.folder),
    dtype="float32",
    param_dtype="float32",
    remat="none",
  )
  model = adapters.with_lora(config.lora, model)
  shapes = adapters.abstract_trained(model, one_device)
  _save(tmp_path, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
  return config


def _adapter_settings(tmp_path, config):
  """Exports, and returns (base model, revision, the card)."""
  workdir = epath.Path(tmp_path) / "run"
  Pipeline(config, workdir).run(("export",))
  folder = workdir / "export/prefixrl/seed_0/model"
  settings = json.loads((folder / "adapter_config.json").read_text())
  return (
    settings["base_model_name_or_path"],
    settings["revision"],
    (folder / "README.md").read_text(),
  )


def test_published_adapters_name_no_folder_of_this_machine(
  tmp_path, adapters_config, api, capsys
):
  base, revision, card = _adapter_settings(tmp_path, adapters_config)
  assert (base, revision) == ("HUB-NAME-OF/Tiny-Qwen", None)
  assert "replace `HUB-NAME-OF/Tiny-Qwen` in `adapter_config.json`" in card
  out = capsys.readouterr()
  printed = " ".join((out.out + out.err).split())
  assert "in adapter_config.json is HUB-NAME-OF/Tiny-Qwen; write" in printed


def test_adapters_that_stay_here_name_their_base_s_folder(
  tmp_path, adapters_config
):
  adapters_config.export.hub = ""
  base, revision, card = _adapter_settings(tmp_path, adapters_config)
  assert (base, revision) == (adapters_config.model.folder, None)
  assert "HUB-NAME-OF" not in card


def test_adapters_of_a_model_of_the_hub_name_it_and_its_revision(
  tmp_path, monkeypatch, adapters_config, api
):
  folder = epath.Path(adapters_config.model.folder)
  monkeypatch.setattr(inputs, "find_folder", lambda name: folder)
  adapters_config.model.folder = "org/Tiny@abc"
  base, revision, card = _adapter_settings(tmp_path, adapters_config)
  assert (base, revision) == ("org/Tiny", "abc")
  assert 'base_model: "org/Tiny"' in card


def test_a_checkpoint_before_the_end_has_none_of_its_results(
  tmp_path, monkeypatch, config, api
):
  workdir = epath.Path(tmp_path) / "run"
  _complete(monkeypatch, workdir, config)
  config.export.step = 2
  Pipeline(config, workdir).run(("export",))
  card = (workdir / "export/prefixrl/seed_0/model/README.md").read_text()
  assert "step 2." in card
  assert "This checkpoint has not been evaluated." in card
  assert "FLOPs" not in card


def test_of_two_processes_one_pushes(tmp_path, monkeypatch, config, api):
  workdir = epath.Path(tmp_path) / "run"
  _complete(monkeypatch, workdir, config)
  pair, pushed = Pair(), []
  upload = api.upload_folder

  def counted(self, **kwargs):
    pushed.append(pair.index)
    return upload(self, **kwargs)

  monkeypatch.setattr(api, "upload_folder", counted)
  monkeypatch.setattr(cluster, "_group", pair)
  # It puts signals off, which only a main thread can.
  monkeypatch.setattr(Workspace, "remove_to_redo", lambda self: None)
  ended = pair.run(lambda _: export.run(Workspace(config, workdir)))
  assert ended == [None, None]
  assert pushed == [0]
  assert api.asked == ("me/tiny", True, True, "me/tiny", _FILES)


def test_what_is_in_a_bucket_is_not_pushed(tmp_path, config, api):
  config.export.directory = "gs://bucket/model"
  with pytest.raises(UserError, match=r"only a local folder can be pushed"):
    export.check(Workspace(config, epath.Path(tmp_path) / "run"))


def test_what_the_hub_does_not_take_is_exported(tmp_path, config, api):
  """One line, which says how to push it."""
  workdir = epath.Path(tmp_path) / "run"
  api.failing = "no\nnetwork"
  with pytest.raises(UserError) as e:
    Pipeline(config, workdir).run(("export",))
  folder = workdir / "export/prefixrl/seed_0/model"
  assert f"in {folder}, but" in str(e.value)
  assert "(ConnectionError: no network)" in str(e.value)
  assert f"`hf upload me/tiny {folder}`" in str(e.value)
  assert sorted(f.name for f in folder.iterdir()) == _FILES
  assert Workspace(config, workdir).export_artifact.complete
  api.failing = ""
  Pipeline(config, workdir).run(("export",))
  assert api.asked[-1] == _FILES


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      ("get_token", lambda: None),
      "no token that may write there: set HF_TOKEN",
    ),
    (
      ("constants", types.SimpleNamespace(HF_HUB_OFFLINE=True)),
      "HF_HUB_OFFLINE is set",
    ),
  ],
)
def test_what_prevents_a_push_is_known_before_anything(
  tmp_path, monkeypatch, config, api, change, message
):
  monkeypatch.setattr(huggingface_hub, *change)
  with pytest.raises(UserError, match=message) as e:
    Pipeline(config, epath.Path(tmp_path) / "run").run(("screen", "export"))
  assert "config.export.hub = me/tiny" in str(e.value)
  assert not (tmp_path / "run/data").exists()


def test_a_process_that_has_asked_the_hub_nothing_knows_that_it_must_not():
  """The package imports its parts only when they are asked for."""
  code = "from prefixrl_jax.models import hub; hub.check('me/tiny')"
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"HF_HUB_OFFLINE": "1"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert "UserError: config.export.hub = me/tiny, but HF_HUB_OFF" in done.stderr
