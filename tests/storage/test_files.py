"""Files: whole or absent, and what was written or an error."""

import errno
import pathlib
import re

import pyarrow as pa
import pytest
from etils import epath

from prefixrl_jax.storage import files
from prefixrl_jax.storage.files import File
from prefixrl_jax.types import UserError


@pytest.fixture
def folder(tmp_path):
  return epath.Path(tmp_path) / "stage"


def _all(folder):
  return [p.name for p in pathlib.Path(folder).rglob("*")]


def _flips(path, every):
  """Puts single-bit flips of a file there, one after the other."""
  path = pathlib.Path(path)
  data = path.read_bytes()
  for i in range(0, 8 * len(data), every):  # an odd step meets every bit
    flipped = bytearray(data)
    flipped[i // 8] ^= 1 << i % 8
    path.write_bytes(flipped)
    yield


def test_a_failed_write_leaves_the_old_file(folder):
  path = folder / "x.json"
  files.write_json(path, {"old": 1})
  with pytest.raises(ValueError, match="not JSON compliant"):
    files.write_json(path, {"new": float("nan")})
  assert files.read_json(path) == {"old": 1}
  assert [p.name for p in folder.iterdir()] == ["x.json"]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(folder):
  path = folder / "x"
  files.write_text(path, "old")

  def chunks():
    yield b"new"
    raise OSError(errno.ENOSPC, "No space left on device")

  with pytest.raises(UserError, match=r"x cannot be written \(No space") as e:
    files.write_chunks(path, chunks())
  assert "\n" not in str(e.value)
  assert path.read_text() == "old"
  assert [p.name for p in folder.iterdir()] == ["x"]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(folder):
  path = folder / "model"
  with files.whole_folder(path) as temporary:
    (temporary / "a").write_text("1")

  def fill():
    with files.whole_folder(path) as temporary:
      (temporary / "b").write_text("2")
      raise OSError(errno.ENOSPC, "No space left on device")

  with pytest.raises(UserError, match=r"model cannot be written \(No space"):
    fill()
  assert _all(folder) == ["model", "a"]
  with files.whole_folder(path) as temporary:
    (temporary / "c").write_text("3")
  assert _all(folder) == ["model", "c"]


def test_a_folder_comes_back_if_its_successor_gets_no_name(folder):
  (folder / "model").mkdir(parents=True)
  (folder / "model/a").write_text("1")

  def lose():
    with files.whole_folder(folder / "model") as temporary:
      temporary.rmtree()

  with pytest.raises(UserError, match="model cannot be written"):
    lose()
  assert _all(folder) == ["model", "a"]


def test_a_folder_that_was_put_aside_comes_back(folder):
  """Killed between putting the old folder aside and naming the new one."""
  (folder / ".model.old.tmp").mkdir(parents=True)
  (folder / ".model.old.tmp/a").write_text("1")
  (folder / ".model.tmp").mkdir()
  with (
    pytest.raises(UserError, match="No"),
    files.whole_folder(folder / "model"),
  ):
    raise UserError("No")
  assert _all(folder) == ["model", "a"]


def test_what_killed_processes_left_is_removed(folder):
  files.write_text(folder / "x", "x")
  (folder / ".x.123.tmp").write_text("ha")
  (folder / ".model.tmp").mkdir()
  files.remove_temporaries(folder, folder / "none")
  assert [p.name for p in folder.iterdir()] == ["x"]


def test_names_a_broken_file(folder):
  files.write_text(folder / "x.json", "{")
  with pytest.raises(UserError, match=r"x\.json is damaged: it is not JSON"):
    files.read_json(folder / "x.json")


def test_brackets_without_end_are_one_line(folder):
  files.write_text(folder / "x.json", "[" * 100_000)
  with pytest.raises(UserError, match=r"x\.json is damaged"):
    files.read_json(folder / "x.json")


def test_no_single_bit_flip_passes_a_seal(folder):
  """All of them: the flipped object is refused, or means the same."""
  path = folder / "x.json"
  value = {"a": [1, 2.5e-7, None, "ü"], "b": {"c": True, "A": "m"}}
  files.write_sealed(path, value)

  def read():
    try:
      return files.read_sealed(path, "--redo=x re-makes it.")
    except UserError as e:
      return str(e)

  refused = re.compile(r".*x\.json .*--redo=x re-makes it\.")
  for _ in _flips(path, 1):
    read_back = read()
    assert read_back == value or refused.fullmatch(read_back)


def test_no_single_bit_flip_in_parquet_passes(folder):
  """Parquet's own checks let one in seventeen through to other rows."""
  path = folder / "x.parquet"
  schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
  rows = [{"a": 7 * i, "b": "x" * i} for i in range(5)]
  files.write_parquet(path, pa.Table.from_pylist(rows, schema=schema))
  file = File(path, files.digest(path), "--redo=x re-makes it.")
  assert file.read_table(schema) == rows
  for _ in _flips(path, 5):
    with pytest.raises(UserError, match=r"x\.parquet is damaged: .*--redo=x"):
      file.read_table(schema)


def test_what_cannot_be_read_now_is_not_called_damaged(folder, monkeypatch):
  path = folder / "x.json"
  files.write_json(path, 1)

  def fail(_):
    raise OSError(errno.EIO, "Input/output error")

  monkeypatch.setattr(type(path), "read_bytes", fail)
  with pytest.raises(UserError, match=r"cannot be read \(Input/output") as e:
    File(path, remedy="--redo=x re-makes it.").read_json()
  assert "--redo" not in str(e.value)
