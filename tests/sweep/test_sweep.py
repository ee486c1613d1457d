"""A sweep from its command line to its table; the runs are made up."""

import functools
import json
import types

import ml_collections
import pytest
from etils import epath

from prefixrl_jax import command_line
from prefixrl_jax.parallel import jobs
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.storage import files
from prefixrl_jax.sweep import __main__ as command
from prefixrl_jax.sweep import running
from prefixrl_jax.types import UserError

_SETS = ("--set", "config.arms.{arm}.learning_rate=1e-4,3e-4")


def _flag(argv, name):
  return next(a.partition("=")[2] for a in argv if a.startswith(f"--{name}="))


@pytest.fixture
def runs(monkeypatch):
  """What has been run; each leaves what such a run leaves.

  Its accuracy is its learning rate times 1,000, a little more for odd seeds.
  """
  monkeypatch.setattr(jobs, "_PAUSE_SECONDS", 0)
  # absl writes out what a flag is by default, which takes most of the time.
  monkeypatch.setattr(ml_collections.ConfigDict, "__str__", object.__repr__)
  found = types.SimpleNamespace(
    argvs=[], copied=[], figures=[], fail=lambda argv: ""
  )

  def start(job, cores):
    argv = job.argv[3:]
    found.argvs.append(argv)
    workdir = epath.Path(_flag(argv, "workdir"))
    there = sorted(
      str(p.relative_to(workdir)) for p in workdir.glob("data/*/*")
    )
    found.copied.append(there)
    if why := found.fail(argv):
      job.log.parent.mkdir(parents=True, exist_ok=True)
      job.log.write_text(f"error: {why}\n")
      return types.SimpleNamespace(poll=lambda: 1)
    config, _ = command_line.config_of(
      [a for a in argv if a.startswith("--config")]
    )
    stages = _flag(argv, "stage").split(",")
    for artifact in Workspace(config, workdir).artifacts(stages):
      if artifact.complete:
        continue
      stage, *_, seed = artifact.name.split("/")
      artifact.begin()
      names = []
      if stage == "train":
        arm = config.run_arms[0]
        final = 1000 * config.arms[arm].learning_rate
        final += 0.02 * (int(seed.removeprefix("seed_")) % 2)
        names = ["curve.json"]
        files.write_json(artifact.directory / "curve.json", _curve(final))
      made = {"weights": "", "steps": 3}
      # Six of eight problems have a trace, after 500 samples each.
      ledger = {"collection": {"completions": 3000}}
      artifact.finish(made | {"solved": [6, 8], "ledger": ledger}, names)
    return types.SimpleNamespace(poll=lambda: 0)

  monkeypatch.setattr(
    command.jobs, "run", functools.partial(jobs.run, starter=start)
  )
  monkeypatch.setattr(
    command,
    "figure_by_hardness",
    lambda panels, stem: found.figures.append((list(panels), stem)),
  )
  return found


def _curve(final):
  cost = dict(flops_executed=0.0, tokens=0, completions=0, seconds=0.0)
  return [
    {
      "step": step,
      "ledger": {"update": cost | {"flops_paper": float(step)}},
      "accuracy": {"train": final * step / 2, "heldout": final * step / 2},
    }
    for step in (0, 2)
  ]


@pytest.fixture
def sweep(tmp_path):
  def sweep(*argv, arg="tiny=true"):
    return command._sweep(
      [
        f"--config=configs/demo.py:{arg}",
        f"--workdir={tmp_path}/w",
        "--seeds=100,101",
        *argv,
      ]
    )

  return sweep


def _stages(runs):
  return [_flag(argv, "stage") for argv in runs.argvs]


def _table(tmp_path):
  return json.loads((tmp_path / "w/sweep.json").read_text())["points"]


def test_every_point_is_run_on_data_that_are_made_once(
  sweep, runs, tmp_path, capsys
):
  assert sweep("--arms=rl+prefixrl", *_SETS) == 0
  assert _stages(runs) == [
    "pretrain,screen,collect",
    *["pretrain,screen,collect,cut,train"] * 4,
  ]
  data = [
    f"data/seed_{s}/{t}" for s in (100, 101) for t in ("collect", "screen")
  ]
  assert runs.copied == [[], *[data] * 4]
  assert "--config.arms.rl.learning_rate=0.0003" in runs.argvs[2]
  assert "--config.run_arms=('rl',)" in runs.argvs[2]
  assert "--config.seeds=(100, 101)" in runs.argvs[2]
  records = _table(tmp_path)
  assert [(r["arm"], r["is_best"]) for r in records] == [
    ("rl", True),
    ("rl", False),
    ("prefixrl", True),
    ("prefixrl", False),
  ]
  best = records[0]
  assert best["settings"] == {"arms.rl.learning_rate": "0.0003"}
  assert best["heldout"]["mean"] == pytest.approx(0.31)
  assert best["seeds"]["101"]["heldout"] == pytest.approx(0.32)
  assert best["area"]["mean"] == pytest.approx(0.31 / 2)
  said = capsys.readouterr().out
  assert "4 points of 2 seeds: 0 are complete, 4 to run, 1 at a time" in said
  assert "[4/4] prefixrl,learning_rate=0.0003: 0 s" in said
  table = (tmp_path / "w/sweep.md").read_text()
  assert table in said
  assert "| **rl** | **0.0003** | **2** | **0.31 (0.30 to 0.32)** |" in table
  assert runs.figures == [([""], tmp_path / "w/sweep")]


def test_what_is_complete_is_not_run_again(sweep, runs, tmp_path, capsys):
  assert sweep("--arms=rl", *_SETS) == 0
  runs.argvs.clear()
  capsys.readouterr()
  assert sweep("--arms=rl", *_SETS) == 0
  assert runs.argvs == []
  assert "2 are complete, 0 to run" in capsys.readouterr().out
  # One value more, written otherwise: only that is run, on the same data.
  more = ("--set", "config.arms.{arm}.learning_rate=0.0001,3.0e-4,5e-4")
  assert sweep("--arms=rl", *more) == 0
  [argv] = runs.argvs
  assert _flag(argv, "workdir").endswith("/points/rl,learning_rate=0.0005")
  assert len(_table(tmp_path)) == 3


def test_a_seed_more_is_added_to_the_same_points(sweep, runs, tmp_path):
  assert sweep("--arms=rl", *_SETS) == 0
  runs.argvs.clear()
  assert sweep("--arms=rl", *_SETS, "--seeds=100,101,102") == 0
  assert len(runs.argvs) == 3
  assert all(len(r["seeds"]) == 3 for r in _table(tmp_path))


def test_a_failed_point_stops_no_other_and_is_tried_again(
  sweep, runs, tmp_path, capsys
):
  runs.fail = lambda argv: (
    "it diverged" if "0.0001" in _flag(argv, "workdir") else ""
  )
  assert sweep("--arms=rl", *_SETS) == 1
  said = capsys.readouterr().out
  assert "[1/2] rl,learning_rate=0.0001: failed: it diverged (" in said
  best, failed = _table(tmp_path)
  assert (best["error"], best["is_best"]) == ("", True)
  assert failed["error"].startswith("it diverged")
  runs.fail = lambda argv: ""
  runs.argvs.clear()
  assert sweep("--arms=rl", *_SETS) == 0
  assert len(runs.argvs) == 1


def test_data_that_fail_are_the_failure_of_their_points_alone(
  sweep, runs, tmp_path
):
  runs.fail = lambda argv: (
    "no problem" if "--config.problems.size=4" in argv else ""
  )
  assert sweep("--arms=rl", "--set", "config.problems.size=3,4") == 1
  records = _table(tmp_path)
  assert [r["error"].partition(" (")[0] for r in records] == ["", "no problem"]


def test_stages_are_shared_as_far_as_their_inputs_agree(sweep, runs):
  assert sweep("--arms=rl", "--set", "config.collect.budget=64,128") == 0
  data = [i for i, s in enumerate(_stages(runs)) if "cut" not in s]
  assert len(data) == 2
  assert runs.copied[data[1]] == [
    "data/seed_100/screen",
    "data/seed_101/screen",
  ]


@pytest.mark.usefixtures("runs")
def test_a_sweep_over_problems_says_where_the_method_pays(
  sweep, tmp_path, capsys
):
  flags = ("--arms=rl+prefixrl", "--set", "config.problems.size=3,4")
  rates = ("rl.learning_rate=5e-4", "prefixrl.learning_rate=2e-4")
  assert sweep(*flags, *(f"--config.arms.{rate}" for rate in rates)) == 0
  text = (tmp_path / "w/sweep.md").read_text()
  assert text.rstrip() in capsys.readouterr().out
  # Seeds 100 and 101: .5 and .52 of RL, .2 and .22 of PrefixRL.
  row = (
    "| 500 | 6 | 0.51 (2 of 2) | 0.21 (0 of 2) | 0.4 (0.4 to 0.4)"
    " | 0.0 (0.0 to 0.0) |"
  )
  assert f"| 3 {row}\n| 4 {row}\n" in text
  found = json.loads((tmp_path / "w/sweep.json").read_text())["regimes"]
  assert [f["settings"] for f in found] == [
    {"problems.size": "3"},
    {"problems.size": "4"},
  ]
  assert {p.name for p in (tmp_path / "w").glob("regimes.*")} == {
    "regimes.png",
    "regimes.svg",
  }
  # One regime has nothing to be compared with.
  assert sweep("--arms=rl+prefixrl") == 0
  assert "attempts" not in (tmp_path / "w/sweep.md").read_text()


def test_what_only_later_stages_read_shares_all_data(sweep, runs):
  assert sweep("--arms=prefixrl", "--set", "config.prefixes.low=0.2,0.3") == 0
  assert sum("cut" not in s for s in _stages(runs)) == 1


def test_other_settings_in_the_same_workdir_are_refused_by_point(
  sweep, runs, tmp_path, capsys
):
  assert sweep("--arms=rl", *_SETS) == 0
  runs.argvs.clear()
  assert sweep("--arms=rl", *_SETS, "--config.learner.discount=0.5") == 1
  assert runs.argvs == []
  said = capsys.readouterr().out
  assert "rl,learning_rate=0.0001 cannot be run:" in said
  assert "learner.discount: 1.0 in the workdir, 0.5 in the config" in said
  assert "learner.discount" in _table(tmp_path)[0]["error"]


def test_keys_are_those_of_what_the_data_are_made_from():
  def keys(*flags):
    config, _ = command_line.config_of(
      ["--config=configs/demo.py:tiny=true", *flags]
    )
    return dict(running.data_keys(config))

  first = keys()
  assert list(first) == ["pretrain", "screen", "collect"]
  for same in (
    "--config.arms.rl.learning_rate=0.5",
    "--config.train.flops=5",
    "--config.seeds=(7,)",
    "--config.screen.rows=3",
    "--config.prefixes.low=0.1",
  ):
    assert keys(same) == first
  for other, agree in (
    ("--config.collect.budget=9", 2),
    ("--config.screen.num_samples=9", 1),
    ("--config.rewards.function=r.py:f", 0),
    ("--config.model.base=other", 0),
  ):
    now = keys(other)
    assert [now[s] == first[s] for s in first] == [i < agree for i in range(3)]
  shared = keys("--config.fresh_data_per_seed=False")
  assert (
    keys("--config.fresh_data_per_seed=False", "--config.seeds=(0,1)") == shared
  )
  assert (
    keys("--config.fresh_data_per_seed=False", "--config.seeds=(1,)") != shared
  )
  traced = keys("--config.traces.file=rules:checksum")
  assert list(traced) == ["pretrain", "import", "screen"]


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--arms=nope"], "nope: there is no arm 'nope'"),
    (["--set", "config.nope=1"], "the config has no 'nope' there"),
    (["--set", "config.arms.{arm}.learning_rate=x"], "learning_rate"),
    (["--set", "config.arms.{arm}.learning_rate=-1"], "learning_rate = -1.0"),
    (
      ["--set", "config.arms.{arm}.learning_rate=1e-4,0.0001"],
      "rl,learning_rate=0.0001 is there twice",
    ),
    (["--seeds=1,1"], "--seeds=1,1 is not a list of different"),
    (["--seeds=x"], "--seeds=x is not a list"),
    (["--jobs=0"], "--jobs=0 is not a whole number from 1"),
    (["--job=2"], "what is '--job=2'?"),
    (["more"], "what is 'more'?"),
    (["--workdir=gs://bucket/w"], "a sweep's is a local folder"),
    (["--workdir=/dev/null/w"], "/dev/null is a file, not a folder"),
  ],
)
def test_what_is_wrong_is_said_before_anything_is_run(
  sweep, runs, tmp_path, argv, message
):
  with pytest.raises(UserError) as e:
    sweep("--arms=rl", *argv)
  assert message in str(e.value)
  assert "\n" not in str(e.value)
  assert runs.argvs == []
  assert not (tmp_path / "w").exists()


def test_the_command_says_it_in_a_line(monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["sweep", "--config=nope.py"])
  with pytest.raises(SystemExit) as e:
    command.main()
  assert e.value.code == 1
  assert capsys.readouterr().err.startswith(
    "error: --config: there is no file nope.py"
  )


def test_copies_are_whole_and_replace_nothing(tmp_path):
  one, other = tmp_path / "one", tmp_path / "other"
  for folder, name in (
    ("data/seed_0/screen", "manifest.json"),
    ("data/seed_0/collect", "inputs.json"),
  ):
    (one / folder).mkdir(parents=True)
    (one / folder / name).write_text("one")
  (one / "data/seed_0/screen/parts").mkdir()
  running.adopt(one, other)
  found = sorted(
    str(p.relative_to(other)) for p in other.rglob("*") if p.is_file()
  )
  assert found == ["data/seed_0/screen/manifest.json"]
  (one / "data/seed_0/screen/manifest.json").write_text("changed")
  running.adopt(one, other)
  assert (other / found[0]).read_text() == "one"
