"""What setup.cfg asks pip for, and what it ships."""

import configparser
import importlib.metadata
import pathlib
import pkgutil
import re

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
