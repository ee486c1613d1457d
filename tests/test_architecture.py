"""Who may import whom, and how long it takes."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_DEVICE_PACKAGES = ("jax", "jaxlib", "jaxtyping", "flax", "optax", "orbax")
# The house: a room is a folder, or a module that stands alone. A module may
# import what is on the floors below and in its own room, and nothing else.
_FLOORS = (
  ("rounding", "types"),
  ("user_code",),
  ("batches", "distributed", "text"),
  ("embedded", "storage"),
  ("checkpoints", "models", "prefixes", "rewards"),
  ("learner", "ledger", "problems", "rollouts"),
  ("settings", "traces"),
  ("configs", "run"),
  ("evals",),
  ("train",),
  ("parallel", "stages"),
  ("command_line", "pipeline", "startup"),
  ("api", "main", "sweep"),
  ("worker",),
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
  "user_code",
)
_TEXT_ELSEWHERE = (
  "distributed.chips",
  "distributed.cluster",
  "distributed.collectives",
  "distributed.hub",
  "distributed.huge_pages",
  "distributed.mesh_shape",
  "distributed.places",
  "distributed.processor",
  "distributed.supervisor",
  "distributed.wire",
  "distributed.xla_flags",
  "evals.comparisons",
  "evals.curves",
  "evals.drawing",
  "evals.evaluations",
  "evals.figures",
  "evals.inline_figures",
  "evals.intervals",
  "evals.kinds",
  "evals.markers",
  "evals.model_card",
  "evals.names",
  "evals.page",
  "evals.page_files",
  "evals.rollout_pages",
  "evals.samples",
  "evals.summary",
  "evals.takeoff",
  "evals.training",
  "evals.training_figures",
  "evals.verdicts",
  "learner.advantages",
  "models.folders",
  "models.hub",
  "models.weights",
  "parallel.jobs",
  "parallel.view",
  "parallel.workers",
  "rollouts.grid",
  "rollouts.requests",
  "run.evaluations",
  "run.inputs",
  "run.provenance",
  "stages.compile_table",
  "stages.show_problems",
  "sweep.points",
  "sweep.regimes",
  "sweep.table",
  "traces.foreign",
  "traces.imports",
  "traces.rules",
)


_PACKAGE = "prefixrl_jax"


def _read_sources():
  """Module name -> source text; packages are modules that end in __init__."""
  return {
    ".".join(file.relative_to(_ROOT).with_suffix("").parts): file.read_text()
    for file in sorted((_ROOT / _PACKAGE).rglob("*.py"))
  }


def _read_imports(sources):
  """Module name -> names of what it imports, at any depth of nesting."""
  modules = {}
  for name, text in sources.items():
    parts = name.split(".")
    imported = set()
    for node in ast.walk(ast.parse(text)):
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
    modules[name.removesuffix(".__init__")] = imported
  return modules


_SOURCES = _read_sources()


def _room(module):
  """The folder or lone module that a module of the package is in."""
  return module.removeprefix(f"{_PACKAGE}.").split(".")[0]


def _reached(modules, module):
  """What a module imports, and what that imports, with the way to each."""
  ways = {module: (module,)}
  waiting = [module]
  while waiting:
    importer = waiting.pop()
    for imported in modules.get(importer, ()):
      if imported not in ways:
        ways[imported] = (*ways[importer], imported)
        waiting.append(imported)
  return ways


def _is_text_side(module):
  return any(
    f"{module}.".startswith(f"{_PACKAGE}.{parent}.")
    for parent in (*_TEXT_ROOMS, *_TEXT_ELSEWHERE)
  )


def _is_device_package(imported):
  return imported.split(".")[0] in _DEVICE_PACKAGES


# -- The rules: what violates each, {source name: text} -> lines ---------------


def _rooms_without_a_floor(sources):
  rooms = {_room(m) for m in _read_imports(sources)} - {_PACKAGE}
  floors = [room for rooms in _FLOORS for room in rooms]
  return [
    *(f"{room}: on no floor" for room in rooms - {*floors}),
    *(f"{room}: no such room" for room in {*floors} - rooms),
    *(f"{r}: on two floors" for r in {*floors} if floors.count(r) > 1),
  ]


def _imports_from_above(sources):
  """A room imports from itself and from floors below, from no others."""
  floors = {room: i for i, rooms in enumerate(_FLOORS) for room in rooms}
  modules = _read_imports(sources)
  return [
    f"{module} > {imported}"
    for module in modules.keys() - {_PACKAGE}
    for imported in modules[module] & (modules.keys() - {_PACKAGE})
    if _room(imported) != _room(module)
    and floors[_room(imported)] >= floors[_room(module)]
  ]


def _ways_from_text_to_jax(sources):
  modules = _read_imports(sources)
  return [
    " > ".join(way)
    for module in filter(_is_text_side, modules)
    for imported, way in _reached(modules, module).items()
    if _is_device_package(imported)
  ]


def _unlisted_text_modules(sources):
  """A module that loses its JAX joins the text side, and stays there."""
  modules = _read_imports(sources)
  folders = {name.removesuffix(".__init__") for name in sources} - {*sources}
  return [
    module
    for module in modules.keys() - folders
    if not _is_text_side(module)
    and not any(map(_is_device_package, _reached(modules, module)))
  ]


def _circles(sources):
  modules = _read_imports(sources)
  return [
    " > ".join((module, *ways[module]))
    for module in modules
    for imported in (modules[module] & modules.keys()) - {module}
    if module in (ways := _reached(modules, imported))
  ]


def _errors_not_in_docstrings(sources):
  """Each public function that raises something says what."""
  return [
    name
    for module, text in sources.items()
    for name, function in _public_functions(module, ast.parse(text))
    if any(map(_raises, function.body))
    and not re.search(r"^Raises[ :]", ast.get_docstring(function) or "", re.M)
  ]


def _public_functions(name, scope):
  """Yields (dotted name, function) of a module's or class's functions."""
  for node in scope.body:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
      continue
    if node.name.startswith("_") and node.name != "__init__":
      continue
    if isinstance(node, ast.ClassDef):
      yield from _public_functions(f"{name}.{node.name}", node)
    else:
      yield f"{name}.{node.name}", node


def _raises(node):
  """Whether a statement raises; not what is defined there, nor a re-raise."""
  if isinstance(node, ast.Raise):
    return node.exc is not None
  if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
    return False
  return any(map(_raises, ast.iter_child_nodes(node)))


# Each with a violation: a module, a line that is added to it, what is found.
_RULES = {
  _rooms_without_a_floor: (
    "prefixrl_jax.attic.chest",
    "",
    "attic: on no floor",
  ),
  _imports_from_above: (
    "prefixrl_jax.storage.files",
    "from prefixrl_jax.run import parts",
    "prefixrl_jax.storage.files > prefixrl_jax.run.parts",
  ),
  _ways_from_text_to_jax: (
    "prefixrl_jax.types",
    "def later():\n  import jax.numpy",
    "prefixrl_jax.text.tokenizer > prefixrl_jax.types > jax.numpy",
  ),
  _unlisted_text_modules: (
    "prefixrl_jax.run.new",
    "import numpy",
    "prefixrl_jax.run.new",
  ),
  _circles: (
    "prefixrl_jax.storage.files",
    "from prefixrl_jax.storage import artifacts",
    "prefixrl_jax.storage.files > prefixrl_jax.storage.artifacts"
    " > prefixrl_jax.storage.files",
  ),
  _errors_not_in_docstrings: (
    "prefixrl_jax.rounding",
    "class Public:\n  def method(self):\n    if 1:\n      raise ValueError",
    "prefixrl_jax.rounding.Public.method",
  ),
}


@pytest.mark.parametrize("rule", _RULES)
def test_the_package_keeps_each_rule(rule):
  assert rule(_SOURCES) == []


@pytest.mark.parametrize("rule", _RULES)
def test_each_rule_notices_a_violation(rule):
  module, line, found = _RULES[rule]
  broken = _SOURCES | {module: f"{_SOURCES.get(module, '')}\n{line}\n"}
  assert found in rule(broken)


@pytest.mark.parametrize(
  ("imported", "seen"),
  [
    ("from prefixrl_jax import train", "prefixrl_jax.train"),
    ("from .. import train", "prefixrl_jax.train"),
    ("from ..train import f", "prefixrl_jax.train"),
    ("from . import files", "prefixrl_jax.storage.files"),
    ("import prefixrl_jax.train as t", "prefixrl_jax.train"),
    ('PLACE = "prefixrl_jax.train:f"', "prefixrl_jax.train"),
    ("if 1:\n  def f():\n    import jax.numpy", "jax.numpy"),
  ],
)
def test_every_form_of_import_is_seen(imported, seen):
  [(_, names)] = _read_imports({"prefixrl_jax.storage.x": imported}).items()
  assert seen in names


@pytest.mark.parametrize(
  ("source", "found"),
  [
    ("def f():\n  raise ValueError", ["m.f"]),
    ('def f():\n  "Does.\\n\\nRaises:\\n  ValueError: x."\n  raise x', []),
    ('def f():\n  "Raises ValueError if so."\n  raise ValueError', []),
    ("def _f():\n  raise ValueError", []),
    ("def f():\n  def g():\n    raise ValueError", []),
    ("def f():\n  try: pass\n  except OSError: raise", []),
    ("class C:\n  def __init__(self):\n    raise x", ["m.C.__init__"]),
    ("class _C:\n  def f(self):\n    raise x", []),
  ],
)
def test_whose_errors_belong_in_a_docstring(source, found):
  assert _errors_not_in_docstrings({"m": source}) == found


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
    ("-m", "prefixrl_jax.main", "--config=configs/math.py", "--check"),
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
  assert not imported & {"jax", "flax", "optax", "orbax", "sympy"}
  if "--check" not in command:  # which meets what reads problems
    assert "pyarrow" not in imported
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
