"""What setup.cfg asks pip for, and what it ships."""

import ast
import configparser
import importlib.metadata
import pathlib
import pkgutil
import re
import sys

from prefixrl_jax import __version__, main

_ROOT = pathlib.Path(__file__).parents[1]


def _settings():
  settings = configparser.ConfigParser()
  settings.read(_ROOT / "setup.cfg")
  return settings


def test_every_extra_is_spelt_as_its_package_spells_it():
  """Others are left out with a warning by older versions of pip."""
  settings = _settings()
  asked = [settings["options"]["install_requires"]]
  asked += settings["options.extras_require"].values()
  extras = re.findall(r"^([\w-]+)\[([\w-]+)\]", "\n".join(asked), re.MULTILINE)
  assert ("etils", "epath") in extras
  for package, extra in extras:
    try:
      metadata = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
      continue
    assert extra in (metadata.get_all("Provides-Extra") or []), package


def test_math_verify_has_the_parser_it_was_made_with():
  (required,) = re.findall(
    r"antlr4-python3-runtime>=([\d.]+),",
    _settings()["options"]["install_requires"],
  )
  extra = f"antlr{required.replace('.', '-')}"
  known = importlib.metadata.metadata("math-verify").get_all("Provides-Extra")
  assert extra in known
  assert importlib.metadata.version("antlr4-python3-runtime") == required


def test_files_that_are_no_code_are_shipped():
  folder = _ROOT / "prefixrl_jax"
  patterns = _settings()["options.package_data"]["prefixrl_jax"].split()
  shipped = {p for pattern in patterns for p in folder.glob(pattern)}
  there = {
    p
    for p in folder.rglob("*")
    if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts
  }
  assert folder / "evals/rollout_viewer/reader.js" in there
  assert shipped == there


def test_all_code_is_shipped():
  """A folder is a package, and found, if it has an __init__."""
  include = _settings()["options.packages.find"]["include"].split()
  assert include == ["prefixrl_jax", "prefixrl_jax.*"]
  folders = {p.parent for p in (_ROOT / "prefixrl_jax").rglob("*.py")}
  assert _ROOT / "prefixrl_jax" / "configs" in folders
  assert [f for f in folders if not (f / "__init__.py").exists()] == []


def test_the_console_script_is_main():
  script = _settings()["options.entry_points"]["console_scripts"]
  name, _, place = script.strip().partition(" = ")
  assert name == "prefixrl-jax"
  assert pkgutil.resolve_name(place) is main.main


def test_the_version_is_stated_once():
  """In the package; what has changed since is under its number."""
  assert _settings()["metadata"]["version"] == "attr: prefixrl_jax.__version__"
  changes = (_ROOT / "CHANGELOG.md").read_text()
  assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == __version__


def _imported(file):
  """Yields (module that a file imports, whether at once); types' are not."""
  tree = ast.parse(file.read_text())
  inside = lambda outer: {id(n) for each in outer for n in ast.walk(each)}
  functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
  lazily = inside(n for n in ast.walk(tree) if isinstance(n, functions))
  never = inside(
    n
    for n in ast.walk(tree)
    if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
  )
  for node in ast.walk(tree):
    if id(node) in never:
      continue
    names = []
    match node:
      case ast.Import():
        names = [alias.name for alias in node.names]
      case ast.ImportFrom(level=0):
        names = [str(node.module)]
      case ast.Call(
        func=ast.Attribute(attr="import_module"),
        args=[ast.Constant(value=str(name)), *_],
      ):
        names = [name]
    for name in names:
      yield name, id(node) not in lazily


def _undeclared(files, settings):
  """Modules that files import from packages that pip is not asked for."""
  requirements = lambda text: {
    _canonical(name) for name in re.findall(r"^([\w-]+)", text, re.MULTILINE)
  }
  always = requirements(settings["options"]["install_requires"])
  extras = settings["options.extras_require"]
  # Those that a message asks for where they are missing.
  optional = {
    name
    for extra in ("gym", "notebooks", "wandb")
    for name in requirements(extras[extra])
  }
  packages = importlib.metadata.packages_distributions()
  for file in files:
    for name, is_needed in _imported(file):
      top = name.partition(".")[0]
      if top in sys.stdlib_module_names or top == "prefixrl_jax":
        continue
      # What is not installed has its package's own name.
      owners = {_canonical(p) for p in packages.get(top, [top])}
      if not owners & (always if is_needed else always | optional):
        yield f"{file.name}: {name}"


def _canonical(name):
  return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_of_a_package_that_pip_is_asked_for():
  """So the wheel runs where nothing but its requirements is installed."""
  files = sorted((_ROOT / "prefixrl_jax").rglob("*.py"))
  assert list(_undeclared(files, _settings())) == []


def test_an_import_that_is_not_declared_is_found(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(
    "import json, wandb, numpy.linalg, pytest\n"
    "from google.protobuf import message\n"
    "def later():\n"
    "  import wandb, torch\n"
    "  importlib.import_module('trl.trainer')\n"
    "if TYPE_CHECKING:\n"
    "  import jaxtyping\n"
  )
  assert list(_undeclared([file], _settings())) == [
    "mine.py: wandb",  # an extra, so not at the top
    "mine.py: pytest",
    "mine.py: torch",
    "mine.py: trl.trainer",
  ]
