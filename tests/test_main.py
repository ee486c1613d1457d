"""What a person can type: one line each, before anything is computed."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import pytest
from absl import app

from prefixrl_jax import command_line, main
from prefixrl_jax.configs import math
from prefixrl_jax.settings import fields

_ROOT = pathlib.Path(__file__).parents[1]
_DEMO = "--config=configs/demo.py"
# Starts the command anew for each line of arguments, without importing again.
_EACH = """
import json, os, sys, tempfile
import etils.epath, prefixrl_jax.main, prefixrl_jax.storage.artifacts

results = []
for argv in json.load(sys.stdin):
  files = [tempfile.TemporaryFile() for _ in range(2)]
  child = os.fork()
  if not child:
    for number, file in enumerate(files, 1):
      os.dup2(file.fileno(), number)
    sys.argv = ["main.py", *argv]
    prefixrl_jax.main.main()
  code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  for file in files:
    file.seek(0)
  results.append([code, *(f.read().decode(errors="replace") for f in files)])
json.dump(results, sys.stdout)
"""


def _environment(**changed):
  kept = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
  # Else the process would start itself a second time (huge_pages.py).
  return kept | {"PYTHONPATH": str(_ROOT), "GLIBC_TUNABLES": "", **changed}


def _run_each(*lines, cwd=_ROOT, **environment):
  """Returns (exit code, stdout, stderr) for each line of arguments."""
  done = subprocess.run(
    [sys.executable, "-c", _EACH],
    input=json.dumps([list(line) for line in lines]),
    capture_output=True,
    text=True,
    check=True,
    cwd=cwd,
    timeout=120,
    env=_environment(**environment),
  )
  return json.loads(done.stdout)


def _write(folder, **files):
  for name, text in files.items():
    (folder / f"{name}.py").write_text(text)


def test_a_config_s_file_that_is_none_is_named_with_its_line(tmp_path):
  _write(
    tmp_path,
    syntax="def get_config(:\n",
    empty="",
    none="def get_config(arg=''):\n  pass\n",
    number="get_config = 3\n",
    raises="x = 1\ndef get_config(arg=''):\n  return {}['key']\n",
    multiline="def get_config(arg=''):\n  raise ValueError('one\\ntwo')\n",
    imports="import no_such_module\n",
    leaves="import sys\nsys.exit(0)\n",
    noarg="def get_config():\n  return 1\n",
  )
  (tmp_path / "binary.py").write_bytes(b"\x00\xff" * 50)
  (tmp_path / "folder.py").mkdir()
  (tmp_path / "README.md").write_text("# Read me\n")
  os.mkfifo(tmp_path / "fifo.py")
  expected = {
    "syntax.py": "syntax.py:1: invalid syntax",
    "empty.py": "has no function get_config",
    "none.py": "returns a NoneType, not an ml_collections.ConfigDict",
    "number.py": "has no function get_config",
    "raises.py": "raises.py:3: KeyError: 'key'",
    "multiline.py": "multiline.py:2: ValueError: one two",
    "imports.py": "imports.py:1: ModuleNotFoundError: No module named",
    "leaves.py": "leaves.py:2: SystemExit: 0",
    "noarg.py:seeds=1": "takes 0 positional arguments but 1 was given",
    "binary.py": "binary.py",
    "folder.py": "folder.py is a folder",
    "README.md": "README.md is not a Python file",
    "fifo.py": "fifo.py is no file",
    "": "--config has no file",
    "nowhere.py": "there is no file nowhere.py; the package has configs/demo",
    "a\u00e4\udcff.py": "there is no file",
  }
  lines = [[f"--config={name}"] for name in expected]
  results = _run_each(*lines, cwd=tmp_path)
  for message, (code, out, err) in zip(expected.values(), results):
    assert code == 1
    assert not out
    assert err.startswith("error: --config")
    assert message in err
    assert err.count("\n") == 1


_WRONG = [
  ((), "--config is missing"),
  (("--config",), "--config has no file"),
  ((_DEMO, _DEMO), "--config is given twice"),
  ((f"{_DEMO}:arms=nonsense",), "there is no arm 'nonsense'"),
  ((f"{_DEMO}:arms=",), "arms= is not a name"),
  ((f"{_DEMO}:seeds=0",), "seeds=0 is not a whole number from 1 to 10000"),
  ((f"{_DEMO}:seeds=-1",), "seeds=-1 is not a whole number"),
  ((f"{_DEMO}:seeds=99999999999999999999",), "is not a whole number"),
  ((f"{_DEMO}:seeds=1.5",), "seeds='1.5' is not of type int"),
  ((f"{_DEMO}:=3",), "there is no argument ''; known: arms, seeds, tiny"),
  ((f"{_DEMO}:\N{SNOWMAN}",), "there is no argument"),
  (("--config=configs/math.py:model=gpt",), "there is no model 'gpt'"),
  (("--config=configs/math.py:task=checksum",), "config of another kind"),
  ((_DEMO, "--config.train.flopz=1"), "flopz"),
  ((_DEMO, "--config.train.flops=abc"), "could not convert string"),
  ((_DEMO, "--config.train.max_steps=1.5"), "max_steps=1.5"),
  ((_DEMO, "--config.train=3"), "--config.train=3"),
  ((_DEMO, "--config.arms.rl=1"), "--config.arms.rl=1"),
  ((_DEMO, "--config.=1"), "--config.: names no field"),
  (
    ("--config=configs/math.py", "--config.problems.task=nonsense"),
    "'nonsense' is none of jsonl, tfds, checksum",
  ),
  ((_DEMO, "--config.train.flops"), "--config.train.flops"),
  ((_DEMO, "--config.seeds=0.5"), "config.seeds = (0.5,) is not a list"),
  ((_DEMO, "--config.seeds=0,0"), "config.seeds = (0, 0) is not a list"),
  ((_DEMO, "--config.profile.steps=0,3"), "steps = (0, 3) is not a list"),
  ((_DEMO, "--config.profile.steps=x"), "config.profile.steps = ('x',) is not"),
  ((_DEMO, "--config.pretrain.phases=3"), "config.pretrain.phases.0 = 3"),
  ((_DEMO, "--config.evals.num_samples=0"), "config.evals.num_samples = 0"),
  ((_DEMO, "--config.train.flops=nan"), "config.train.flops = nan"),
  (("--config.train.flops=1", _DEMO), "--config"),
  ((_DEMO, "--nonsense=1"), "nonsense"),
  ((_DEMO, "--config.traces.file=a\udcff", "--stage="), "no stage ''"),
  ((_DEMO, "train"), "'train' is not a flag"),
  ((_DEMO, "\N{SNOWMAN}\udcff"), "is not a flag"),
  ((_DEMO, "--fresh=perhaps"), "--fresh"),
  ((_DEMO, "--flagfile=nowhere"), "nowhere"),
  ((_DEMO, "--stage="), "there is no stage ''"),
  ((_DEMO, "--stage=train,"), "there is no stage ''"),
  ((_DEMO, "--stage=trian,all"), "there is no stage 'trian'"),
  ((_DEMO, "--stage=all, import"), "--stage=import needs --traces=FILE"),
  ((_DEMO, "--stage=all,export"), "is of no Hugging Face family"),
  (
    (_DEMO, "--stage=collect", "--traces=t.jsonl"),
    "traces are imported from t.jsonl",
  ),
  ((_DEMO, "--config.problems.num_train=0"), "needs training problems"),
  (
    (_DEMO, "--config.train.prompts_per_step=1"),
    "prefixed_share = 0.75 of config.train.prompts_per_step = 1 is rounded",
  ),
  ((_DEMO, "--workdir=README.md"), "README.md is a file, not a folder"),
  ((_DEMO, "--workdir=README.md/a/b"), "README.md is a file, not a folder"),
  ((_DEMO, "--workdir=/proc/1/a"), "--workdir=/proc/1/a"),
]


@pytest.fixture(scope="module")
def wrong():
  return _run_each(*(flags for flags, _ in _WRONG))


@pytest.mark.parametrize("i", range(len(_WRONG)), ids=lambda i: str(_WRONG[i]))
def test_a_wrong_command_is_answered_with_one_line(wrong, i):
  code, out, err = wrong[i]
  assert code == 1
  assert not out
  assert err.startswith("error: ")
  assert _WRONG[i][1] in err
  assert err.count("\n") == 1


def test_a_config_is_found_from_any_folder(tmp_path):
  """With the package alone, as pip installs it."""
  site = tmp_path / "site"
  site.mkdir()
  (site / "prefixrl_jax").symlink_to(_ROOT / "prefixrl_jax")
  copied = (_ROOT / "configs/math.py").read_text()
  (tmp_path / "mine.py").write_text(copied.replace("return c", "return 1"))
  files = (_ROOT / "configs/demo.py", "configs/demo.py", "demo", "mine.py")
  results = _run_each(
    *([f"--config={file}:seeds=2", "--stage=x"] for file in files),
    cwd=tmp_path,
    PYTHONPATH=str(site),
  )
  package = [f"{site}/prefixrl_jax/configs/demo.py"] * 2
  for name, own, (_, _, err) in zip(files[1:3], package, results[1:3]):
    assert f"note: there is no file {name} here; taking the pac" in err
    assert own in err
  for _, _, err in results[:3]:
    assert err.splitlines()[-1].startswith("error: there is no stage 'x'")
  assert "get_config of mine.py returns a int" in results[3][2]


def test_a_checked_command_leaves_no_trace(tmp_path):
  config = f"--config={_ROOT}/configs/demo.py"
  right, wrong, noted = _run_each(
    [config, "--check"],
    [config, "--check", "--config.train.flops=-1"],
    [config, "--check", "--config.problems.num_heldout=0"],
    cwd=tmp_path,
  )
  assert right == [0, "", ""]
  assert wrong[0] == 1
  assert "config.train.flops" in wrong[2]
  assert (noted[0], noted[2][:6]) == (0, "note: ")
  assert not [*tmp_path.iterdir()]


def test_help_names_every_field_and_the_argument():
  (code, text, err), other = _run_each(
    ["--config=configs/math.py:task=gsm8k", "--help"], ["-h"], COLUMNS="100"
  )
  assert (code, err) == (0, "")
  for flag in ("--workdir", "--stage", "--traces", "--fresh", "--config"):
    assert flag in text
  said = " ".join(text.split())
  for path, field in fields.leaves(fields.tree_of("gsm8k")):
    # Some arm's: which options a loss or a schedule has depends on its name.
    pattern = re.escape(path).replace("NAME", r"\w+")
    assert re.search(rf" {pattern}=", said), path
    assert field.help in said
  assert "  problems.task=gsm8k " in text
  assert "  train.prompts_per_step=128 " in text
  assert "  trial=False " in text
  assert "how many runs, from seed 0 (a whole number from 1 to 10000)" in said
  assert max(map(len, text.splitlines())) <= 100
  assert "  problems.size=7 " in other[1]  # of the demo


def test_no_stack_trace_is_printed_but_kept(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(main.huge_pages, "ensure", lambda: None)
  monkeypatch.setattr(main.startup, "open_standard_streams", lambda: None)
  monkeypatch.setattr(main.tempfile, "tempdir", str(tmp_path))

  def run(error, *flags):
    def fail(*_, **__):
      raise error

    monkeypatch.setattr(app, "run", fail)
    monkeypatch.setattr(sys, "argv", ["main.py", *flags])
    with pytest.raises(SystemExit) as e:
      main.main()
    return e.value.code, capsys.readouterr().err

  # Before there is a workdir.
  code, err = run(KeyError("nobody\nforesaw this"))
  assert code == 1
  (file,) = tmp_path.glob("prefixrl_jax_*.log")
  assert err == (
    f"error: KeyError: 'nobody\\nforesaw this' (stack trace: {file})\n"
  )
  assert "in fail" in file.read_text()

  monkeypatch.setattr(main, "_workdir", lambda: str(tmp_path))
  code, err = run(OSError(28, "No space left on device", "a/b"), "--fresh")
  assert err == (
    "error: the disk is full; make room and re-run the same command to resume."
    f" No space left on device: a/b (stack trace: {tmp_path}/error.log)\n"
  )
  code, err = run(RuntimeError("RESOURCE_EXHAUSTED: too much"))
  assert "out of memory; lower rows and lanes" in err
  log = (tmp_path / "error.log").read_text()
  assert "main.py --fresh" in log
  assert log.count("Traceback") == 2
  # As Orbax says it, behind long names.
  full = f"RESOURCE_EXHAUSTED: {'x' * 900}: No space left on device [28]"
  code, err = run(ValueError(full))
  assert err.startswith(
    "error: the disk is full; make room and re-run the same"
  )
  assert "out of memory" not in err

  def is_full(trace):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(main, "_keep", is_full)
  code, err = run(KeyError("x"))
  assert err == "error: KeyError: 'x' (--debug prints the stack trace)\n"
  monkeypatch.setattr(sys, "argv", ["main.py", "--debug"])
  with pytest.raises(KeyError):
    main.main()


@pytest.mark.parametrize("name", ["pipe", "full"])
def test_output_that_nobody_takes_is_no_error(name):
  if name == "pipe":  # whose reader is gone, as after `| head`
    reader, output = os.pipe()
    os.close(reader)
  else:
    output = os.open("/dev/full", os.O_WRONLY)
  done = subprocess.run(
    [sys.executable, "-m", "prefixrl_jax.main", "--help"],
    stdout=output,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
    cwd=_ROOT,
    env=_environment(),
  )
  os.close(output)
  assert done.returncode == (141 if name == "pipe" else 1)
  assert "Traceback" not in done.stderr
  assert "Exception ignored" not in done.stderr


def test_what_is_done_otherwise_than_the_config_says_is_said():
  from prefixrl_jax.settings.validation import notes

  config = math.get_config()
  assert list(notes(config)) == []
  config.problems.num_heldout = 0
  assert "there will be no accuracy on problems that are" in next(notes(config))
  config.problems.num_heldout = 8
  config.train.prompts_per_step = 6
  (note,) = notes(config)
  assert note == (
    "config.arms.prefixrl.prefixed_share = 0.75 of"
    " config.train.prompts_per_step = 6 is no whole number of problems; 4, a"
    " share of 0.667, are prefixed"
  )


@pytest.mark.parametrize(
  ("field", "said"),
  [
    ("nope=1", "--config.nope: the config has no 'nope' there; there are"),
    (
      "wandb_project=mine",
      "no 'wandb_project' there; it is --config.wandb.project now.",
    ),
    ("train.flop=1", "--config.train.flop: the config has no 'flop' there"),
    ("nope.x=1", "--config.nope.x: the config has no 'nope' there"),
    (
      "arms.r.learning_rate=1",
      "has no 'r' there; there are cispo, ",
    ),
    ("pretrain.phases[9].num_steps=1", "has no '9' there; there are 0, 1"),
    (
      "arms.rl.learner.whiten=True",
      "gives it to the arm (arms.rl.learner.whiten), --config.learner.whiten to"
      " all arms",
    ),
    ("=1", "--config.: names no field; --help lists them"),
    ("..=1", "--config...: names no field"),
  ],
)
def test_a_field_that_the_config_does_not_have_is_named(field, said):
  file = pathlib.Path(main.__file__).parent / "configs/demo.py"
  argv = ["main", f"--config={file}:tiny=true", f"--config.{field}"]
  text = command_line.missing_field(argv)
  assert said in text
  assert "\n" not in text
  assert not command_line.missing_field([*argv[:2], "--config.train.flops=x"])


def test_every_config_of_a_checkout_is_the_package_s_by_name():
  assert {p.stem for p in (_ROOT / "configs").glob("*.py")} == {
    *command_line.NAMES
  }


_ENDS_SLOWLY = """
import atexit, os, signal
from prefixrl_jax import main

def interrupted(argv, **_):
  raise KeyboardInterrupt

main._main = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(lambda: os.kill(os.getpid(), {number}))
main.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_it_without_a_stack_trace(number):
  done = subprocess.run(
    [sys.executable, "-c", _ENDS_SLOWLY.format(number=int(number))],
    capture_output=True,
    text=True,
    cwd=_ROOT,
    check=False,
  )
  assert done.returncode == -number
  assert done.stderr == "interrupted; re-run the same command to resume\n"


@pytest.mark.parametrize("has_removed", [True, False])
def test_says_what_of_the_command_not_to_repeat(monkeypatch, has_removed):
  work = types.SimpleNamespace(has_removed=has_removed)
  run = types.SimpleNamespace(work=work)
  monkeypatch.setattr(main, "_run", run)
  assert ("without --fresh and --redo" in main._hint()) == has_removed


@pytest.mark.parametrize(
  ("flag", "restarts"),
  [("--debug", True), ("--nohuge_pages", False), ("--huge_pages=false", False)],
)
def test_a_flag_keeps_the_process_from_restarting(monkeypatch, flag, restarts):
  restarted = []
  monkeypatch.setattr(sys, "argv", ["main.py", flag])
  monkeypatch.setattr(main.huge_pages, "ensure", lambda: restarted.append(1))
  # What comes next; nothing of it is wanted here.
  monkeypatch.setattr(main.startup, "open_standard_streams", lambda: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    main.main()
  assert bool(restarted) == restarts
