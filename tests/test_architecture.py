"""Who may import whom, and how long it takes."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_DEVICE_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax")
# The house: a room is a folder, or a module that stands alone. A module may
# import what is on the floors below and in its own room, and nothing else.
_FLOORS = (
  ("rounding", "types"),
  ("batches", "distributed", "text"),
  ("embedded", "storage"),
  ("checkpoints", "models", "prefixes", "rewards"),
  ("learner", "ledger", "problems", "rollouts"),
  ("settings", "traces"),
  ("configs", "run"),
  ("evals",),
  ("train",),
  ("stages",),
  ("command_line", "pipeline", "startup"),
  ("main",),
)
# Rooms of text and files, which are usable where there is no accelerator and no
# JAX; in the others these modules are.
_TEXT_ROOMS = (
  "command_line",
  "configs",
  "embedded",
  "prefixes",
  "problems",
  "rewards",
  "rounding",
  "settings",
  "startup",
  "storage",
  "text",
  "types",
)
_TEXT_ELSEWHERE = (
  "distributed.huge_pages",
  "distributed.processor",
  "evals.comparisons",
  "evals.curves",
  "evals.figures",
  "evals.intervals",
  "evals.page",
  "evals.summary",
  "learner.advantages",
  "models.folders",
  "models.weights",
  "rollouts.grid",
  "rollouts.requests",
  "run.inputs",
  "run.provenance",
  "stages.show_problems",
  "traces.foreign",
  "traces.imports",
  "traces.rules",
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
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        # Imported by its name, when it is needed: see rewards/verifiers.py.
        imported.update(re.findall(r"^(prefixrl_jax[.\w]+):\w+$", node.value))
    modules[name] = imported
  return modules


_PACKAGE = "prefixrl_jax"
_MODULES = _modules()


def _is_within(module, parents):
  return any(
    module == f"prefixrl_jax.{parent}"
    or module.startswith(f"prefixrl_jax.{parent}.")
    for parent in parents
  )


def _is_package(module):
  return (_ROOT / module.replace(".", "/")).is_dir()


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


def _room(module):
  """The folder or lone module that a module of the package is in."""
  return module.removeprefix("prefixrl_jax.").split(".")[0]


def _floor(module):
  [floor] = [i for i, rooms in enumerate(_FLOORS) if _room(module) in rooms]
  return floor


def test_every_room_has_its_floor():
  rooms = [room for rooms in _FLOORS for room in rooms]
  assert sorted(rooms) == sorted({_room(m) for m in _MODULES} - {_PACKAGE})


@pytest.mark.parametrize("module", sorted(_MODULES.keys() - {_PACKAGE}))
def test_nobody_asks_those_above(module):
  for imported in _MODULES[module] & (_MODULES.keys() - {_PACKAGE}):
    assert _room(imported) == _room(module) or (
      _floor(imported) < _floor(module)
    ), imported


@pytest.mark.parametrize(
  "module",
  [m for m in _MODULES if _is_within(m, (*_TEXT_ROOMS, *_TEXT_ELSEWHERE))],
)
def test_text_side_never_gets_to_jax(module):
  for imported, way in _reached(module).items():
    assert imported.split(".")[0] not in _DEVICE_PACKAGES, " > ".join(way)


def test_all_that_needs_no_jax_is_said_to():
  """A module that loses its JAX joins the text side, and stays there."""
  needs = {
    m
    for m in _MODULES
    if any(i.split(".")[0] in _DEVICE_PACKAGES for i in _reached(m))
  }
  text = {
    m for m in _MODULES if _is_within(m, (*_TEXT_ROOMS, *_TEXT_ELSEWHERE))
  }
  rest = _MODULES.keys() - needs - text - {_PACKAGE}
  assert {m for m in rest if not _is_package(m)} == set()


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
