"""Who may import whom, and how long it takes."""

import ast
import pathlib
import subprocess
import sys

import pytest

_PACKAGE = pathlib.Path(__file__).parents[1] / "prefixrl_jax"
# Text and files alone: usable where no accelerator and no jax is.
_TEXT_SIDE = (
  "types.py",
  "thoughts.py",
  "tokenizer.py",
  "chat_template.py",
  "artifacts.py",
  "fields.py",
  "config.py",
  "rewards",
  "traces/foreign.py",
  "traces/importing.py",
  "problems",
  "evals/statistics.py",
  "evals/comparisons.py",
  "evals/curves.py",
  "evals/summary.py",
  "evals/figures.py",
  "evals/report.py",
  "evals/results.py",
  "prefixes",
)
_TOP = ("prefixrl_jax.main", "prefixrl_jax.pipeline", "prefixrl_jax.train")


def _imports(path):
  """Modules that a file imports, at any depth of nesting."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield node.module
      yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("part", _TEXT_SIDE)
def test_text_side_does_not_import_jax(part):
  path = _PACKAGE / part
  files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
  assert files
  for file in files:
    for module in _imports(file):
      assert module.split(".")[0] not in ("jax", "flax", "optax"), file


def test_nobody_imports_what_is_on_top():
  above = {"prefixrl_jax.train": ("train.py", "evaluate.py", "workspace.py")}
  above["prefixrl_jax.pipeline"] = ("main.py",)
  for file in _PACKAGE.rglob("*.py"):
    for module in _imports(file):
      if module in _TOP:
        assert file.name in above.get(module, ()), (file, module)


def test_verifier_workers_do_not_import_jax():
  code = (
    "import sys, prefixrl_jax.rewards.math; assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
  "command",
  [
    ("-c", "import prefixrl_jax"),
    ("-m", "prefixrl_jax.main", "--helpfull"),
  ],
)
def test_starts_without_jax(command):
  """Importing jax alone takes longer than a user waits for --help."""
  done = subprocess.run(
    [sys.executable, "-X", "importtime", *command],
    capture_output=True,
    text=True,
    check=False,
  )
  imported = {
    line.rpartition("|")[2].strip() for line in done.stderr.splitlines()
  }
  assert "prefixrl_jax" in imported
  assert not imported & {"jax", "flax", "optax", "orbax", "pyarrow", "sympy"}
  if "--helpfull" in command:
    assert "--workdir" in done.stdout
    assert "--config" in done.stdout
