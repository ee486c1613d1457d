"""Artifacts: complete, in progress or absent, and never of something else."""

import importlib.metadata
import json
import pathlib
import re

import pytest
from etils import epath

from prefixrl_jax import __version__
from prefixrl_jax.storage import files
from prefixrl_jax.storage.artifacts import Artifact
from prefixrl_jax.types import UserError


@pytest.fixture
def folder(tmp_path):
  return epath.Path(tmp_path) / "stage"


def _artifact(folder, depends=None, **settings):
  settings.setdefault("name", "screen/seed_0")
  settings.setdefault("entries", ("x.json", "parts/"))
  return Artifact(folder, {} if depends is None else depends, **settings)


def _finish(artifact, value=1):
  artifact.begin()
  files.write_json(artifact.directory / "x.json", value)
  artifact.finish({"count": 3}, ["x.json"])


def test_begins_and_finishes(folder):
  artifact = _artifact(folder, {"a.b": 1})
  artifact.check()
  assert not folder.exists()
  artifact.begin()
  assert not artifact.complete
  assert artifact.digest is None
  files.write_json(folder / "x.json", [7])
  artifact.finish({"count": 3}, ["x.json"])
  again = _artifact(folder, {"a.b": 1})
  again.check()
  assert again.complete
  assert again.summary == {"count": 3}
  assert again.file("x.json").read_json() == [7]
  manifest = files.read_json(folder / "manifest.json")
  assert manifest["count"] == 3
  assert manifest["depends"] == {"a.b": 1}


def test_a_checkout_that_is_not_installed_has_a_version(folder, monkeypatch):
  real = importlib.metadata.version

  def version(name):
    if name == "prefixrl_jax":
      raise importlib.metadata.PackageNotFoundError(name)
    return real(name)

  monkeypatch.setattr(importlib.metadata, "version", version)
  _finish(_artifact(folder))
  versions = files.read_json(folder / "manifest.json")["versions"]
  assert versions == {"jax": real("jax"), "prefixrl_jax": __version__}


@pytest.mark.parametrize("finished", [False, True])
def test_names_every_field_that_changed(folder, finished):
  artifact = _artifact(folder, {"a.b": 1, "a.c": [1, 2], "d": 0})
  artifact.begin()
  if finished:
    artifact.finish({}, [])
  with pytest.raises(UserError) as e:
    _artifact(folder, {"a.b": 2, "a.c": [1, 2], "e": 5}).check()
  text = str(e.value)
  assert "a.b: 1 in the workdir, 2 in the config" in text
  assert "d: 0 in the workdir, '(absent)' in the config" in text
  assert "e: '(absent)' in the workdir, 5 in the config" in text
  assert "a.c" not in text
  assert "--redo=screen/seed_0" in text


def test_what_it_was_made_from_is_compared_by_digest(folder):
  made = lambda digest: _artifact(
    folder, made_from=lambda: {"base": digest, "later": None}
  )
  with pytest.raises(ValueError, match="before later"):
    made("a1").begin()
  _finish(_artifact(folder, made_from=lambda: {"base": "a1"}))
  made("a1").check()
  with pytest.raises(
    UserError, match=r"made_from\.base: 'a1' in the workdir, 'b2' now"
  ):
    made("b2").check()
  _artifact(folder, made_from=lambda: {"base": None}).check()  # not there yet


def test_what_follows_is_made_again(folder):
  made = lambda digest: _artifact(
    folder, made_from=lambda: {"train": digest}, follows=True
  )
  _finish(made("a1"), "old")
  (folder / "parts").mkdir()
  assert made("a1").complete
  other = made("b2")
  other.check()
  assert not other.complete
  other.begin()
  assert sorted(p.name for p in folder.iterdir()) == ["inputs.json"]


def test_its_digest_is_of_contents_and_inputs(folder, tmp_path):
  def digest(name, value, depends):
    artifact = _artifact(epath.Path(tmp_path / name), depends)
    _finish(artifact, value)
    return artifact.digest

  assert digest("a", 1, {"d": 1}) == digest("b", 1, {"d": 1})
  assert digest("c", 2, {"d": 1}) != digest("a", 1, {"d": 1})
  assert digest("e", 1, {"d": 2}) != digest("a", 1, {"d": 1})


def test_a_limit_can_be_raised_and_not_lowered(folder):
  has_gone_on = False
  made = lambda flops, steps: _artifact(
    folder,
    limits={"train.flops": flops, "train.max_steps": steps},
    has_continued=lambda summary: has_gone_on,
  )
  _finish(made(1e3, 10))
  assert made(1e3, 10).complete
  for further in (made(2e3, 10), made(1e3, 11), made(1e3, 0)):
    further.check()
    assert not further.complete
  for less in (made(1e2, 10), made(1e3, 9), made(2e3, 9)):
    with pytest.raises(UserError, match=r"in the config\nIt has gone as far"):
      less.check()
  made(2e3, 0).begin()  # and goes on there
  assert (folder / "x.json").exists()
  assert not made(2e3, 0).complete
  assert made(1e3, 10).complete  # nothing was made since: it is taken back
  made(1e3, 10).check()
  has_gone_on = True
  with pytest.raises(UserError, match=r"train\.flops: 2000\.0 in the workdir"):
    made(1e3, 10).check()
  assert not made(1e3, 10).complete
  made(2e3, 0).begin()
  assert not (folder / "manifest.json").exists()
  with pytest.raises(UserError, match=r"train\.max_steps: 0 in the workdir"):
    made(2e3, 10).check()


@pytest.mark.parametrize("name", ["x.json", "parts/", "manifest.json"])
def test_what_is_of_another_kind_is_named_before_anything_is_made(folder, name):
  artifact = _artifact(folder, entries=("x.json", "parts/"))
  folder.mkdir(parents=True)
  if name.endswith("/"):
    (folder / name.rstrip("/")).write_text("no folder")
  else:
    (folder / name).mkdir()
  with pytest.raises(UserError, match=f"{name.rstrip('/')} is a f.*Move it"):
    artifact.check()


def test_a_file_where_the_folder_is_to_be_is_named(folder):
  folder.write_text("a file")
  for there in (folder, folder / "within", folder / "far" / "within"):
    with pytest.raises(UserError, match=f"{folder} is a file; a folder"):
      _artifact(there).check()


def test_what_changes_no_result_is_recorded(folder):
  _artifact(folder, execution={"rows": 16}).begin()
  _artifact(folder, execution={"rows": 16}).begin()
  artifact = _artifact(folder, execution={"rows": 8})
  artifact.begin()
  artifact.finish({}, [])
  manifest = json.loads((folder / "manifest.json").read_text())
  assert manifest["execution"] == [{"rows": 16}, {"rows": 8}]


def test_no_single_bit_flip_in_a_record_passes(folder):
  """A record that differs by one bit is refused, or says the same."""
  _finish(_artifact(folder, {"a": 1.5, "b": "text"}))

  def read():
    artifact = _artifact(folder, {"a": 1.5, "b": "text"})
    try:
      artifact.check()
      return artifact.complete, artifact.digest, artifact.summary
    except UserError as e:
      return str(e)

  whole = read()
  assert whole[0]
  for name in ("manifest.json", "inputs.json"):
    path = pathlib.Path(folder / name)
    refused = re.compile(rf".*{name} .*--redo=screen/seed_0 re-makes it\.")
    data = path.read_bytes()
    for i in range(0, 8 * len(data), 7):  # every bit, of some bytes
      flipped = bytearray(data)
      flipped[i // 8] ^= 1 << i % 8
      path.write_bytes(flipped)
      found = read()
      assert found == whole or refused.fullmatch(found)
    path.write_bytes(data)


def test_a_manifest_of_before_digests_is_refused(folder):
  folder.mkdir()
  old = {"depends": {}, "summary": {}, "versions": {}, "finished": "2026"}
  (folder / "manifest.json").write_text(json.dumps(old))
  with pytest.raises(UserError, match="older version of the program") as e:
    _artifact(folder).check()
  assert "manifest.json has no digest" in str(e.value)
  assert "--redo=screen/seed_0 re-makes it" in str(e.value)
  anew = _artifact(folder, to_redo={"screen/seed_0"})
  anew.check()
  anew.remove()
  assert not list(folder.iterdir())


def test_only_its_own_is_removed(folder):
  _finish(_artifact(folder))
  (folder / "parts").mkdir()
  (folder / "parts/000000.json").write_text("{}")
  (folder / "thesis.tex").write_text("years")
  _artifact(folder).remove()
  assert [p.name for p in folder.iterdir()] == ["thesis.tex"]


def test_files_without_a_record_are_not_gone_on_with(folder):
  """What they were made from cannot be told; they are not removed either."""
  _finish(_artifact(folder))
  (folder / "manifest.json").unlink()
  (folder / "inputs.json").unlink()
  with pytest.raises(UserError, match=r"has x\.json, but no inputs\.json"):
    _artifact(folder).begin()
  assert (folder / "x.json").exists()


def test_a_file_that_is_gone_is_named(folder):
  _finish(_artifact(folder))
  (folder / "x.json").unlink()
  with pytest.raises(UserError, match=r"x\.json is not there\. --redo=screen/"):
    _artifact(folder).file("x.json").read_json()


def test_what_does_not_follow_stays_complete_and_is_refused(folder):
  sources = {"screen/seed_0": "1"}
  made_from = lambda: dict(sources)
  _finish(_artifact(folder, made_from=made_from))
  sources["screen/seed_0"] = "2"
  there = _artifact(folder, made_from=made_from)
  assert there.complete
  with pytest.raises(UserError, match="from something else"):
    there.check()
  follows = _artifact(folder, made_from=made_from, follows=True)
  assert not follows.complete
  follows.check()
