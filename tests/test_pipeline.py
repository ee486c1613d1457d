"""From problems to report, through the entry point, on the tiny demo."""

import contextlib
import importlib.resources
import json
import math as math_lib
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pandas as pd
import pytest
import tiny_run
from etils import epath

from prefixrl_jax.configs import countdown, demo, math
from prefixrl_jax.embedded import checksum
from prefixrl_jax.models import base_file, parameters
from prefixrl_jax.pipeline import Pipeline
from prefixrl_jax.problems.loading import load_problems
from prefixrl_jax.run.inputs import Inputs
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.stages import (
  STAGES,
  collect,
  evaluate,
  import_traces,
  report,
  screen,
  show_problems,
)
from prefixrl_jax.types import EvalResult, UserError

pytestmark = pytest.mark.usefixtures("one_device_alone")

_ROOT = pathlib.Path(__file__).parents[1]


def _config(arg="tiny=true,arms=sft_rl+prefixrl", **fields):
  config = demo.get_config(arg)
  config.update_from_flattened_dict(
    {
      "train.max_steps": 2,
      "sft.batch_size": 4,
      "arms.sft_rl.sft_epochs": 1,
      "mesh.data": 1,
      "mesh.fsdp": -1,
      **tiny_run.FEW_PROGRAMS,
      **fields,
    }
  )
  return config


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A finished workdir, made in two sittings."""
  path = tmp_path_factory.mktemp("run")
  workdir = epath.Path(path)
  Pipeline(_config(), workdir).run(("screen", "collect"))
  Pipeline(_config(), workdir).run(STAGES)
  return path


def test_report_has_every_arm(done):
  summary = json.loads((done / "report/summary.json").read_text())
  assert list(summary["arms"]) == ["base", "sft_rl", "prefixrl"]
  for arm in ("sft_rl", "prefixrl"):
    costs = summary["arms"][arm]["runs"]["0"]["costs"]
    assert costs["screening"]["flops_paper"] > 0
    assert costs["collection"]["flops_paper"] > 0
    assert (costs["sft"]["flops_paper"] > 0) == (arm == "sft_rl")
    purposes = ("collection", "sft", "sampling", "update")
    assert costs["training"]["flops_paper"] == pytest.approx(
      sum(costs[p]["flops_paper"] for p in purposes)
    )
    curve = summary["arms"][arm]["runs"]["0"]["curve"]
    # An arm that uses traces starts at what they cost.
    assert curve["cost"]["flops_paper"][0] >= costs["collection"]["flops_paper"]
    # All held-out problems are evaluated, the hard ones are shown apart too.
    rates = pd.read_parquet(done / "data/seed_0/screen/pass_rates.parquet")
    heldout = rates[rates.split == "heldout"]
    hard, both = sum(heldout.num_correct == 0), len(heldout)
    final = summary["arms"][arm]["runs"]["0"]["final"]
    assert final["heldout"]["num_problems"] == both
    assert ("heldout_hard" in final) == (hard > 0)
    if hard:
      assert final["heldout_hard"]["num_problems"] == hard
  for name in ("index.html", "figure_a.png", "figure_a.svg", "figure_c.png"):
    assert (done / "report" / name).stat().st_size > 1000


def test_rollouts_can_be_looked_at(done):
  """Those that were kept of both arms; the report has a link."""
  kept = sum(
    len(pd.read_parquet(done / f"train/{arm}/seed_0/rollouts"))
    for arm in ("sft_rl", "prefixrl")
  )
  assert kept
  link = f'<a href="rollouts/index.html">{kept} rollouts of\ntraining</a>'
  assert link in (done / "report/index.html").read_text()
  folder = done / "report/rollouts"
  listed = (folder / "data/rollouts_0.js").read_text()
  rows = json.loads(listed.removeprefix('rolloutData("rollouts",0,')[:-3])
  assert len(rows) == kept
  assert all(row[12] for row in rows)  # rescored, as they are few
  for name in ("index.html", "viewer.js", "reader.js", "viewer.css"):
    assert (folder / name).stat().st_size > 1000


def test_traces_are_readable_with_pandas(done):
  traces = pd.read_parquet(done / "data/seed_0/collect/traces.parquet")
  assert len(traces) == traces["problem_id"].nunique()
  assert (traces["reward"] == 1).all()
  assert (traces["tokens"].map(len) > 1).all()
  for row in traces.itertuples():
    assert len(row.logprobs) == len(row.tokens)
    assert (row.logprobs <= 0).all()
  base = importlib.resources.files("prefixrl_jax") / "data"
  params = base_file.read(epath.Path(str(base / "demo_base.safetensors")))
  assert set(traces["policy"]) == {f"demo@{parameters.weight_hash(params)}"}
  cuts = pd.read_parquet(done / "data/seed_0/cut/prefixed.parquet")
  assert len(cuts) == 3 * len(traces)


def test_what_is_complete_is_not_made_again(done, monkeypatch):
  before = {p: p.stat().st_mtime for p in done.rglob("*.json")}

  def refuse(*_, **__):
    raise AssertionError("nothing is left to sample")

  for stage, name in (
    (screen, "without_prefix"),
    (collect, "collect"),
    (evaluate, "without_prefix"),
    (evaluate, "by_fraction"),
  ):
    monkeypatch.setattr(stage, name, refuse)
  Pipeline(_config(), epath.Path(done)).run(STAGES)
  after = {p: p.stat().st_mtime for p in done.rglob("*.json")}
  changed = {p.name for p in before if before[p] != after[p]}
  assert changed == {"run_config.json", "summary.json"}


@pytest.fixture
def copy(done, tmp_path):
  """A finished workdir to be changed."""
  shutil.copytree(done, tmp_path / "run")
  return tmp_path / "run"


def _changed(workdir, work):
  """Files that are others, or gone, after some work."""
  files = lambda: {
    str(p.relative_to(workdir)): p.stat().st_mtime_ns
    for p in workdir.rglob("*")
    if p.is_file()
  }
  before = files()
  work()
  after = files()
  return {name for name in before if after.get(name) != before[name]}


def test_fresh_report_makes_the_report_anew_and_nothing_else(copy):
  run = Pipeline(_config(), epath.Path(copy), fresh=True)
  changed = _changed(copy, lambda: run.run(("report",)))
  assert {name.partition("/")[0] for name in changed} == {
    "report",
    "run_config.json",
  }


def test_one_part_is_made_anew(copy):
  """It comes out as before, so that what was made from it stays."""
  run = Pipeline(_config(), epath.Path(copy), redo=["cut/seed_0"])
  changed = _changed(copy, lambda: run.run(("cut", "train", "evaluate")))
  assert changed == {"run_config.json"} | {
    f"data/seed_0/cut/{name}"
    for name in ("inputs.json", "manifest.json", "prefixed.parquet")
  }


def test_a_finished_run_is_evaluated_otherwise_beside(copy, capsys):
  """Fewer problems: each has the result it had. And others, on their own."""
  config = _config(
    **{
      "evals.final_problems": 2,
      "evals.run_sets": "shorter",
      "evals.sets.shorter.num_problems": 3,
      "evals.sets.shorter.num_samples": 4,
    }
  )
  run = Pipeline(config, epath.Path(copy))
  changed = _changed(copy, lambda: run.run(("evaluate", "report")))
  assert {name.partition("/")[0] for name in changed} == {
    "report",
    "run_config.json",
  }
  # Six are made: base and two arms. 2 of each split, and half of 2 traces,
  # in 2 samples; 3 of the set in 4.
  said = " ".join(capsys.readouterr().err.split())
  assert f"6 evaluations with {3 * (2 * (3 * 2 + 2) + 3 * 4)} comple" in said
  for arm in ("base", "prefixrl"):
    home = copy / f"evaluate/{arm}/seed_0"
    [bounded] = home.glob("problems-*")
    before, after = (
      pd.read_parquet(f / "results.parquet").set_index(
        ["problem_id", "fraction"]
      )
      for f in (home, bounded)
    )
    assert list(
      after[after.index.get_level_values(1) == 0].value_counts("split")
    ) == [2, 2, 2]
    pd.testing.assert_frame_equal(after, before.loc[after.index])
    [of_set] = home.glob("shorter-*")
    results = pd.read_parquet(of_set / "results.parquet")
    assert set(results.split) == {"shorter"}
    assert list(results.num_samples) == [4, 4, 4]
    manifest = json.loads((of_set / "manifest.json").read_text())
    assert manifest["ledger"]["evaluation"]["completions"] == 12
  summary = json.loads((copy / "report/summary.json").read_text())
  assert [e["set"] for e in summary["evaluations"]] == ["", "", "shorter"]
  # Its samples can be read, too.
  assert "problem shorter/" in (copy / "report/index.html").read_text()
  first, second, _ = summary["evaluations"]
  assert first["differs"] == {"final_problems": 2}
  assert second["differs"] == {"final_problems": 0}


@pytest.mark.parametrize(
  ("name", "remedy"),
  [
    ("data/seed_0/screen/pass_rates.parquet", "screen/seed_0"),
    ("data/seed_0/collect/traces.parquet", "collect/seed_0"),
    ("train/sft_rl/seed_0/curve.json", "train/sft_rl/seed_0"),
    ("evaluate/base/seed_0/results.parquet", "evaluate/base/seed_0"),
    ("evaluate/prefixrl/seed_0/samples.json", "evaluate/prefixrl/seed_0"),
  ],
)
def test_a_flipped_bit_is_named_with_its_remedy(copy, name, remedy):
  path = copy / name
  whole = path.read_bytes()
  for place in (0, len(whole) // 3, len(whole) - 1):
    data = bytearray(whole)
    data[place] ^= 2
    path.write_bytes(data)
    with pytest.raises(UserError) as e:
      Pipeline(_config(), epath.Path(copy)).run(("report",))
    assert f"{name} is damaged" in str(e.value)
    assert f"--redo={remedy} re-makes it" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "name",
  ["data/seed_0/screen", "data/seed_0/cut", "train/sft_rl/seed_0"],
)
def test_a_report_of_what_is_not_complete_names_the_stage(copy, name):
  (copy / name / "manifest.json").unlink()
  stage = name.split("/")[name.startswith("data") * 2]
  with pytest.raises(UserError, match=f"not complete; run --stage={stage}"):
    Pipeline(_config(), epath.Path(copy)).run(("report",))


@pytest.mark.parametrize("how", ["flipped", "gone", "all gone"])
def test_a_finished_policy_that_is_lost_is_made_again_from_what_is_left(
  copy, how
):
  """As the message says: without its manifest, from the one before."""
  artifact = copy / "train/sft_rl/seed_0"
  wanted = (copy / "evaluate/sft_rl/seed_0/results.parquet").read_bytes()
  shutil.rmtree(copy / "evaluate/sft_rl")
  last = max((artifact / "checkpoints").iterdir(), key=lambda p: int(p.name))
  if how == "flipped":
    file = max((last / "state").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
  else:
    shutil.rmtree(last if how == "gone" else last.parent)
  run = Pipeline(_config(), epath.Path(copy))
  with pytest.raises(UserError) as e:
    run.run(("evaluate",))
  assert f"remove {artifact / 'manifest.json'}: --stage=train" in str(e.value)
  (artifact / "manifest.json").unlink()
  Pipeline(_config(), epath.Path(copy)).run(("train", "evaluate"))
  again = copy / "evaluate/sft_rl/seed_0/results.parquet"
  assert again.read_bytes() == wanted


def test_a_finished_run_goes_on(copy, done):
  """Its curve goes on; what was made from it is made again."""
  config = _config("tiny=true,arms=prefixrl", **{"train.max_steps": 3})
  Pipeline(config, epath.Path(copy)).run(("train", "evaluate", "report"))
  rows = lambda path: [
    json.loads(line)
    for line in (path / "train/prefixrl/seed_0/metrics.jsonl")
    .read_text()
    .splitlines()
  ]
  assert [row["step"] for row in rows(copy)] == [1, 2, 3]
  assert rows(copy)[:2] == rows(done)
  curve = lambda path: json.loads(
    (path / "train/prefixrl/seed_0/curve.json").read_text()
  )
  assert curve(copy)[-1]["step"] == 3
  assert curve(copy)[0] == curve(done)[0]
  source = lambda path: json.loads(
    (path / "evaluate/prefixrl/seed_0/manifest.json").read_text()
  )["made_from"]["train"]
  assert source(copy) != source(done)


@pytest.mark.parametrize(
  ("field", "value", "stage"),
  [
    ("prefixes.low", 0.2, "cut"),
    ("collect.budget", 77, "collect"),
    ("problems.size", 4, "screen"),
    ("arms.prefixrl.learning_rate", 1.0, "train/prefixrl"),
    ("learner.discount", 0.5, "train/sft_rl"),
  ],
)
def test_a_workdir_of_another_config_is_refused(done, field, value, stage):
  name = "arm.learning_rate" if field.startswith("arms") else field
  with pytest.raises(UserError) as e:
    Pipeline(_config(**{field: value}), epath.Path(done)).run(STAGES)
  assert f"{name}: " in str(e.value)
  assert f"{value!r} in the config" in str(e.value)
  assert stage in str(e.value)


def test_a_stage_needs_the_one_before(tmp_path):
  with pytest.raises(UserError, match="run --stage=screen first"):
    Pipeline(_config(), epath.Path(tmp_path)).run(("collect",))


def _solve(monkeypatch, splits):
  """Screening finds all problems of the splits solved, all others hard."""

  def screened(session, sampler, problems, *, num_samples, **_):
    del session, sampler
    return [
      EvalResult(
        p.id, p.split, 0.0, num_samples, num_samples * (p.split in splits)
      )
      for p in problems
    ], []

  monkeypatch.setattr(screen, "without_prefix", screened)


def test_no_hard_problem_is_said_before_collection(tmp_path, monkeypatch):
  _solve(monkeypatch, ("train",))
  config = _config()
  with pytest.raises(UserError, match=r"raise config\.screen\.max_correct"):
    Pipeline(config, epath.Path(tmp_path)).run(("screen",))


@pytest.mark.parametrize("num_heldout", [4, 0])
def test_without_hard_heldout_problems_a_run_goes_on(
  tmp_path, monkeypatch, capsys, num_heldout
):
  _solve(monkeypatch, ("heldout",))
  config = _config("tiny=true,arms=rl", **{"problems.num_heldout": num_heldout})
  Pipeline(config, epath.Path(tmp_path)).run(STAGES)
  said = " ".join(capsys.readouterr().err.split())
  assert "no accuracy on hard held-out ones" in said
  summary = json.loads((tmp_path / "report/summary.json").read_text())
  splits = ["train", "heldout", "easy"] if num_heldout else ["train", "easy"]
  assert list(summary["arms"]["rl"]["final"]) == splits
  curve = summary["arms"]["rl"]["runs"]["0"]["curve"]["accuracy"]
  assert list(curve) == [split for split in splits if split != "easy"]


def test_no_trace_found_says_what_to_change(tmp_path):
  config = _config(**{"collect.budget": 1, "problems.size": 7})
  with pytest.raises(UserError, match=r"raise config\.collect\.budget"):
    Pipeline(config, epath.Path(tmp_path)).run(("screen", "collect"))


@pytest.mark.parametrize("fails", [False, True])
def test_the_verifier_is_closed_at_the_end(tmp_path, monkeypatch, fails):
  run = Pipeline(_config(), epath.Path(tmp_path))
  done = []

  def screening(_):
    done.append("screened")
    if fails:
      raise UserError("no")

  monkeypatch.setattr(screen, "run", screening)
  close = lambda: done.append("closed")
  run.work.verifier = types.SimpleNamespace(close=close)
  with pytest.raises(UserError) if fails else contextlib.nullcontext():
    run.run(("screen",))
  assert done == ["screened", "closed"]


def test_prompts_that_do_not_fit_are_named(tmp_path):
  config = _config(**{"rollouts.max_prompt_length": 8})
  with pytest.raises(
    UserError, match=r"10 of 12 prompts .* checksum/0/train/0"
  ):
    Pipeline(config, epath.Path(tmp_path)).run(("screen",))


def test_prompts_that_do_not_fit_are_left_out_if_asked_for(
  tmp_path, monkeypatch
):
  rows = [{"problem": p, "answer": "1"} for p in ("a", "a b c", "d")]
  (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
  config = math.get_config("task=jsonl,trial=true")
  config.model.folder = str(tmp_path)
  config.problems.update(
    file=str(tmp_path / "p.jsonl"),
    num_train=1,
    num_heldout=1,
    instruction="",
  )
  config.rollouts.max_prompt_length = 2

  def load(too_long):
    config.problems.too_long = too_long
    run = Inputs(config)
    encode = lambda prompts: map(str.split, prompts)
    run.tokenizer = types.SimpleNamespace(
      encode_prompts=encode, most_tokens=len
    )
    return [p.prompt for p in run.problems(0)]

  assert load("drop") == ["a", "d"]
  with pytest.raises(UserError, match=r"1 of 2 prompts .*too_long=drop"):
    load("error")


def test_of_a_big_file_some_prompts_are_tokenised_and_some_answers_tried(
  tmp_path, monkeypatch, capsys
):
  rows = [{"problem": f"{i} = x", "answer": str(i)} for i in range(10)]
  rows[5]["answer"] = "}x{"
  (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
  config = math.get_config("task=jsonl,trial=true")
  config.model.folder = str(tmp_path)
  config.problems.update(
    file=str(tmp_path / "p.jsonl"), num_train=10, num_heldout=0, instruction=""
  )
  config.rollouts.max_prompt_length = 5
  asked = []

  def encode(prompts):
    prompts = list(prompts)
    asked.extend(prompts)
    return map(str.split, prompts)

  tried = []

  def unreadable(name, rewards, problems):
    tried.extend(p.index for p in problems)
    return [p for p in problems if p.index == 5]

  run = Inputs(config)
  run.tokenizer = types.SimpleNamespace(
    encode_prompts=encode,
    prompt_text=lambda text: text,
    # Of "3 = x" nothing is known.
    most_tokens=lambda text: math_lib.inf if "3" in text else len(text),
  )
  monkeypatch.setattr(show_problems, "unreadable", unreadable)
  monkeypatch.setattr(show_problems, "_LOOKED_AT", 3)
  show_problems.run(run)
  assert asked == ["3 = x", "0 = x", "4 = x", "8 = x"]
  assert tried == [0, 4, 8]
  shown = capsys.readouterr().err
  assert "answers were tried on 3 of 10 problems" in shown
  assert "verifier rejects" not in shown  # 5 was not tried


def test_problems_are_shown_without_weights(tmp_path, capsys):
  show_problems.run(Inputs(_config()))
  shown = capsys.readouterr().err
  assert "checksum/0/train/2, train" in shown
  assert [x.split() for x in shown.splitlines() if " problems  " in x] == [
    ["problems", "6", "4", "2"]
  ]


def test_missing_model_folder(tmp_path):
  config = _config(**{"model.folder": str(tmp_path / "none")})
  with pytest.raises(UserError, match="there is no folder"):
    Inputs(config)


@pytest.mark.parametrize("made", [demo, countdown])
def test_pretrains_a_base_model(tmp_path, made):
  config = made.get_config("tiny=true")
  config.update_from_flattened_dict(
    {
      "model.base": "",
      "model.width": 16,
      "model.num_heads": 2,
      "model.num_kv_heads": 2,
      "model.mlp_width": 32,
      "pretrain.batch_size": 4,
    }
  )
  config.pretrain.phases = (dict(config.pretrain.phases[0], num_steps=3),)
  Pipeline(config, epath.Path(tmp_path)).run(("pretrain",))
  params = base_file.read(epath.Path(tmp_path) / "pretrain/base.safetensors")
  assert params["embedding"].shape == (config.model.vocab_size, 16)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  # The task is learnable: it is not where it started.
  assert not np.allclose(params["final_norm"]["scale"], 1.0, atol=1e-6)


def test_countdown_cuts_worked_traces(tmp_path):
  """The second demo up to its training data, with a base that knows nothing."""
  config = countdown.get_config("tiny=true")
  config.pretrain.phases = (dict(config.pretrain.phases[0], num_steps=1),)
  Pipeline(config, epath.Path(tmp_path)).run(
    ("pretrain", "import", "screen", "cut")
  )
  traces = pd.read_parquet(tmp_path / "data/seed_0/import/traces.parquet")
  assert set(traces["policy"]) == {"rules/countdown_steps"}
  assert len(traces) == config.problems.num_train
  cuts = pd.read_parquet(tmp_path / "data/seed_0/cut/prefixed.parquet")
  assert set(cuts["problem_id"]) == set(traces["problem_id"])


# -- other people's traces -----------------------------------------------------


def _write_traces(path, seed=0):
  """Guessed and worked answers to all problems, held-out ones too."""
  config = _config()
  with path.open("w") as f:
    for p in load_problems(config.problems, seed=seed):
      right = p.answer.replace(" ", "") + checksum.STOP
      worked = right.replace("a=", "a1:10=")
      for model, text in (("lucky", right), ("wrong", "a=0;"), ("m", worked)):
        f.write(
          json.dumps({"problem": p.prompt, "text": text, "model": model}) + "\n"
        )
  return str(path)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
  """A workdir that was made from a file of traces, up to training."""
  path = tmp_path_factory.mktemp("imported")
  config = _config(
    "tiny=true,arms=prefixrl",
    **{
      "traces.file": _write_traces(path / "traces.jsonl"),
      "collect.traces_per_problem": 2,
      "train.max_steps": 1,
    },
  )
  workdir = epath.Path(path / "run")
  # As main would pick them; collect has nothing to do.
  stages = ("import", "screen", "collect", "cut", "train")
  Pipeline(config, workdir).run(stages)
  return config, workdir


def test_imported_traces_are_trained_on(imported):
  _, workdir = imported
  data = workdir / "data/seed_0"
  assert not (data / "collect").exists()
  traces = pd.read_parquet(data / "import/traces.parquet")
  assert set(traces["policy"]) == {"imported:lucky", "imported:m"}
  assert traces["problem_id"].str.contains("/train/").all()
  cuts = pd.read_parquet(data / "cut/prefixed.parquet")
  rates = pd.read_parquet(data / "screen/pass_rates.parquet")
  hard = rates[(rates.split == "train") & (rates.num_correct == 0)]
  assert len(cuts) == 3 * 2 * len(hard)
  assert set(cuts["trace_policy"]) == set(traces["policy"])
  made = json.loads((data / "import/manifest.json").read_text())["summary"]
  assert made["traces"]["wrong"] == 6
  assert made["traces"]["no such problem"] == 3 * 6
  assert made["problems"] == [6, 6]
  assert made["policies"] == {"imported:lucky": 6, "imported:m": 6}
  [(file, digest)] = made["files"].items()
  assert file.endswith("traces.jsonl")
  assert len(digest) == 64


def test_imported_traces_cost_nothing_and_are_reported(imported):
  config, workdir = imported
  curve = json.loads((workdir / "train/prefixrl/seed_0/curve.json").read_text())
  assert curve[-1]["step"] == 1
  assert curve[-1]["ledger"]["collection"]["flops_paper"] == 0
  assert curve[-1]["ledger"]["update"]["flops_paper"] > 0
  note = report.traces_note(Workspace(config, workdir), 0)
  assert " imported traces (imported:lucky " in note
  assert "traces.jsonl, which cost none" in note


def test_a_workdir_of_other_traces_is_refused(imported, tmp_path):
  config, workdir = imported
  other = config.copy_and_resolve_references()
  other.traces.file = _write_traces(tmp_path / "other.jsonl", seed=3)
  with pytest.raises(UserError, match=r"import was made from something") as e:
    Pipeline(other, workdir).run(("cut",))
  assert "made_from.traces: " in str(e.value)
  other.traces.file = ""
  with pytest.raises(UserError, match="traces_from: 'import' in the workdir"):
    Pipeline(other, workdir).run(("collect", "cut"))


def test_an_import_that_was_cut_off_starts_again(tmp_path, monkeypatch):
  config = _config(**{"traces.file": _write_traces(tmp_path / "t.jsonl")})
  workdir = epath.Path(tmp_path / "run")

  def interrupt(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as m:
    m.setattr(import_traces.trace_store, "write_traces", interrupt)
    with pytest.raises(KeyboardInterrupt):
      Pipeline(config, workdir).run(("import",))
  assert not (workdir / "data/seed_0/import/manifest.json").exists()
  Pipeline(config, workdir).run(("import",))
  traces = pd.read_parquet(workdir / "data/seed_0/import/traces.parquet")
  assert len(traces) == 6


def test_no_usable_trace_shows_the_counts(tmp_path):
  file = _write_traces(tmp_path / "t.jsonl", seed=5)
  config = _config(**{"traces.file": file})
  with pytest.raises(UserError, match=r"6 training problems .*no such problem"):
    Pipeline(config, epath.Path(tmp_path / "run")).run(("import",))


# -- the entry point, as a user starts it --------------------------------------


def _command(*flags):
  return [sys.executable, "-m", "prefixrl_jax.main", *flags]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      (
        "--config=configs/demo.py",
        "--stage=import",
        "--traces=rules:countdown",
      ),
      "config.problems.task is 'checksum'; tasks with worked traces",
    ),
    (("--config=configs/math.py",), "config.model.folder is empty"),
    (("--config=configs/demo.py", "--traces=t.jsonl"), "no file t.jsonl"),
  ],
)
def test_one_line_for_what_a_user_can_mend(tmp_path, flags, message):
  done = subprocess.run(
    # Not the default, in which the README's first command may have been run.
    _command(*flags, f"--workdir={tmp_path}"),
    capture_output=True,
    text=True,
    cwd=_ROOT,
    check=False,
  )
  assert done.returncode == 1
  assert message in done.stderr
  assert "Traceback" not in done.stderr


# What a shell has put into the background ignores SIGINT, and so would its
# children.
_HEARS_SIGINT = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("prefixrl_jax.main", run_name="__main__", alter_sys=True)
"""


def test_a_signal_leaves_a_workdir_that_goes_on(tmp_path, environment_of):
  flags = [
    "--config=configs/demo.py:tiny=true,arms=prefixrl",
    "--config.train.max_steps=12",
    "--config.train.flops=1e15",
    "--config.train.log_every=1",
    *(f"--config.{k}={v}" for k, v in tiny_run.FEW_PROGRAMS.items()),
    f"--workdir={tmp_path}",
  ]

  def run(*flags, signal_at=(0, 0)):
    step, number = signal_at
    process = subprocess.Popen(
      [sys.executable, "-c", _HEARS_SIGINT, *flags],
      stderr=subprocess.PIPE,
      text=True,
      cwd=_ROOT,
      env=environment_of(1),
    )
    lines = []
    for line in process.stderr:
      lines.append(line)
      if f"step {step} " in line:
        process.send_signal(number)
    process.stderr.close()
    assert "Traceback" not in "".join(lines)
    steps = [int(s) for s in re.findall(r"step (\d+) ", "".join(lines))]
    return process.wait(), steps, lines[-1]

  code, _, said = run(*flags, signal_at=(5, signal.SIGINT))
  assert code == 130
  assert "interrupted" in said
  kept = json.loads((tmp_path / "run_config.json").read_text())
  assert kept["train"]["max_steps"] == 12
  assert kept["run_arms"] == ["prefixrl"]
  flags.append("--stage=train")
  code, steps, said = run(*flags, signal_at=(8, signal.SIGTERM))
  assert code == 143
  assert "saved at step" in said
  assert steps[0] > 4  # from the checkpoint, not from the start
  code, steps, _ = run(*flags)
  assert code == 0
  assert steps[0] > 8
  assert steps[-1] == 12
