"""Who may import whom, and how long it takes."""

import ast
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_DEVICE_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax")
# What may need an accelerator, whole packages or single modules. All else is
# text and files: usable where there is none, and no jax.
_DEVICE_SIDE = (
  "batches",
  "checkpoints",
  "compilation",
  "distributed",
  "evals.curve",
  "evals.evaluate",
  "learner.learner",
  "learner.logprobs",
  "learner.losses",
  "learner.optimizer",
  "learner.packing",
  "learner.sft",
  "learner.update",
  "ledger",
  "main",
  "models",
  "parts",
  "pipeline",
  "pretrain",
  "rollout",
  "rollouts.decoding",
  "rollouts.programs",
  "rollouts.sampler",
  "runs",
  "session",
  "stages",
  "traces.collect",
  "train",
  "workspace",
)
# Each may import those before it, and none behind it; all else is below them.
_LAYERS = (
  "session",
  "rollout",
  "evals.evaluate",
  "evals.curve",
  "runs",
  "train",
  "workspace",
  "stages",
  "pipeline",
  "main",
)


def _modules():
  """Module name -> names of what it imports, at any depth of nesting."""
  modules = {}
  for file in sorted((_ROOT / "prefixrl_jax").rglob("*.py")):
    parts = file.relative_to(_ROOT).with_suffix("").parts
    name = ".".join(parts).removesuffix(".__init__")
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Import):
        imported.update(alias.name for alias in node.names)
      elif isinstance(node, ast.ImportFrom):
        package = parts[: len(parts) - node.level] if node.level else ()
        source = ".".join((*package, *filter(None, [node.module])))
        imported.add(source)
        imported.update(f"{source}.{alias.name}" for alias in node.names)
    modules[name] = imported
  return modules


_MODULES = _modules()


def _is_within(module, parents):
  return any(
    module == f"prefixrl_jax.{parent}"
    or module.startswith(f"prefixrl_jax.{parent}.")
    for parent in parents
  )


def _reached(module):
  """What a module imports, and what that imports, with the way to each."""
  ways = {module: (module,)}
  waiting = [module]
  while waiting:
    importer = waiting.pop()
    for imported in _MODULES.get(importer, ()):
      if imported not in ways:
        ways[imported] = (*ways[importer], imported)
        waiting.append(imported)
  return ways


@pytest.mark.parametrize("module", _MODULES)
def test_text_side_never_gets_to_jax(module):
  if _is_within(module, _DEVICE_SIDE):
    return
  for imported, way in _reached(module).items():
    assert imported.split(".")[0] not in _DEVICE_PACKAGES, " > ".join(way)


@pytest.mark.parametrize("part", _DEVICE_SIDE)
def test_device_side_is_there_and_needs_jax(part):
  modules = [m for m in _MODULES if _is_within(m, (part,))]
  assert modules, part
  assert any(
    imported.split(".")[0] in _DEVICE_PACKAGES
    for module in modules
    for imported in _reached(module)
  )


@pytest.mark.parametrize("module", _MODULES)
def test_nobody_imports_a_layer_above(module):
  ranks = [i for i, layer in enumerate(_LAYERS) if _is_within(module, (layer,))]
  above = _LAYERS[ranks[0] + 1 :] if ranks else _LAYERS
  for imported in _MODULES[module]:
    assert not _is_within(imported, above), imported


def test_nobody_imports_in_a_circle():
  for module in _MODULES:
    for imported in _MODULES[module] & _MODULES.keys():
      way = _reached(imported).get(module)
      assert way is None or imported == module, way


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


def test_problems_are_shown_without_jax(tmp_path):
  """It takes longer to import than problems to show, and 200 MB."""
  (tmp_path / "lock.json").write_text("of a process that is at work there")
  code = (
    "import runpy, sys\n"
    "sys.argv[1:] = ['--config=configs/demo.py:tiny=true', '--stage=problems',"
    f" {f'--workdir={tmp_path}'!r}]\n"
    "try: runpy.run_module('prefixrl_jax.main', run_name='__main__')\n"
    "except SystemExit as e: assert not e.code, e.code\n"
    "print(*(name for name in sys.modules if '.' not in name))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert "checksum/0/train/0, train" in done.stderr
  imported = set(done.stdout.split())
  assert "prefixrl_jax" in imported
  assert not imported & {*_DEVICE_PACKAGES, "matplotlib", "pandas"}
  assert [p.name for p in tmp_path.iterdir()] == ["lock.json"]
