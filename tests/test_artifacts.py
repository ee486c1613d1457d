"""Artifacts: whole or absent, and never of other settings."""

import pytest
from etils import epath

from prefixrl_jax import artifacts
from prefixrl_jax.artifacts import Artifact
from prefixrl_jax.types import UserError


@pytest.fixture
def folder(tmp_path):
  return epath.Path(tmp_path) / "stage"


def test_begins_and_finishes(folder):
  artifact = Artifact(folder, {"a": {"b": 1}})
  artifact.check()
  assert not folder.exists()
  artifact.begin()
  assert not artifact.complete
  artifact.finish({"count": 3})
  again = Artifact(folder, {"a": {"b": 1}})
  again.check()
  assert again.complete
  assert again.summary == {"count": 3}


@pytest.mark.parametrize("finished", [False, True])
def test_names_every_field_that_changed(folder, finished):
  artifact = Artifact(folder, {"a": {"b": 1, "c": [1, 2]}, "d": 0})
  artifact.begin()
  if finished:
    artifact.finish({})
  with pytest.raises(UserError) as e:
    Artifact(folder, {"a": {"b": 2, "c": [1, 2]}, "e": 5}).check()
  text = str(e.value)
  assert "a.b: 1 in the workdir, 2 in the config" in text
  assert "d: 0 in the workdir, '(absent)' in the config" in text
  assert "e: '(absent)' in the workdir, 5 in the config" in text
  assert "a.c" not in text
  assert "--fresh" in text


def test_a_failed_write_leaves_the_old_file(folder):
  path = folder / "x.json"
  artifacts.write_json(path, {"old": 1})
  with pytest.raises(ValueError, match="not JSON compliant"):
    artifacts.write_json(path, {"new": float("nan")})
  assert artifacts.read_json(path) == {"old": 1}
  assert [p.name for p in folder.iterdir()] == ["x.json"]


def test_names_a_broken_file(folder):
  artifacts.write_text(folder / "x.json", "{")
  with pytest.raises(UserError, match=r"x\.json is not JSON"):
    artifacts.read_json(folder / "x.json")
