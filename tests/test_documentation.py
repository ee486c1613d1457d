"""What people read: links, commands, quoted errors, and the site itself."""

import ast
import functools
import importlib.util
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags
from launched import NAMES as LAUNCHERS
from launched import prepared
from ml_collections import ConfigDict

from prefixrl_jax import command_line
from prefixrl_jax import main as program
from prefixrl_jax.embedded import tasks
from prefixrl_jax.settings import fields, validation
from prefixrl_jax.settings.validation import validate
from prefixrl_jax.stages import ON_DEMAND, STAGES
from prefixrl_jax.sweep import __main__ as sweep
from prefixrl_jax.types import UserError

_ROOT = pathlib.Path(__file__).parents[1]
_DOCS = _ROOT / "docs"
_PAGES = sorted([*_ROOT.glob("*.md"), *_DOCS.rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SHELL = re.compile(
  r"(?:[A-Z_]+=\S+ |taskset -c \d )*(python|pip|pytest|prefixrl-jax|mkdocs)\b"
)


def _name(page):
  return str(page.relative_to(_ROOT))


# -- links ---------------------------------------------------------------------


@functools.cache
def _anchors(page):
  """The anchors of a page's headings, as GitHub and the site make them."""
  text = _FENCE.sub("", page.read_text())
  headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
  if page.name == "configuration.md":  # made when the site is built
    headings += [f"config{name}" for name in fields.tree_of("")]
  return {
    re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
    for heading in headings
  }


def _broken(page, text):
  for link in _LINK.findall(_FENCE.sub("", text)):
    if re.match(r"https?://", link):
      continue
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
      yield f"{link}: no such file"
    elif anchor and anchor not in _anchors(target):
      yield f"{link}: no such heading"


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_links_lead_to_files_and_headings(page):
  assert list(_broken(page, page.read_text())) == []


def test_a_broken_link_is_found():
  page = _DOCS / "index.md"
  text = "[a](none.md) [b](method.md#none) [c](lora.md#how) [d](#this-site)"
  assert list(_broken(page, text)) == [
    "none.md: no such file",
    "method.md#none: no such heading",
  ]


def test_pages_that_the_code_names_are_there():
  code = "".join(
    file.read_text()
    for folder in ("prefixrl_jax", "benchmarks", "launch")
    for file in (_ROOT / folder).rglob("*.py")
  )
  named = set(re.findall(r"\bdocs/[\w/]+\.md\b", code))
  assert "docs/own_tasks.md" in named
  assert [name for name in sorted(named) if not (_ROOT / name).exists()] == []


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_files_that_a_page_names_are_there(page):
  named = re.findall(
    r"`((?:prefixrl_jax|tests|benchmarks|launch|configs)/[\w/]+\.\w+)",
    _FENCE.sub("", page.read_text()),
  )
  real = [name for name in named if not re.search(r"/[A-Z]+\.", name)]
  assert [name for name in real if not (_ROOT / name).exists()] == []


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_a_figure_of_runs_is_on_a_page_with_the_command_that_makes_it(page):
  """Drawings are SVG, figures of runs and benchmarks PNG."""
  text = page.read_text()
  if re.search(r"!\[[^]]+\]\([^)]+\.png\)", text):
    assert re.search(r"python -m (prefixrl_jax|benchmarks)\.", text)
  assert "![](" not in text  # what an image shows is said in words, too


# -- commands ------------------------------------------------------------------


def _commands(text):
  """The commands in the text of a page, each as its words."""
  for language, block in _FENCE.findall(text):
    if language not in ("", "bash", "sh") or not _SHELL.match(block):
      continue
    if "<<'" in block:  # a program follows
      block = block.partition("\n")[0].partition("<<'")[0]
    lines = block.replace("\\\n", " ").splitlines()
    for line in lines:
      for command in line.split("&&"):
        words = shlex.split(command, comments=True)
        while words and (
          re.match(r"[A-Z_]+=", words[0]) or words[0] == "taskset"
        ):
          del words[: 3 if words[0] == "taskset" else 1]
        words = [re.sub("=N$", "=1", w) for w in words if w not in ("...", "…")]
        if words and not words[0].startswith("-"):
          yield words


_COMMANDS = [
  pytest.param(words, id=f"{_name(page)}-{i}")
  for page in _PAGES
  for i, words in enumerate(_commands(page.read_text()))
]


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_shell_blocks_parse(page):
  blocks = [b for _, b in _FENCE.findall(page.read_text()) if _SHELL.match(b)]
  done = subprocess.run(
    ["bash", "-n"], input="\n".join(blocks), text=True, capture_output=True
  )
  assert done.stderr == ""


@pytest.mark.parametrize("words", _COMMANDS)
def test_commands_have_flags_that_exist(words, tmp_path, monkeypatch):
  """Nothing is run: flags are parsed, and set in the config that is named."""
  (tmp_path / "configs").symlink_to(_ROOT / "configs")
  _write_examples(tmp_path)
  monkeypatch.chdir(tmp_path)
  # A page says what to install.
  monkeypatch.setattr(validation, "_is_installed", lambda name: True)
  _check(words)


@pytest.mark.parametrize(
  ("command", "wrong"),
  [
    ("-m prefixrl_jax.main --config=configs/none.py", "there is no file"),
    ("-m prefixrl_jax.main --config=configs/demo.py:arm=rl", "no argument"),
    ("-m prefixrl_jax.main --config=configs/demo.py:arms=none", "no arm"),
    ("-m prefixrl_jax.main --config=configs/demo.py --work=x", "--work"),
    ("-m prefixrl_jax.main --config=configs/demo.py --stage=x", "stage x"),
    (
      "-m prefixrl_jax.main --config=configs/demo.py --config.train.flop=1",
      "has no 'flop'",
    ),
    ("-m prefixrl_jax.mian", "no module"),
    ("-m benchmarks.sampler --pear=trl", "--pear"),
    ("tests/none.py", "tests/none.py"),
  ],
)
def test_a_wrong_command_is_found(command, wrong):
  with pytest.raises((AssertionError, UserError), match=wrong):
    _check(["python", *command.split()])


def _write_examples(folder):
  """Writes the files that pages show in full; the first line is the name."""
  for page in (_DOCS / "own_tasks.md", _DOCS / "own_arm.md"):
    for language, block in _FENCE.findall(page.read_text()):
      name = re.match(r"# (\w+\.py)\n", block)
      if language == "python" and name:
        (folder / name[1]).write_text(block)


def _check(words):
  """Raises if a command names what does not exist."""
  match words:
    case ["python", "-m", module, *argv]:
      assert importlib.util.find_spec(module), f"no module {module}"
      _check_module(module, argv)
    case ["python", "-"]:
      pass
    case ["python" | "pytest", *argv]:
      for file in argv:
        if file.startswith("tests/"):
          assert (_ROOT / file).exists(), file
    case ["prefixrl-jax", *argv]:
      _check_run(argv)
    case ["pip", "install", *argv]:
      setup = (_ROOT / "setup.cfg").read_text()
      for extra in re.findall(r"(?:\.|prefixrl_jax)\[(\w+)\]", " ".join(argv)):
        assert f"\n{extra} =\n" in setup, extra
    case ["mkdocs", action]:
      assert action == "build"
    case ["git" | "cd" | "hf" | "jupytext" | "pre-commit", *_]:
      pass
    case _:
      pytest.fail(f"no test knows how to check {shlex.join(words)}")


def _check_module(module, argv):
  package, _, name = module.partition(".")
  if module == "prefixrl_jax.main":
    _check_run(argv)
  elif module == "prefixrl_jax.sweep":
    own, fixed = sweep._arguments([a for a in argv if a])
    if not own.config.startswith("FILE"):
      command_line.config_of([f"--config={own.config}", *fixed])
  elif package == "launch":
    assert name in LAUNCHERS
    assert prepared(name, argv)[1]
  else:  # their modules need more than the tests have
    folder = _ROOT / package
    source = "".join(file.read_text() for file in folder.rglob("*.py"))
    for flag in re.findall(r"^--(\w+)", "\n".join(argv), re.MULTILINE):
      assert re.search(rf"""["'](--)?{flag}["']""", source), f"--{flag}"


def _check_run(argv):
  of_config = [a for a in argv if re.match(r"--config[.=]", a)]
  config, _ = command_line.config_of(of_config)
  own = {f.name for f in flags.FLAGS.get_key_flags_for_module(program.__name__)}
  stages = []
  for arg in argv:
    if arg in of_config:
      continue
    flag, _, value = arg.removeprefix("--").partition("=")
    assert arg.startswith("--"), arg
    assert flag in own, f"--{flag}"
    if flag == "stage":
      stages = value.split(",")
    if flag == "traces":
      config.traces.file = value
  for stage in stages:
    assert stage in (*STAGES, *ON_DEMAND), f"no stage {stage}"
  _validate(config, stages)


def _validate(config: ConfigDict, stages):
  """Checks the config as main does, but for files that readers bring."""
  for name in re.findall(r"^\w+", config.problems.function):
    assert pathlib.Path(f"{name}.py").exists()
  validate(config, stages)


# -- quoted errors -------------------------------------------------------------


@functools.cache
def _texts():
  """Every text in the package's code, with … where a value goes."""
  texts = []
  for file in (_ROOT / "prefixrl_jax").rglob("*.py"):
    nodes = list(ast.walk(ast.parse(file.read_text())))
    docstrings = {id(n.value) for n in nodes if isinstance(n, ast.Expr)}
    for node in nodes:
      if isinstance(node, ast.JoinedStr):
        parts = (
          part.value if isinstance(part, ast.Constant) else "…"
          for part in node.values
        )
        texts.append("".join(map(str, parts)))
      elif isinstance(node, ast.Constant) and id(node) not in docstrings:
        texts.append(str(node.value))
  return texts


_ENTRIES = re.findall(
  r"^```text\n(.*?)\n```$(.*?)(?=^```|^## |\Z)",
  (_DOCS / "troubleshooting.md").read_text(),
  re.MULTILINE | re.DOTALL,
)


def test_troubleshooting_has_what_people_meet():
  assert len(_ENTRIES) >= 20


@pytest.mark.parametrize(
  ("quoted", "advice"), _ENTRIES, ids=[q.strip()[:40] for q, _ in _ENTRIES]
)
def test_quoted_errors_are_in_the_code(quoted, advice):
  assert any(quoted in text for text in _texts())
  assert re.match(r"\s+\*\*Why\.\*\* .+\n\n\*\*What to do\.\*\* ", advice, re.S)


# -- the site ------------------------------------------------------------------


def test_the_site_builds_without_a_warning(tmp_path):
  pytest.importorskip("mkdocs", reason="mkdocs is not installed: .[docs]")
  pytest.importorskip("mkdocstrings", reason="likewise")
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "-d", tmp_path],
    cwd=_ROOT,
    env={"PATH": "", "PYTHONPATH": str(_ROOT), "NO_MKDOCS_2_WARNING": "1"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr  # mkdocs.yml: strict
  page = (tmp_path / "configuration/index.html").read_text()
  for task in ("", *tasks.TASKS):
    for path, _ in fields.leaves(fields.tree_of(task)):
      assert f"<code>{path}</code>" in page
  assert "--redo" in page
  api = (tmp_path / "api/index.html").read_text()
  assert "prefixrl_jax.types.Problem" in api
  results = (tmp_path / "results/index.html").read_text()
  assert "A checksum chain" in results  # of the README
