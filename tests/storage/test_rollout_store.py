"""Kept rollouts: whole after a kill, an even sample, within their limit."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from etils import epath

from prefixrl_jax.storage import rollout_store
from prefixrl_jax.storage.rollout_store import RolloutStore, draw

_PROBLEMS = [f"p{i}" for i in range(16)]


def _store(folder, share=0.5, max_bytes=1e9, resume_step=0):
  return RolloutStore(
    epath.Path(folder),
    share=share,
    max_bytes=max_bytes,
    resume_step=resume_step,
  )


def _write(store, steps, seed=3, tokens=4):
  for step in steps:
    keys = [
      dict(arm="rl", seed=seed, step=step, problem_id=p, group=i)
      | dict(prefix_length=0, fraction=0.0)
      for i, p in enumerate(_PROBLEMS)
    ]
    rng = np.random.default_rng(step)
    rollouts = [
      key
      | dict(
        lane=lane,
        prompt=[7],
        prefix=[],
        tokens=np.arange(tokens),
        length=tokens,
      )
      | dict(text=f"{step}.{lane}", logprobs=rng.normal(size=tokens))
      | dict(advantages=np.full(tokens, 0.25), reward=1.0, truncated=False)
      for key in keys
      for lane in range(2)
      if store.is_kept(seed, step, key["problem_id"])
    ]
    outcome = dict(
      num_completions=2, num_correct=2, num_truncated=0, mean_reward=1.0
    )
    store.add(rollouts, [key | outcome for key in keys])


def _places(folder):
  frame = pd.read_parquet(folder / "rollouts")
  return list(zip(frame.step, frame.problem_id, frame.lane))


def _expected(steps, share, seed=3):
  return [
    (step, p, lane)
    for step in steps
    for p in _PROBLEMS
    if draw(seed, step, p) < share
    for lane in range(2)
  ]


def test_a_draw_is_the_same_in_every_process():
  """SHA-256 of "3/7/p0" begins with e1c428b8, of "3/8/p0" with cb49d816."""
  assert draw(3, 7, "p0") == pytest.approx(0xE1C428B8 / 2**32, abs=1e-8)
  assert draw(3, 8, "p0") == pytest.approx(0xCB49D816 / 2**32, abs=1e-8)


def test_pandas_reads_both_folders_and_the_share_is_what_was_asked_for(
  tmp_path,
):
  with _store(tmp_path) as store:
    _write(store, range(1, 21))
  assert _places(tmp_path) == _expected(range(1, 21), 0.5)
  frame = pd.read_parquet(tmp_path / "rollouts")
  row = frame[(frame.step == 20) & (frame.lane == 1)].iloc[0]
  assert row.tokens.tolist() == [0, 1, 2, 3]
  assert row.advantages.tolist() == [0.25] * 4
  assert row.logprobs.dtype == np.float32
  assert row.text == "20.1"
  groups = pd.read_parquet(tmp_path / "groups")
  assert len(groups) == 20 * 16  # those that are not kept, too
  assert groups.problem_id.tolist() == _PROBLEMS * 20


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_and_all_may_be_kept(tmp_path, share):
  with _store(tmp_path, share) as store:
    _write(store, [1, 2])
  assert len(pd.read_parquet(tmp_path / "groups")) == 32
  if share:
    assert len(_places(tmp_path)) == 2 * 16 * 2
  else:
    assert not (tmp_path / "rollouts").exists()


# A file may hold less than a step, three steps, or all.
@pytest.mark.parametrize("file_bytes", [8, 6_000, 1e9])
@pytest.mark.parametrize("resume_step", [0, 7, 12])
def test_a_resumed_run_has_every_rollout_once(
  tmp_path, monkeypatch, file_bytes, resume_step
):
  monkeypatch.setattr(rollout_store, "_FILE_BYTES", file_bytes)
  with _store(tmp_path / "whole") as store:
    _write(store, range(1, 21))
  folder = tmp_path / "killed"
  store = _store(folder)
  _write(store, range(1, 10))
  store.flush()  # as at a checkpoint
  _write(store, range(10, 13))
  store.flush()
  # Killed while writing a file, with rows that have not been written.
  _write(store, [13])
  (folder / "rollouts/.step_00000013.parquet.1.tmp").write_bytes(b"half")
  with _store(folder, resume_step=resume_step) as store:
    _write(store, range(resume_step + 1, 21))
  assert _places(folder) == _places(tmp_path / "whole")
  for table in ("rollouts", "groups"):
    whole, again = (
      {p.name: pq.read_table(p) for p in (d / table).iterdir()}
      for d in (tmp_path / "whole", folder)
    )
    assert again == whole


# 64, 4 for the prompt's token and 16 for each of 200, at most.
_OF_200 = 3268
_ALL_20 = 20 * 32 * _OF_200


def test_beyond_its_limit_the_whole_run_is_thinned(tmp_path, monkeypatch):
  monkeypatch.setattr(rollout_store, "_FILE_BYTES", 1e5)
  limit = 0.3 * _ALL_20
  store = _store(tmp_path, share=1.0, max_bytes=limit)
  for step in range(1, 21):
    _write(store, [step], tokens=200)
    store.flush()
    size = sum(f.stat().st_size for f in (tmp_path / "rollouts").iterdir())
    assert size <= limit
    # Between a half of what there is room for, or of all, and that; and luck.
    room = min(limit, step * 32 * _OF_200)
    assert 0.4 * room <= len(_places(tmp_path)) * _OF_200 <= room
  assert _places(tmp_path) == _expected(range(1, 21), 0.25)


@pytest.mark.parametrize("file_bytes", [1e5, 1e9])
def test_thinned_and_resumed_is_as_thinned_at_once(
  tmp_path, monkeypatch, file_bytes
):
  monkeypatch.setattr(rollout_store, "_FILE_BYTES", file_bytes)
  how = dict(share=1.0, max_bytes=0.3 * _ALL_20)
  with _store(tmp_path / "whole", **how) as store:
    _write(store, range(1, 21), tokens=200)
  folder = tmp_path / "killed"
  with _store(folder, **how) as store:
    _write(store, range(1, 19), tokens=200)
  with _store(folder, **how, resume_step=9) as store:
    _write(store, range(10, 21), tokens=200)
  assert _places(folder) == _places(tmp_path / "whole")


def test_a_kill_while_thinning_leaves_an_even_sample(tmp_path, monkeypatch):
  monkeypatch.setattr(rollout_store, "_FILE_BYTES", 2e5)
  with _store(tmp_path, share=1.0) as store:
    _write(store, range(1, 9), tokens=200)
  write, written = rollout_store.write_bytes, []

  def dying(path, data):
    if len(written) == 2:
      raise KeyboardInterrupt
    written.append(path)
    write(path, data)

  monkeypatch.setattr(rollout_store, "write_bytes", dying)
  small = _store(tmp_path, share=1.0, max_bytes=5e5, resume_step=8)
  with pytest.raises(KeyboardInterrupt):
    _write(small, [9], tokens=200)
  monkeypatch.setattr(rollout_store, "write_bytes", write)
  _store(tmp_path, share=1.0, resume_step=8)
  assert _places(tmp_path) == _expected(range(1, 9), 0.5)


def test_what_cannot_fit_is_not_kept_and_the_run_goes_on(tmp_path):
  with _store(tmp_path, share=1.0, max_bytes=100) as store:
    _write(store, [1, 2])
  assert not (tmp_path / "rollouts").exists()
  assert len(pd.read_parquet(tmp_path / "groups")) == 32


@pytest.mark.parametrize("place", [10, -300])
def test_a_damaged_file_is_set_aside(tmp_path, caplog, monkeypatch, place):
  monkeypatch.setattr(rollout_store, "_FILE_BYTES", 128)
  with _store(tmp_path, share=1.0) as store:
    _write(store, range(1, 4))
  newest = sorted((tmp_path / "rollouts").iterdir())[-1]
  data = bytearray(newest.read_bytes())
  data[place] ^= 255
  newest.write_bytes(data)
  _store(tmp_path, share=1.0, resume_step=3)
  assert f"{newest} is damaged" in caplog.text
  assert (newest.parent / f"_damaged_{newest.name}").exists()
  assert _places(tmp_path) == _expected([1, 2], 1.0)


def test_a_sample_is_of_whole_groups_and_within_larger_ones(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(rollout_store, "_FILE_BYTES", 6_000)
  folder = epath.Path(tmp_path)
  assert len(rollout_store.sample_rollouts(folder, most=9, most_tokens=9)) == 0
  with _store(tmp_path, share=1.0) as store:
    _write(store, range(1, 9))
  places = sorted((draw(3, s, p), s, p) for s in range(1, 9) for p in _PROBLEMS)
  assert rollout_store.count_rollouts(folder) == 8 * 16 * 2
  # Two rollouts of four tokens a group.
  for most, most_tokens, groups in ((21, 999, 10), (999, 47, 5), (999, 0, 0)):
    sample = rollout_store.sample_rollouts(
      folder, most=most, most_tokens=most_tokens
    )
    found = {(r["step"], r["problem_id"]) for r in sample.to_pylist()}
    assert found == {place[1:] for place in places[:groups]}
    assert len(sample) == 2 * groups


def test_no_damage_goes_unnoticed(tmp_path):
  """Any byte that is another: the file is set aside, or says the same."""
  with _store(tmp_path, share=1.0) as store:
    _write(store, range(1, 3))
  [file] = (tmp_path / "rollouts").iterdir()
  whole, rows = file.read_bytes(), pq.read_table(file)
  damaged = 0
  for place in range(0, len(whole), 61):
    file.write_bytes(
      whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :]
    )
    sample = rollout_store.sample_rollouts(
      epath.Path(tmp_path), most=999, most_tokens=9999
    )
    damaged += not len(sample)
    assert not len(sample) or sample.equals(rows.cast(sample.schema)), place
  assert damaged > 50


def test_a_file_of_other_columns_is_set_aside(tmp_path, caplog):
  with _store(tmp_path, share=1.0) as store:
    _write(store, range(1, 3))
  [file] = (tmp_path / "rollouts").iterdir()
  pd.read_parquet(file).drop(columns="lane").to_parquet(file)
  sample = rollout_store.sample_rollouts(
    epath.Path(tmp_path), most=99, most_tokens=99
  )
  assert len(sample) == 0
  assert f"{file} is damaged" in caplog.text
