"""Parts of a long stage: kept once made, whatever their size was."""

import pytest
from etils import epath

from prefixrl_jax.run.parts import in_parts
from prefixrl_jax.storage import files
from prefixrl_jax.storage.results import read_results, write_results
from prefixrl_jax.types import EvalResult, Problem

_PROBLEMS = [Problem(f"p{i}", "", "", "", "train", i) for i in range(7)]


@pytest.fixture
def work(tmp_path, model):
  """Returns (size, dies at) -> ids by the part they were made in, now; all."""

  def work(size, until=None):
    made, said = [], []

    def make(some, file, ledger):
      if until is not None and len(made) == until:
        raise KeyboardInterrupt
      made.append([p.id for p in some])
      write_results(file, [EvalResult(p.id, "train", 0.0, 4, 1) for p in some])
      ledger.add_entries({"screening": {"tokens": len(some)}})

    try:
      parts, cost = in_parts(
        epath.Path(tmp_path),
        _PROBLEMS,
        size=size,
        model=model,
        make=make,
        show=said.append,
      )
    except KeyboardInterrupt:
      return made, said
    results = [r.problem_id for part in parts for r in read_results(part)]
    assert sorted(results) == [p.id for p in _PROBLEMS]  # each of them once
    assert cost["screening"]["tokens"] == 7
    return made, said

  return work


def test_what_is_there_is_kept(work):
  assert work(3)[0] == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p6"]]
  assert work(3) == ([], [])


def test_the_size_may_change_meanwhile(work):
  assert work(2, until=2)[0] == [["p0", "p1"], ["p2", "p3"]]
  assert work(3)[0] == [["p4", "p5", "p6"]]
  assert work(1)[0] == []


@pytest.mark.parametrize("name", ["000002.parquet", "000002.json"])
def test_a_damaged_part_is_made_again_alone(work, tmp_path, name):
  work(2)
  data = bytearray((tmp_path / name).read_bytes())
  data[len(data) // 2] ^= 4
  (tmp_path / name).write_bytes(data)
  made, [said] = work(4)
  assert made == [["p2", "p3"]]
  assert name in said
  assert "re-made" in said
  assert work(2) == ([], [])


def test_damaged_parts_may_be_made_again_as_one(work, tmp_path):
  work(2)
  for name in ("000000.json", "000002.json"):
    (tmp_path / name).write_text("{")
  made, said = work(4)
  assert made == [["p0", "p1", "p2", "p3"]]
  assert len(said) == 2
  assert work(2) == ([], [])  # of the second of them nothing is left


def test_a_part_that_cannot_be_read_now_is_not_removed(
  work, tmp_path, monkeypatch
):
  work(2)
  look = lambda: {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
  before = look()

  def fail(_):
    raise OSError(5, "Input/output error")

  with monkeypatch.context() as m:
    m.setattr(type(epath.Path(tmp_path)), "read_bytes", fail)
    with pytest.raises(files.UserError, match="cannot be read"):
      work(2)
  assert look() == before  # nor made again
  assert work(2) == ([], [])
