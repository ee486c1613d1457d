"""A workdir refuses what changes results, and only that.

The workdirs are made up: every artifact is there, none has been computed.
"""

import json
import shutil

import pytest
from etils import epath

from prefixrl_jax.configs import countdown, demo, math
from prefixrl_jax.pipeline import MARKER, Pipeline
from prefixrl_jax.run import provenance, upstream
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.stages import STAGES
from prefixrl_jax.storage import files
from prefixrl_jax.storage.locking import LOCK
from prefixrl_jax.types import UserError

_FILES = {
  "pretrain": "base.safetensors",
  "import": "traces.parquet",
  "screen": "pass_rates.parquet",
  "collect": "traces.parquet",
  "cut": "prefixed.parquet",
  "train": "curve.json",
  "evaluate": "results.parquet",
  "rescore": "logprobs.parquet",
}


def _config(made=demo, arg="tiny=true,arms=rl+sft_rl+prefixrl", **fields):
  config = made.get_config(arg)
  # Both have sections of the same names, of which ml_collections keeps types.
  with config.unlocked():
    config.update_from_flattened_dict(fields)
  return config


def _make_up(config, workdir):
  """Leaves all that a run of the config would leave, with made-up contents."""
  for artifact in Workspace(config, workdir).artifacts(STAGES):
    artifact.begin()
    name = _FILES[artifact.name.partition("/")[0]]
    files.write_text(artifact.directory / name, artifact.name)
    artifact.finish({"weights": "", "given_away": {}, "steps": 31}, [name])


@pytest.fixture
def workdir(tmp_path):
  return epath.Path(tmp_path / "run")


@pytest.fixture(autouse=True)
def nothing_is_computed(monkeypatch):
  def refuse(*_, **__):
    raise AssertionError("something is made")

  monkeypatch.setattr("prefixrl_jax.run.workspace.open_session", refuse)
  monkeypatch.setattr(upstream, "train_data", refuse)


def _run(config, workdir, stages=("train", "evaluate"), **how):
  Pipeline(config, workdir, **how).run(stages)


# -- what changes no result ----------------------------------------------------


@pytest.mark.parametrize(
  "fields",
  [
    {"model.remat": "full"},
    {"model.scan_unroll": 1},
    {"rollouts.steps_per_dispatch": 3},
    {"screen.rows": 2, "collect.rows": 2, "evals.rows": 2, "train.rows": 2},
    {"screen.lanes": 3, "collect.lanes": 3, "evals.lanes": 3},
    {"learner.rows_per_microbatch": 1, "learner.row_length": 999},
    {"learner.logits_chunk_length": 64},
    {"screen.problems_per_part": 3, "collect.problems_per_part": 5},
    {"rewards.timeout_seconds": 50.0, "rewards.total_seconds": 99.0},
    {"rewards.num_workers": 1, "wandb.project": "x", "mesh.fsdp": 2},
    {"train.checkpoint_every": 7, "train.checkpoints_kept": 9},
    {"train.log_every": 3, "export.directory": "x", "export.seed": 0},
    # Of what is off.
    {"lora.alpha": 3.0, "lora.targets": "mlp"},
  ],
)
def test_how_it_is_computed_may_change(workdir, fields):
  _make_up(_config(), workdir)
  _run(_config(**fields), workdir)


def test_what_was_used_is_recorded(workdir):
  config = _config(**{"evals.rows": 5})
  _make_up(config, workdir)
  manifest = json.loads(
    (workdir / "data/seed_0/screen/manifest.json").read_text()
  )
  [used] = manifest["execution"]
  assert used["evals.rows"] == 5
  assert used["mesh.fsdp"] == 1
  assert "train.flops" not in used


# -- what changes only something later, or another arm -------------------------


@pytest.mark.parametrize(
  ("fields", "kept", "refused"),
  [
    ({"prefixes.low": 0.2}, "collect", "cut"),
    ({"collect.budget": 9}, "screen", "collect"),
    ({"screen.max_correct": 1}, "screen", "collect"),
  ],
)
def test_only_what_depends_on_it_is_refused(workdir, fields, kept, refused):
  _make_up(_config(), workdir)
  config = _config(**fields)
  _run(config, workdir, (kept,))
  [(name, value)] = fields.items()
  shown = list(value) if isinstance(value, tuple) else value
  with pytest.raises(UserError) as e:
    _run(config, workdir, (refused,))
  assert f"/{refused}" in str(e.value)
  assert f"  {name}: " in str(e.value)
  assert f", {shown!r} in the config" in str(e.value)
  assert f"--redo={refused}/" in str(e.value)


@pytest.mark.parametrize(
  ("fields", "refused"),
  [
    ({"sft.batch_size": 3}, {"sft_rl"}),
    ({"train.cuts_together": True}, {"prefixrl"}),
    ({"arms.rl.learning_rate": 0.5}, {"rl"}),
    ({"learner.discount": 0.5}, {"rl", "sft_rl", "prefixrl"}),
    ({"evals.curve_samples": 9}, {"rl", "sft_rl", "prefixrl"}),
    ({"lora.rank": 4}, {"rl", "sft_rl", "prefixrl"}),
  ],
)
def test_an_arm_is_refused_for_what_it_uses(workdir, fields, refused):
  _make_up(_config(), workdir)
  for arm in ("rl", "sft_rl", "prefixrl"):
    config = _config(arg=f"tiny=true,arms={arm}", **fields)
    if arm not in refused:
      _run(config, workdir)
      continue
    with pytest.raises(UserError, match=f"train/{arm}/seed_0 was made with"):
      _run(config, workdir)


def test_other_cuts_leave_arms_without_prefixes(workdir):
  config = _config(arg="tiny=true,arms=rl+prefixrl")
  _make_up(config, workdir)
  cut = Workspace(config, workdir).data_artifact("cut", 0)
  cut.remove()
  cut.begin()
  files.write_text(cut.directory / "prefixed.parquet", "others")
  cut.finish({}, ["prefixed.parquet"])
  _run(_config(arg="tiny=true,arms=rl"), workdir)
  with pytest.raises(UserError, match=r"train/prefixrl/seed_0 was made from"):
    _run(config, workdir)


# -- what was not noticed ------------------------------------------------------


def test_whose_problems_a_run_learns_on(workdir):
  """Seed 1 on its own problems, or on those of the first seed."""
  config = _config(arg="tiny=true,arms=rl,seeds=2")
  _make_up(config, workdir)
  shared = config.copy_and_resolve_references()
  shared.fresh_data_per_seed = False
  with pytest.raises(UserError, match=r"data_seed: 1 in the workdir, 0 in"):
    _run(shared, workdir)
  later = _config(arg="tiny=true,arms=rl,seeds=2")
  later.fresh_data_per_seed = False
  later.seeds = (1,)
  _run(later, workdir)  # seed 1's own, as before
  later.seeds = (1, 0)
  with pytest.raises(UserError, match=r"data_seed: 0 in the workdir, 1 in"):
    _run(later, workdir)


def test_a_run_in_progress_keeps_to_its_problems(workdir):
  config = _config(arg="tiny=true,arms=rl,seeds=2")
  _make_up(config, workdir)
  run = Workspace(config, workdir).run_artifact("train", "rl", 1)
  (run.directory / "manifest.json").unlink()
  config.fresh_data_per_seed = False
  with pytest.raises(UserError, match=r"data_seed: 1 in the workdir, 0 in"):
    _run(config, workdir)


@pytest.mark.parametrize(
  ("field", "value"), [("pretrain.seed", 7), ("model.width", 64)]
)
def test_a_pretrained_base_of_other_settings(workdir, field, value):
  config = _config(countdown, "tiny=true", **{"model.base": ""})
  _make_up(config, workdir)
  other = _config(countdown, "tiny=true", **{"model.base": "", field: value})
  with pytest.raises(UserError, match=rf"pretrain was made .*\n  {field}: "):
    _run(other, workdir, ("pretrain",))


def test_another_pretrained_base_in_the_same_place(workdir):
  config = _config(countdown, "tiny=true", **{"model.base": ""})
  _make_up(config, workdir)
  base = Workspace(config, workdir).pretrained
  base.begin()
  files.write_text(base.directory / "base.safetensors", "others")
  base.finish({}, ["base.safetensors"])
  with pytest.raises(
    UserError, match=r"screen was made from .*\n  made_from\."
  ):
    _run(config, workdir)


def test_the_base_file_counts_and_not_its_place(workdir, tmp_path, monkeypatch):
  for name, text in (("a", "weights"), ("b", "weights"), ("c", "others")):
    (tmp_path / name).write_text(text)
  _make_up(_config(**{"model.base": str(tmp_path / "a")}), workdir)
  _run(_config(**{"model.base": str(tmp_path / "b")}), workdir)
  monkeypatch.chdir(tmp_path)
  _run(_config(**{"model.base": "a"}), workdir)
  with pytest.raises(UserError, match=r"made_from\.base: "):
    _run(_config(**{"model.base": str(tmp_path / "c")}), workdir)
  (tmp_path / "a").write_text("others")
  with pytest.raises(UserError, match=r"made_from\.base: "):
    _run(_config(**{"model.base": "a"}), workdir)


@pytest.fixture
def own(tmp_path, monkeypatch):
  """A config of a model folder and a problem file of one's own."""
  rows = [{"problem": f"1+{i}?", "answer": str(1 + i)} for i in range(4)]
  (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
  folder = tmp_path / "model"
  folder.mkdir()
  (folder / "config.json").write_text("{}")
  (folder / "tokenizer.json").write_text("{}")
  (folder / "model.safetensors").write_bytes(bytes(300))
  (folder / "README.md").write_text("read me")

  class Characters:
    def most_tokens(self, text):
      return len(text)

    def encode_prompts(self, prompts):
      return map(list, prompts)

  monkeypatch.setattr(
    "prefixrl_jax.run.inputs.open_tokenizer", lambda *_: Characters()
  )
  config = math.get_config("task=jsonl,trial=true,arms=rl")
  config.model.folder = str(folder)
  config.problems.update(file=str(tmp_path / "p.jsonl"))
  config.problems.update(num_train=2, num_heldout=1)
  return config


def test_a_relative_path_is_no_other_setting(
  own, workdir, tmp_path, monkeypatch
):
  _make_up(own, workdir)
  monkeypatch.chdir(tmp_path)
  own.model.folder, own.problems.file = "model", "p.jsonl"
  _run(own, workdir)
  shutil.copytree("model", "copy")
  (tmp_path / "data").mkdir()
  shutil.copy("p.jsonl", "data/p.jsonl")
  own.model.folder, own.problems.file = "./copy", "data/p.jsonl"
  _run(own, workdir)


def test_problems_are_compared_by_what_they_say(own, workdir, tmp_path):
  _make_up(own, workdir)
  file = tmp_path / "p.jsonl"
  text = file.read_text()
  file.write_text(text + "\n" + json.dumps({"problem": "9?", "answer": "9"}))
  _run(own, workdir)  # one more, which is not reached
  file.write_text(text.replace('"answer": "1"', '"answer": "7"'))
  with pytest.raises(UserError, match=r"made_from\.problems: "):
    _run(own, workdir)


@pytest.mark.parametrize(
  ("name", "counts"),
  [
    ("config.json", True),
    ("tokenizer.json", True),
    ("model.safetensors", True),
    ("README.md", False),
  ],
)
def test_a_model_folder_is_compared_by_its_files(own, workdir, name, counts):
  _make_up(own, workdir)
  file = epath.Path(own.model.folder) / name
  data = bytearray(file.read_bytes())
  data[-1] ^= 1
  file.write_bytes(bytes(data))
  if not counts:
    _run(own, workdir)
    return
  with pytest.raises(UserError, match=r"made_from\.base: "):
    _run(own, workdir)


def test_a_large_weight_file_is_read_in_pieces(tmp_path, monkeypatch):
  monkeypatch.setattr(provenance, "_WHOLE_BYTES", 1000)
  monkeypatch.setattr(provenance, "_PIECE_BYTES", 10)
  file = epath.Path(tmp_path / "model.safetensors")
  digest = lambda: provenance.of_model_folder(file.parent, weights=True)
  data = bytearray(6400)
  file.write_bytes(bytes(data))
  before = digest()
  seen = 0
  for i in range(0, 6400, 31):
    data[i] = 1
    file.write_bytes(bytes(data))
    seen += digest() != before
    data[i] = 0
  # 64 pieces of 10 bytes: the first and last ones, and a tenth of all.
  assert 0.05 < seen / len(range(0, 6400, 31)) < 0.15
  for i in (0, 9, 6390, 6399):
    data[i] = 1
    file.write_bytes(bytes(data))
    assert digest() != before
    data[i] = 0


def test_a_trace_file_is_compared_by_its_rows(own, workdir, tmp_path):
  traces = tmp_path / "traces.jsonl"
  traces.write_text('{"problem": "1+0?", "text": "1"}\n')
  own.traces.file = str(traces)
  _make_up(own, workdir)
  shutil.copy(traces, tmp_path / "copy.jsonl")
  own.traces.file = str(tmp_path / "copy.jsonl")
  _run(own, workdir)
  traces.write_text('{"problem": "1+0?", "text": "2"}\n')
  own.traces.file = str(traces)
  with pytest.raises(UserError, match=r"made_from\.traces: "):
    _run(own, workdir)


@pytest.mark.parametrize("stage", ["screen", "collect", "cut", "train"])
def test_a_program_that_makes_something_else(workdir, monkeypatch, stage):
  config = _config()
  _make_up(config, workdir)
  monkeypatch.setitem(provenance.VERSIONS, stage, 99)
  with pytest.raises(UserError, match=r"results_version: 1 in the workdir, 99"):
    _run(config, workdir)


# -- continuing, and re-making -------------------------------------------------


@pytest.mark.parametrize(
  "fields", [{"train.flops": 2.4e10}, {"train.max_steps": 0}]
)
def test_a_finished_run_goes_on_to_a_raised_limit(workdir, fields, capsys):
  config = _config(**{"train.max_steps": 5, "train.flops": 1.2e10})
  _make_up(config, workdir)
  more = config.copy_and_resolve_references()
  more.update_from_flattened_dict(fields)
  checkpoints = workdir / "train/rl/seed_0/checkpoints"
  (checkpoints / "31").mkdir(parents=True)
  with pytest.raises(AssertionError, match="something is made"):
    _run(more, workdir, ("train",))
  work = Workspace(more, workdir)  # what is there is of less
  with pytest.raises(UserError, match="train/rl/seed_0 is not complete"):
    work.need(work.run_artifact("train", "rl", 0))
  # Evaluated is what was trained before; this is said.
  _run(more, workdir, ("evaluate",))
  said = " ".join(capsys.readouterr().err.split())
  assert "train/rl/seed_0 ended at a limit that has been raised since" in said
  # It has begun to go on, but made nothing yet: it can be taken back.
  work.begin(work.run_artifact("train", "rl", 0))
  _run(config, workdir)
  assert "raised since" not in capsys.readouterr().err
  (checkpoints / "32").mkdir()
  with pytest.raises(UserError, match="gone as far as that"):
    _run(config, workdir)


@pytest.mark.parametrize(
  "name",
  [
    "train/rl/seed_0/metrics.jsonl",
    "train/rl/seed_0/curve.json",
    "train/rl/seed_0/checkpoints",
    "train/rl/seed_0/tensorboard",
    "train/rl",
    "evaluate",
    "data/seed_0/screen/parts",
    "report",
  ],
)
def test_what_stands_in_the_way_is_named_before_anything_is_made(workdir, name):
  path = workdir / name
  path.parent.mkdir(parents=True)
  if path.suffix:
    path.mkdir()
  else:
    path.write_text("a file")
  with pytest.raises(UserError, match=rf"{name} is a f\w+; .*Move it out"):
    _run(_config(), workdir, STAGES)


@pytest.mark.parametrize(
  "fields", [{"train.flops": 1e9}, {"train.max_steps": 4}]
)
def test_a_limit_is_not_lowered(workdir, fields):
  config = _config(**{"train.max_steps": 5})
  _make_up(config, workdir)
  config.update_from_flattened_dict(fields)
  with pytest.raises(UserError, match="gone as far as that") as e:
    _run(config, workdir)
  [(name, value)] = fields.items()
  assert f"  {name}: " in str(e.value)
  assert f"{value!r} in the config" in str(e.value)


def _left(workdir):
  return {
    name
    for name in _all(workdir)
    if name.endswith((".parquet", "curve.json", "base.safetensors"))
  }


def _all(folder):
  found = set()
  for path in folder.iterdir():
    found |= _all(path) if path.is_dir() else {str(path)}
  return found


def test_fresh_removes_nothing_before_it_must(workdir):
  """What is refused is refused first; even the model is loaded first."""
  _make_up(_config(), workdir)
  before = _left(workdir)
  with pytest.raises(AssertionError, match="something is made"):
    _run(_config(), workdir, STAGES, fresh=True)
  assert _left(workdir) == before


def test_fresh_takes_what_the_stages_make_and_nothing_else(workdir):
  """Not other arms and seeds, not other stages, not a file of yours."""
  everything = _config(arg="tiny=true,arms=rl+prefixrl,seeds=2")
  _make_up(everything, workdir)
  for name in ("thesis.tex", "train/rl/seed_0/notes", "data/mine.parquet"):
    (workdir / name).write_text("years")
  before = _all(workdir)
  work = Workspace(_config(arg="tiny=true,arms=rl"), workdir)
  work.request_redo(["train", "evaluate"], ("train", "evaluate"))
  work.begin(work.run_artifact("train", "rl", 0))
  gone = {name for name in before if not epath.Path(name).exists()}
  assert gone == {
    str(workdir / stage / name)
    for stage, name in (
      ("train/rl/seed_0", "curve.json"),
      ("train/rl/seed_0", "manifest.json"),
      ("evaluate/base/seed_0", "results.parquet"),
      ("evaluate/base/seed_0", "manifest.json"),
      ("evaluate/base/seed_0", "inputs.json"),
      ("evaluate/rl/seed_0", "results.parquet"),
      ("evaluate/rl/seed_0", "manifest.json"),
      ("evaluate/rl/seed_0", "inputs.json"),
    )
  }


def test_fresh_leaves_a_folder_that_no_run_has_made(workdir):
  workdir.mkdir()
  (workdir / "thesis.tex").write_text("years")
  with pytest.raises(UserError, match=r"--fresh: .*nothing is removed") as e:
    _run(_config(), workdir, STAGES, fresh=True)
  assert "\n" not in str(e.value)
  assert _all(workdir) == {str(workdir / "thesis.tex")}


@pytest.mark.parametrize("older", [False, True])
def test_fresh_knows_a_workdir(workdir, older):
  """By its marker, and one from before there were any by its manifests."""
  if older:
    (workdir / "data/seed_0/screen").mkdir(parents=True)
    manifest = workdir / "data/seed_0/screen/manifest.json"
    manifest.write_text('{"depends": {}, "summary": {}}')
    with pytest.raises(UserError, match="older version of the program"):
      _run(_config(), workdir)
    assert manifest.exists()
  else:
    with pytest.raises(AssertionError, match="something is made"):
      _run(_config(), workdir, STAGES)
    assert [p.name for p in workdir.iterdir()] == [MARKER]
    assert json.loads((workdir / MARKER).read_text())["seeds"] == [0]
  with pytest.raises(AssertionError, match="something is made"):
    _run(_config(), workdir, STAGES, fresh=True)


def test_a_part_is_named_for_redo(workdir):
  config = _config(arg="tiny=true,arms=rl+prefixrl,seeds=2")

  def redone(*names):
    work = Workspace(config, workdir)
    work.request_redo(names, STAGES)
    return work._to_redo

  assert redone("collect/seed_1") == {"collect/seed_1"}
  assert redone("cut", "train/rl") == {
    "cut/seed_0",
    "cut/seed_1",
    "train/rl/seed_0",
    "train/rl/seed_1",
  }
  assert redone("evaluate/base/seed_0") == {"evaluate/base/seed_0"}
  assert redone("report") == set()
  # As a shell completes it.
  assert redone("train/rl/seed_1/") == {"train/rl/seed_1"}
  for wrong in ("train/r", "train/rl/seed_7", "", "data", "Train", "train//rl"):
    with pytest.raises(UserError, match=f"--redo={wrong} names no artifact"):
      Workspace(config, workdir).request_redo([wrong], ("collect", "train"))


@pytest.mark.parametrize("name", ["screen/seed_0", "export", "import"])
def test_what_no_stage_makes_is_not_remade(workdir, name):
  stage = name.partition("/")[0]
  with pytest.raises(UserError, match=f"--redo={name} needs {stage} among"):
    Workspace(_config(), workdir).request_redo([name], ("report",))
  with pytest.raises(UserError, match="there are none, and"):
    Workspace(_config(), workdir).request_redo(["x"], ("report",))


def test_a_base_that_is_given_is_not_remade(workdir):
  with pytest.raises(UserError, match="--redo=pretrain names no artifact"):
    Workspace(_config(), workdir).request_redo(["pretrain"], STAGES)


def test_whether_anything_was_removed_is_known(workdir):
  """What is said about going on depends on it."""
  _make_up(_config(), workdir)
  work = Workspace(_config(), workdir)
  work.request_redo(["cut"], STAGES)
  assert not work.has_removed
  cut = work.data_artifact("cut", 0)
  work.begin(cut)
  assert work.has_removed
  cut.finish({}, [])
  assert cut.complete  # it is asked for once


def test_a_finished_run_whose_checkpoints_are_gone_does_not_begin_again(
  workdir,
):
  """Only a raised limit asks for it; nothing is touched then."""
  config = _config(arg="tiny=true,arms=rl")
  _make_up(config, workdir)
  raised = _config(
    arg="tiny=true,arms=rl", **{"train.flops": 2 * config.train.flops}
  )
  before = _left(workdir)
  with pytest.raises(UserError, match=r"no checkpoint in .*seed_0/checkp") as e:
    _run(raised, workdir, ("train",))
  assert "--redo=train/rl/seed_0" in str(e.value)
  assert _left(workdir) == before
  (workdir / "train/rl/seed_0/checkpoints/7").mkdir(parents=True)
  with pytest.raises(AssertionError, match="something is made"):
    _run(raised, workdir, ("train",))


def test_a_damaged_manifest_offers_its_own_part(workdir, monkeypatch):
  config = _config()
  _make_up(config, workdir)
  manifest = workdir / "data/seed_0/collect/manifest.json"
  manifest.write_text("{")
  with pytest.raises(UserError, match=r"collect/manifest.* is damaged") as e:
    _run(config, workdir)
  assert "--redo=collect/seed_0 re-makes it" in str(e.value)
  assert "--fresh" not in str(e.value)
  # It is hard to say what from, but not that it is to be made.
  run = Pipeline(config, workdir, redo=["collect/seed_0"])
  monkeypatch.setattr(upstream, "hard_train", lambda work, seed: [])
  with pytest.raises(AssertionError, match="something is made"):
    run.run(("collect",))


def test_what_was_made_from_a_part_that_came_out_different(workdir):
  """Cuts follow; a run that has learnt from others is refused."""
  config = _config(arg="tiny=true,arms=prefixrl")
  _make_up(config, workdir)
  work = Workspace(config, workdir)
  collect = work.data_artifact("collect", 0)
  collect.remove()
  collect.begin()
  files.write_text(collect.directory / "traces.parquet", "others")
  collect.finish({}, ["traces.parquet"])
  assert not work.data_artifact("cut", 0).complete
  with pytest.raises(
    UserError, match="train/prefixrl/seed_0 was made from"
  ) as e:
    _run(config, workdir)
  assert "made_from.collect: " in str(e.value)
  assert "--redo=train/prefixrl/seed_0" in str(e.value)


def test_a_killed_process_leaves_no_temporary_files_for_ever(workdir):
  _make_up(_config(), workdir)
  (workdir / ".run_config.json.77.tmp").write_text("{")
  (workdir / "report").mkdir()
  (workdir / "report/.index.html.77.tmp").write_text("<")
  _run(_config(), workdir)
  assert not [name for name in _all(workdir) if name.endswith(".tmp")]


def test_what_is_needed_is_of_the_same_settings(workdir):
  """As by export, which asks for nothing else."""
  _make_up(_config(), workdir)
  work = Workspace(_config(**{"learner.discount": 0.5}), workdir)
  with pytest.raises(UserError, match="train/rl/seed_0 was made with"):
    work.need(work.run_artifact("train", "rl", 0))


def test_two_runs_do_not_work_in_one_workdir(workdir):
  workdir.mkdir()
  (workdir / LOCK).write_text("of another process")
  with pytest.raises(UserError, match=r"lock\.json is there"):
    _run(_config(), workdir, ("screen",))
