"""Pages and settings for contributors name what is there."""

import importlib.util
import pathlib
import re

import pytest
import yaml

_ROOT = pathlib.Path(__file__).parents[1]
_HOOKS = _ROOT / ".pre-commit-config.yaml"
_WORKFLOWS = sorted((_ROOT / ".github/workflows").glob("*.yml"))
_FORMS = [
  _ROOT / f".github/ISSUE_TEMPLATE/{n}.yml" for n in ("addition", "bug")
]


def _read(file):
  return yaml.safe_load(file.read_text())


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_files_that_are_named_are_there(page):
  text = (_ROOT / page).read_text()
  named = re.findall(r"`([\w.]+/[\w./]*)`", text)
  assert [
    n for n in named if "NAME" not in n and not (_ROOT / n).exists()
  ] == []


def test_a_commit_is_checked_as_in_ci():
  [repo] = _read(_HOOKS)["repos"]
  commands = (_ROOT / ".ci/run").read_text().splitlines()
  checked = [hook["entry"] for hook in repo["hooks"]]
  assert len(checked) == 3
  for entry in checked:
    assert any(command.startswith(entry) for command in commands), entry
  # The environment's own, so that there is one version of each.
  assert {hook["language"] for hook in repo["hooks"]} == {"system"}


def test_workflows_run_what_is_there():
  ran = [
    step["run"]
    for file in _WORKFLOWS
    for job in _read(file)["jobs"].values()
    for step in job["steps"]
    if "run" in step
  ]
  assert ".ci/run" in ran
  assert (_ROOT / ".ci/run").stat().st_mode & 0o111
  modules = re.findall(r"python -m ([\w.]+)", "\n".join(ran))
  assert "benchmarks.device_check" in modules
  assert all(map(importlib.util.find_spec, modules))
  # What somebody types in is no part of a command.
  assert not any("${{" in command for command in ran)


@pytest.mark.parametrize("form", _FORMS, ids=lambda f: f.stem)
def test_issue_forms_ask_questions(form):
  read = _read(form)
  assert {"name", "description", "body"} <= read.keys()
  asked = [part for part in read["body"] if part["type"] != "markdown"]
  assert {part["type"] for part in asked} == {"textarea"}
  assert len({part["id"] for part in asked}) == len(asked) >= 3
  assert all(part["attributes"]["label"] for part in asked)


def test_the_paper_that_is_cited_is_the_readme_s():
  read = _read(_ROOT / "CITATION.cff")
  assert {"cff-version", "message", "title", "authors"} <= read.keys()
  [paper] = read["references"]
  assert paper["url"] in (_ROOT / "README.md").read_text()
  assert "version" not in read  # it stands in the package alone
