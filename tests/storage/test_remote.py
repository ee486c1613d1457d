"""A workdir in a bucket: objects, nothing appended to, nothing half there."""

import json
import os
import re
import sys
import types

import bucket
import numpy as np
import pytest
import tiny_run
from etils import epath

from prefixrl_jax import startup
from prefixrl_jax.checkpoints import Checkpointer, saved_steps
from prefixrl_jax.configs import demo
from prefixrl_jax.parallel import phases
from prefixrl_jax.pipeline import Pipeline
from prefixrl_jax.stages import STAGES
from prefixrl_jax.storage import files, remote, rows
from prefixrl_jax.storage.locking import locked
from prefixrl_jax.storage.metrics import MetricWriter, read_jsonl
from prefixrl_jax.types import UserError

pytestmark = pytest.mark.usefixtures("one_device_alone")

_WORKDIR = epath.Path("gs://bucket/runs/demo")


@pytest.fixture
def served(monkeypatch):
  with bucket.served(monkeypatch) as made:
    yield made


@pytest.fixture
def objects(served):
  """What is in the bucket, {name: bytes} when it is called."""
  return lambda: {name: data for name, (data, _) in served.objects.items()}


@pytest.fixture
def put(served):
  """Puts an object in the bucket."""
  return served.put


def test_files_are_objects_with_their_contents_and_nothing_else(objects):
  files.write_sealed(_WORKDIR / "a/inputs.json", {"x": 1})
  files.write_chunks(
    _WORKDIR / "weights", (b"ab", np.arange(2, dtype=np.uint8))
  )
  assert files.read_sealed(_WORKDIR / "a/inputs.json", "") == {"x": 1}
  assert objects()["bucket/runs/demo/weights"] == b"ab\0\1"
  assert len(objects()) == 2
  files.remove(_WORKDIR / "a", _WORKDIR / "never")
  assert list(objects()) == ["bucket/runs/demo/weights"]


def test_a_star_in_a_folder_stands_for_objects_of_all(put):
  for seed in (0, 1):
    put(f"bucket/data/seed_{seed}/traces.parquet", b"x")
    put(f"bucket/data/seed_{seed}/others.parquet", b"x")
  found = rows.find_files("gs://bucket/data/seed_*/traces.parquet", "f")
  assert [*map(os.fspath, found)] == [
    f"gs://bucket/data/seed_{seed}/traces.parquet" for seed in (0, 1)
  ]


def test_what_raises_half_way_leaves_what_was_there(objects):
  path = _WORKDIR / "weights"
  files.write_bytes(path, b"old")

  def chunks():
    yield b"new"
    raise ValueError("no more")

  with pytest.raises(ValueError, match="no more"):
    files.write_chunks(path, chunks())
  assert objects() == {"bucket/runs/demo/weights": b"old"}


def test_a_folder_is_replaced_by_what_was_made_in_its_stead(objects):
  folder = _WORKDIR / "report"

  def fill(*names, fails=False):
    with files.whole_folder(folder) as made:
      for name in names:
        files.write_text(made / name, name)
      if fails:
        raise ValueError("half")

  fill("a", "sub/b")
  fill("sub/b", "c")
  with pytest.raises(ValueError, match="half"):
    fill("d", fails=True)
  names = {n.removeprefix("bucket/runs/demo/report/") for n in objects()}
  assert names == {"sub/b", "c"}


def test_one_run_at_a_time(objects):
  with locked(_WORKDIR, print):
    (name,) = objects()
    assert name == "bucket/runs/demo/lock.json"
    with (
      pytest.raises(UserError, match=r"working in gs://bucket/runs/demo since"),
      locked(_WORKDIR, print),
    ):
      pass
  assert not objects()


def test_rows_are_there_when_they_must_be(objects):
  """Before a checkpoint, at the end; those after it are dropped."""
  path = _WORKDIR / "metrics.jsonl"
  with MetricWriter(_WORKDIR, resume_step=0) as writer:
    writer.write(1, {"x": 1.0})
    assert not path.exists()
    writer.flush()
    assert read_jsonl(path) == [{"step": 1, "x": 1.0}]
    writer.write(2, {"x": 2.0})
  with MetricWriter(_WORKDIR, resume_step=1) as writer:
    assert writer.last_row == {"step": 1, "x": 1.0}
    writer.write(2, {"x": 3.0})
  assert [row["x"] for row in read_jsonl(path)] == [1.0, 3.0]
  assert any("/tensorboard/events." in name for name in objects())


def test_a_bucket_that_is_not_ours_is_one_line(served):
  served.is_forbidden = True
  why = r"cannot be %s \(Caller does not have storage\.objects\.list access\)"
  startup.check_workdir(_WORKDIR)  # asks nobody yet
  with pytest.raises(UserError, match=r"^--workdir=gs://\S+ " + why % "read"):
    remote.reach(_WORKDIR)
  with (
    pytest.raises(UserError, match=r"^--workdir=gs://\S+ " + why % "written"),
    locked(_WORKDIR, print),
  ):
    pass
  with pytest.raises(UserError, match=r"/a cannot be written"):
    files.write_text(_WORKDIR / "a", "")


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  with pytest.raises(
    UserError, match=re.escape("pip install 'prefixrl_jax[gcs]'")
  ):
    startup.check_workdir(_WORKDIR)


@pytest.mark.parametrize(
  "address", ["s3://bucket/a", "memory://a", "gs://", "gs:/bucket/a"]
)
def test_other_addresses_are_refused(address):
  with pytest.raises(UserError, match=r"gs://BUCKET/FOLDER"):
    startup.check_workdir(address)


def test_no_processes_side_by_side_work_in_a_bucket():
  work = types.SimpleNamespace(workdir=_WORKDIR)
  assert "need a local workdir" in phases._why_not(work)


def test_a_checkpoint_that_cannot_be_read_is_moved_aside(objects, put):
  folder = _WORKDIR / "checkpoints"
  state = lambda step: {"x": np.arange(4.0, dtype=np.float32) * step}
  with Checkpointer(folder, keep=2) as checkpointer:
    for step in (1, 2, 3):
      checkpointer.save(step, state(step), {"step": step})
  assert saved_steps(folder) == [2, 3]
  put("bucket/runs/demo/checkpoints/3/state/_METADATA", b"other")
  damaged = _within(objects(), "checkpoints/3/")
  with Checkpointer(folder, keep=2) as checkpointer:
    found = checkpointer.restore_latest(lambda _: state(0))
    assert found[::2] == (2, {"step": 2})
    np.testing.assert_array_equal(found[1]["x"], state(2)["x"])
    checkpointer.save(3, state(3), {"step": 3})
  assert _within(objects(), "checkpoints.unreadable/3/") == damaged
  with Checkpointer(folder, keep=2) as checkpointer:
    assert checkpointer.restore_latest(lambda _: state(0))[0] == 3


def _within(objects, folder):
  """What is in a folder of the workdir, by its names there."""
  prefix = f"bucket/runs/demo/{folder}"
  return {
    name.removeprefix(prefix): data
    for name, data in objects.items()
    if name.startswith(prefix)
  }


@pytest.mark.slow
@pytest.mark.no_cover  # as a local run is
def test_a_run_from_problems_to_report(objects, monkeypatch):
  """It is killed after an update, and goes on from its checkpoint."""
  config = demo.get_config("tiny=true,arms=prefixrl")
  config.update_from_flattened_dict(
    {
      "train.max_steps": 3,
      "train.checkpoint_every": 1,
      **tiny_run.FEW_PROGRAMS,
    }
  )
  tiny_run.killed(
    monkeypatch, 1, lambda: Pipeline(config, _WORKDIR).run(STAGES)
  )
  train = _WORKDIR / "train/prefixrl/seed_0"
  steps = lambda: [row["step"] for row in read_jsonl(train / "metrics.jsonl")]
  assert steps() == saved_steps(train / "checkpoints") == [1]
  Pipeline(config, _WORKDIR).run(STAGES)
  assert steps() == [1, 2, 3]
  assert saved_steps(train / "checkpoints") == [2, 3]
  names = {name.removeprefix("bucket/runs/demo/") for name in objects()}
  assert {"report/index.html", "report/rollouts/index.html"} <= names
  assert "data/seed_0/collect/traces.parquet" in names
  assert not [n for n in names if n.endswith(".tmp") or n == "lock.json"]
  summary = json.loads(objects()["bucket/runs/demo/report/summary.json"])
  assert list(summary["arms"]) == ["base", "prefixrl"]
