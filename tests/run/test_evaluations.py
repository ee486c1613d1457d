"""Evaluations of a finished run: others are added, none is replaced.

The workdirs are made up: every artifact is there, none has been computed.
"""

import pytest
from etils import epath

from prefixrl_jax.configs import demo, math
from prefixrl_jax.pipeline import Pipeline
from prefixrl_jax.run import provenance
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.stages import STAGES, evaluate
from prefixrl_jax.storage import files
from prefixrl_jax.types import UserError

_FILES = {
  "screen": "pass_rates.parquet",
  "collect": "traces.parquet",
  "cut": "prefixed.parquet",
  "train": "curve.json",
  "evaluate": "results.parquet",
  "rescore": "logprobs.parquet",
}
_SUMMARY = {"weights": "", "given_away": {}, "steps": 31}


def _config(arg="tiny=true,arms=rl", **fields):
  config = demo.get_config(arg)
  config.update_from_flattened_dict(fields)
  return config


def _finish(artifact):
  artifact.begin()
  name = _FILES[artifact.name.partition("/")[0]]
  files.write_text(artifact.directory / name, artifact.name)
  artifact.finish(_SUMMARY, [name])


@pytest.fixture
def workdir(tmp_path):
  folder = epath.Path(tmp_path / "run")
  for artifact in Workspace(_config(), folder).artifacts(STAGES):
    _finish(artifact)
  return folder


def _evaluations(config, workdir):
  """What the config would make: names below evaluate/."""
  work = Workspace(config, workdir)
  return [
    artifact.name.removeprefix("evaluate/")
    for artifact, *_ in work.evaluations_to_make()
  ]


OTHERS = (
  {"evals.num_samples": 9},
  {"evals.temperature": 0.5},
  {"evals.fractions": (0.3,)},
  {"evals.fraction_samples": 9},
  {"evals.final_problems": 3},
)


@pytest.mark.parametrize("fields", OTHERS, ids=str)
def test_another_final_evaluation_is_added_to_a_finished_run(workdir, fields):
  before = {p: p.read_bytes() for p in _files(workdir)}
  config = _config(**fields)
  names = _evaluations(config, workdir)
  assert [n.rpartition("-")[0] for n in names] == [
    "base/seed_0/problems",
    "rl/seed_0/problems",
  ]
  for artifact, *_ in Workspace(config, workdir).evaluations_to_make():
    _finish(artifact)
  assert _evaluations(config, workdir) == []
  assert _evaluations(_config(), workdir) == []  # the first one is still there
  assert {p: p.read_bytes() for p in before} == before
  Pipeline(config, workdir).run(("train", "evaluate"))


def _files(folder):
  for path in folder.iterdir():
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def test_each_other_evaluation_has_its_own_place(workdir):
  for fields in OTHERS:
    for artifact, *_ in Workspace(
      _config(**fields), workdir
    ).evaluations_to_make():
      _finish(artifact)
  work = Workspace(_config(), workdir)
  found = list(work.evaluations("rl", 0))
  assert len(found) == 1 + len(OTHERS)
  assert [e.made_with["evals.num_samples"] for e in found].count(9) == 1
  assert len({e.directory for e in found}) == len(found)


def test_what_a_part_of_an_evaluation_is_named_for_redo(workdir):
  config = _config(**{"evals.num_samples": 9})
  for artifact, *_ in Workspace(config, workdir).evaluations_to_make():
    _finish(artifact)
  run = Pipeline(config, workdir, redo=["evaluate/rl/seed_0"])
  run.work.request_redo(["evaluate/rl/seed_0"], ("evaluate",))
  [(artifact, *_)] = run.work.evaluations_to_make()
  assert artifact.name.startswith("evaluate/rl/seed_0/problems-")


def test_how_an_evaluation_is_computed_makes_no_other(workdir):
  fields = {"evals.rows": 3, "evals.lanes": 1, "mesh.fsdp": 2}
  assert _evaluations(_config(**fields), workdir) == []
  # Nor do sets that are not asked for, and the curve's own fields.
  assert _evaluations(_config(**{"evals.sets.shorter.size": 1}), workdir) == []
  assert _evaluations(_config(**{"evals.curve_samples": 9}), workdir) == []


@pytest.mark.parametrize(
  ("field", "value", "before"),
  [
    ("evals.curve_points", 5, 2),
    ("evals.curve_samples", 5, 2),
    ("evals.curve_problems", 5, 0),
    ("evals.curve_temperature", 0.5, 1.0),
  ],
)
def test_another_curve_is_another_run(workdir, field, value, before):
  with pytest.raises(UserError, match="train/rl/seed_0 was made with") as e:
    Pipeline(_config(**{field: value}), workdir).run(("train",))
  said = f"  {field}: {before!r} in the workdir, {value!r} in the config"
  assert said in str(e.value)


def _as_before(record):
  """A record of the version before the curve had fields of its own."""
  depends = record["depends"]
  if "evals.curve_temperature" in depends:
    depends["evals.temperature"] = depends.pop("evals.curve_temperature")
  for name in ("evals.curve_problems", "evals.final_problems"):
    depends.pop(name, None)
  for name in ("arm.schedule.name", "arm.loss.name"):
    depends.pop(name, None)
  return record


@pytest.fixture
def older(workdir):
  """A finished workdir of an older version."""
  for stage in ("train", "evaluate"):
    for manifest in (workdir / stage).glob("*/*/*.json"):
      if manifest.name in ("manifest.json", "inputs.json"):
        record = files.read_sealed(manifest, "")
        record.pop("sha256", None)
        files.write_sealed(manifest, _as_before(record))
  # What the evaluation was made from.
  train = Workspace(_config(), workdir).run_artifact("train", "rl", 0)
  manifest = workdir / "evaluate/rl/seed_0/manifest.json"
  record = files.read_sealed(manifest, "")
  record["made_from"]["train"] = train.digest
  files.write_sealed(manifest, record)
  return workdir


def test_an_older_workdir_goes_on(older):
  record = files.read_sealed(older / "train/rl/seed_0/manifest.json", "")
  assert "evals.temperature" in record["depends"]
  Pipeline(_config(), older).run(("train", "evaluate"))
  assert _evaluations(_config(), older) == []


def test_an_older_run_has_the_curve_that_it_had(older):
  with pytest.raises(
    UserError, match=r"evals\.curve_temperature: 1\.0 in the workdir, 0\.5 in"
  ):
    Pipeline(_config(**{"evals.curve_temperature": 0.5}), older).run(("train",))
  with pytest.raises(
    UserError, match=r"evals\.curve_problems: 0 in the workdir, 7 in"
  ):
    Pipeline(_config(**{"evals.curve_problems": 7}), older).run(("train",))


def test_an_older_run_is_evaluated_anew_beside(older):
  assert _evaluations(_config(**{"evals.temperature": 0.5}), older)[
    1
  ].startswith("rl/seed_0/problems-")


# -- sets of problems that are only evaluated on -------------------------------


def test_a_set_is_added_to_a_finished_run(workdir):
  config = _config(**{"evals.run_sets": "shorter"})
  names = _evaluations(config, workdir)
  assert [n.rpartition("-")[0] for n in names] == [
    "base/seed_0/shorter",
    "rl/seed_0/shorter",
  ]
  for artifact, *_ in Workspace(config, workdir).evaluations_to_make():
    _finish(artifact)
  assert _evaluations(config, workdir) == []
  # Other settings of the run's own evaluation are none of the set's.
  config.evals.fractions = (0.3,)
  assert all("/problems-" in n for n in _evaluations(config, workdir))
  # Other problems of the same name are another evaluation.
  config = _config(
    **{"evals.run_sets": "shorter", "evals.sets.shorter.size": 4}
  )
  assert all("/shorter-" in n for n in _evaluations(config, workdir))
  assert len(_evaluations(config, workdir)) == 2


def test_a_set_has_its_own_place_whatever_is_in_the_run_s(workdir):
  (workdir / "evaluate/rl/seed_0/manifest.json").write_text("{")
  config = _config(**{"evals.run_sets": "shorter"})
  of_set = Workspace(config, workdir).run_artifact(
    "evaluate", "rl", 0, "shorter"
  )
  assert of_set.name.startswith("evaluate/rl/seed_0/shorter-")


def test_a_set_has_its_own_number_of_samples():
  config = _config(**{"evals.run_sets": "shorter"})
  read = lambda: provenance.settings(config, "evaluate", "shorter")
  assert read()["evals.num_samples"] == config.evals.num_samples == 2
  config.evals.sets.shorter.num_samples = 64
  assert read()["evals.num_samples"] == 64


def test_what_is_evaluated_is_of_the_policy_that_is_there(workdir):
  """Evaluations of a policy that was trained anew since are left out."""
  config = _config(**{"evals.num_samples": 9})
  for artifact, *_ in Workspace(config, workdir).evaluations_to_make():
    _finish(artifact)
  work = Workspace(_config(), workdir)
  assert len(list(work.evaluations("rl", 0))) == 2
  train = work.run_artifact("train", "rl", 0)
  train.remove()
  train.begin()
  files.write_text(train.directory / "curve.json", "another")
  train.finish(_SUMMARY, ["curve.json"])
  assert list(work.evaluations("rl", 0)) == []
  assert len(list(work.evaluations("base", 0))) == 2


def test_a_damaged_evaluation_is_named_with_its_remedy(workdir):
  (workdir / "evaluate/rl/seed_0/manifest.json").write_text("{")
  with pytest.raises(UserError, match=r"damaged.*--redo=evaluate/rl/seed_0"):
    Pipeline(_config(**{"evals.num_samples": 9}), workdir).run(("evaluate",))


# -- a set that is of no use ---------------------------------------------------


def _rows_config(tmp_path, monkeypatch, **row):
  class Characters:
    def most_tokens(self, text):
      return len(text)

    def encode_prompts(self, prompts):
      return map(list, prompts)

  monkeypatch.setattr(
    "prefixrl_jax.run.inputs.open_tokenizer", lambda *_: Characters()
  )
  monkeypatch.setattr(
    "prefixrl_jax.run.inputs.find_folder", lambda _: epath.Path(tmp_path)
  )
  rows = [f'{{"problem": "1+{i}?", "answer": "{1 + i}"}}' for i in range(4)]
  (tmp_path / "p.jsonl").write_text("\n".join(rows))
  (tmp_path / "q.jsonl").write_text(
    "\n".join([rows[0].replace("problem", "q"), '{"q": "7?", "answer": "7"}'])
  )
  config = math.get_config("task=jsonl,trial=true,arms=rl")
  config.model.folder = "m"
  config.problems.update(file=str(tmp_path / "p.jsonl"))
  config.problems.update(num_train=2, num_heldout=1)
  config.evals.run_sets = "own"
  config.evals.sets.own.update(**row)
  return config


def test_a_file_of_ones_own_is_a_set(tmp_path, monkeypatch, capsys):
  config = _rows_config(
    tmp_path, monkeypatch, file=str(tmp_path / "q.jsonl"), problem_field="q"
  )
  work = Workspace(config, epath.Path(tmp_path / "run"))
  problems = work.set_problems("own", 0)
  instruction = config.problems.instruction
  assert [(p.prompt, p.answer, p.split) for p in problems] == [
    (f"1+0?{instruction}", "1", "own"),
    (f"7?{instruction}", "7", "own"),
  ]
  evaluate.check(work)
  said = " ".join(capsys.readouterr().err.split())
  assert "sets.own: 1 of 2 problems are among the training problems" in said


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ({"file": "absent.jsonl"}, r"config.evals.sets.own.file.*absent"),
    ({"file": "q.jsonl"}, "none is the problem of task 'jsonl'"),
    (
      {"file": "q.jsonl", "problem_field": "q", "num_problems": 5},
      "config.evals.sets.own asks for 5 problems of .*q.jsonl; there are 2",
    ),
    ({"task": "countdown"}, "sets.own: countdown is drawn by rule"),
    (
      {"file": "p.jsonl", "level": "5"},
      r"config\.evals\.sets\.own\.level = '5': jsonl has no levels",
    ),
  ],
)
def test_a_set_of_no_use_is_named_first(tmp_path, monkeypatch, row, message):
  monkeypatch.chdir(tmp_path)
  config = _rows_config(tmp_path, monkeypatch, **row)
  monkeypatch.setattr(
    "prefixrl_jax.run.workspace.open_session",
    lambda *_, **__: pytest.fail("something is computed"),
  )
  with pytest.raises(UserError, match=message):
    Pipeline(config, epath.Path(tmp_path / "run")).run(STAGES)


def test_a_set_of_another_kind_is_judged_by_its_own_verifier(
  tmp_path, monkeypatch
):
  config = _rows_config(tmp_path, monkeypatch, task="folio")
  config.evals.sets.aime2024.task = "aime2024"
  work = Workspace(config, epath.Path(tmp_path / "run"))
  assert type(work.verifier).__name__ == "MathVerifier"
  assert work.verifier_of("") is work.verifier_of("aime2024") is work.verifier
  assert type(work.verifier_of("own")).__name__ == "LogicVerifier"
  work.close()
