"""The Python API: step by step, it does what the stages do."""

import inspect
import json
import pathlib
import re
import sys

import numpy as np
import pytest
import tiny_run
from etils import epath

from prefixrl_jax import api
from prefixrl_jax.storage.files import File
from prefixrl_jax.storage.results import read_results
from prefixrl_jax.storage.trace_store import read_prefixed_problems, read_traces
from prefixrl_jax.types import TrainData, UserError

_FIELDS = {
  "train.max_steps": 2,
  "train.flops": 1e13,
  **tiny_run.FEW_PROGRAMS,
}


def _same(found, expected):
  assert len(found) == len(expected)
  for one, other in zip(found, expected):
    np.testing.assert_equal(vars(one), vars(other))


@pytest.fixture(scope="module")
def config():
  return api.load_config("demo:tiny=true,arms=prefixrl", _FIELDS)


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
  """Of a finished run."""
  folder = tmp_path_factory.mktemp("api") / "run"
  api.run(config, folder, "screen,collect,cut,train,evaluate")
  return epath.Path(folder)


@pytest.fixture(scope="module")
def policy(config):
  return api.load_policy(config)


@pytest.fixture(scope="module")
def data(config, workdir):
  return api.load_data(config, workdir)


def test_traces_are_those_of_the_stage(config, workdir, policy, data):
  folder = workdir / "data/seed_0/collect"
  stored = read_traces(File(folder / "traces.parquet"))
  problems = api.load_problems(config)
  hard = [p for p in problems if p.split == "train"]
  calls = []
  before = policy.ledger.to_dict()["collection"]["completions"]
  found = api.collect(policy, hard, on_progress=lambda *c: calls.append(c))
  _same(
    [t for t in found if t.problem_id in {s.problem_id for s in stored}], stored
  )
  assert calls[-1][0] == len({t.problem_id for t in found})
  spent = policy.ledger.to_dict()["collection"]["completions"] - before
  assert spent >= calls[-1][1] > 0


def test_prefixes_are_those_of_the_stage(config, workdir, policy, data):
  file = File(workdir / "data/seed_0/cut/prefixed.parquet")
  problems = api.load_problems(config)
  found = api.cut(policy, problems, data.traces)
  _same(found, read_prefixed_problems(file))
  _same(found, data.prefixed)


@pytest.fixture(scope="module")
def trained(policy, data):
  """A policy of two steps, its curve, and the steps that were reported."""
  steps = []
  note = lambda step, metrics: steps.append((step, metrics["flops_paper"]))
  return *api.train(policy, data, steps=2, on_step=note), steps


def test_training_is_that_of_the_stage(workdir, policy, trained):
  found, curve, steps = trained
  assert [step for step, _ in steps] == [1, 2]
  assert 0 < steps[0][1] < steps[1][1]
  saved = json.loads((workdir / "train/prefixrl/seed_0/curve.json").read_text())
  assert [p["accuracy"] for p in curve] == [p["accuracy"] for p in saved]
  assert [p["step"] for p in curve] == [p["step"] for p in saved]
  stored = api.load_policy(policy.session.config, workdir, arm="prefixrl")
  assert found.name == stored.name
  assert found.name.startswith("prefixrl@")


def test_evaluation_is_that_of_the_stage(workdir, data, trained):
  folder = workdir / "evaluate/prefixrl/seed_0"
  expected = read_results(File(folder / "results.parquet"))
  found = api.evaluate(trained[0], data.train, traces=data.traces)
  _same(found, [r for r in expected if r.split == "train"])


def test_a_training_goes_on_in_its_workdir(policy, data, trained, tmp_path):
  taken = []
  note = lambda step, _: taken.append(step)
  for steps in (1, 2):
    found, _ = api.train(
      policy, data, steps=steps, workdir=tmp_path, on_step=note
    )
  assert taken == [1, 2]  # the first step is not taken twice
  assert found.name == trained[0].name


def test_training_begins_with_the_base(data, trained):
  with pytest.raises(UserError, match="begins with the base policy"):
    api.train(trained[0], data, steps=1)


def test_samples_are_judged_and_begin_with_their_prefix(policy, data):
  problem, trace = data.train[0], data.traces[0]
  assert problem.id == trace.problem_id
  [group] = api.sample(policy, [problem], 3, prefixes=[trace.tokens[:-1]])
  assert len(group.completions) == len(group.rewards) == 3
  texts = policy.texts(group)
  # Nothing but the stop is missing.
  assert all(text.startswith(trace.text[:-1]) for text in texts)
  verdicts = api.judge(policy, [problem] * 4, [*texts, trace.text])
  whole = [not c.truncated for c in group.completions]
  assert [v.reward * w for v, w in zip(verdicts, whole)] == [*group.rewards]
  assert verdicts[-1].reward == 1
  with pytest.raises(UserError, match="1 prefixes for 2 problems"):
    api.sample(policy, [problem] * 2, prefixes=[trace.tokens])


def test_a_policy_of_a_notebook_needs_no_screening(policy, data):
  """Problems and prefixes are enough to train on."""
  own = TrainData(train=data.train[:2], prefixed=data.prefixed[:2])
  _, curve = api.train(policy, own, steps=1)
  assert [p["step"] for p in curve] == [0, 1]
  assert list(curve[0]["accuracy"]) == ["train"]


# -- a workdir's runs in pandas ------------------------------------------------


def test_runs_are_read_into_pandas(workdir):
  runs = api.read_runs(workdir)
  assert [*runs.steps[["arm", "seed", "step"]].itertuples(index=False)] == [
    ("prefixrl", 0, 1),
    ("prefixrl", 0, 2),
  ]
  assert (runs.steps["train/prefixed/reward"] <= 1).all()
  saved = json.loads((workdir / "train/prefixrl/seed_0/curve.json").read_text())
  heldout = runs.curves[runs.curves.split == "heldout"]
  assert [*heldout.accuracy] == [p["accuracy"]["heldout"] for p in saved]
  assert heldout.flops_paper.is_monotonic_increasing
  assert heldout.flops_paper.iloc[-1] == runs.steps.flops_paper.iloc[-1]
  of_arms = runs.results.groupby("arm").size()
  results = read_results(File(workdir / "evaluate/base/seed_0/results.parquet"))
  assert of_arms["base"] == of_arms["prefixrl"] == len(results)
  one = runs.results[runs.results.arm == "base"].iloc[0]
  assert one.accuracy == results[0].num_correct / results[0].num_samples
  assert set(runs.results.evaluation) == {""}


def test_a_run_that_is_not_finished_has_its_steps(tmp_path):
  folder = tmp_path / "train/rl/seed_3"
  folder.mkdir(parents=True)
  (folder / "metrics.jsonl").write_text('{"step": 1, "flops_paper": 5}\n{"st')
  runs = api.read_runs(tmp_path)
  assert runs.steps.to_dict("records") == [
    {"arm": "rl", "seed": 3, "step": 1, "flops_paper": 5}
  ]
  assert runs.curves.empty
  assert list(runs.results.columns[:3]) == ["arm", "seed", "evaluation"]


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(UserError, match="has no run"):
    api.read_runs(tmp_path)


def test_without_pandas_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "pandas", None)
  with pytest.raises(UserError, match=r"prefixrl_jax\[notebooks\]"):
    api.read_runs(tmp_path)


# -- wrong use -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "fields", "said"),
  [
    ("none", {}, "there is no file none"),
    ("demo:arm=rl", {}, "no argument 'arm'"),
    ("demo", {"train.flop": 1}, "has no 'flop'"),
    ("demo", {"train.flops": -1}, r"train\.flops"),
  ],
)
def test_a_wrong_config_is_refused(name, fields, said):
  with pytest.raises(UserError, match=said):
    api.load_config(name, fields)


def test_fields_have_the_values_that_are_given():
  fields = {
    "evals.fractions": (0.5, 0.25),
    "train.flops": 2e10,
    "model.base": "a b.safetensors",
    "learner.skip_nonfinite": True,
  }
  config = api.load_config("demo:tiny=true", fields)
  assert config.evals.fractions == (0.5, 0.25)
  assert config.train.flops == 2e10
  assert config.model.base == "a b.safetensors"
  assert config.learner.skip_nonfinite is True


def test_a_policy_that_is_not_there_is_refused(config, workdir):
  with pytest.raises(UserError, match="is trained in a workdir"):
    api.load_policy(config, arm="rl")
  with pytest.raises(UserError, match="is not complete"):
    api.load_policy(config, workdir, arm="rl")
  unmade = api.load_config("demo:tiny=true", {"model.base": ""})
  with pytest.raises(UserError, match="the stage pretrain"):
    api.load_policy(unmade)


def test_an_unknown_arm_or_stage_is_refused(config, policy, data, tmp_path):
  with pytest.raises(UserError, match="no arm 'prefix_rl'; known: cispo, "):
    api.train(policy, data, "prefix_rl", steps=1)
  bare = TrainData(train=data.train)
  with pytest.raises(UserError, match=r"needs prefixes, and data\.prefixed"):
    api.train(policy, bare, "prefixrl", steps=1)
  with pytest.raises(UserError, match=r"data\.train has no problem"):
    api.train(policy, TrainData(train=()), "rl", steps=1)
  with pytest.raises(UserError, match="no stage 'trian'"):
    api.run(config, tmp_path, "trian")
  with pytest.raises(UserError, match="for the command line alone"):
    api.run(config, tmp_path, "compile")
  assert list(tmp_path.iterdir()) == []


# -- its page ------------------------------------------------------------------

_PAGE = (pathlib.Path(api.__file__).parents[1] / "docs/api.md").read_text()


def test_every_name_is_documented():
  members = re.search(
    r"::: prefixrl_jax\.api\n(?:    .*\n)*?.*members: \[(.*)\]", _PAGE
  )
  assert members[1].split(", ") == list(api.__all__)
  for name in api.__all__:
    assert inspect.getdoc(getattr(api, name)), name


def test_the_examples_of_its_page_work(workdir, monkeypatch):
  by_hand, as_stages = re.findall(r"^```python\n(.*?)^```", _PAGE, re.M | re.S)
  names = {"few": tiny_run.FEW_PROGRAMS}
  for long, short in (
    ('"demo", {', '"demo:tiny=true", few | {'),
    ("steps=20", "steps=1"),
  ):
    assert long in by_hand
    by_hand = by_hand.replace(long, short)
  exec(by_hand, names)
  assert [point["step"] for point in names["curve"]] == [0, 1]
  asked = []
  monkeypatch.setattr(api, "run", lambda *how: asked.append(how))
  exec(as_stages.replace("runs/demo", str(workdir)), names)
  assert asked == [(names["config"], str(workdir))]
  assert not names["runs"].curves.empty
