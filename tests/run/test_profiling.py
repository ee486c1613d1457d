"""Profiles: which traces there are; those of a run are in test_train."""

import pytest
from etils import epath

from prefixrl_jax.run.profiling import Profile, with_stages


def test_a_step_that_fails_is_written_too(tmp_path, capsys):
  def fail():
    with Profile([1, 5], epath.Path(tmp_path), "a run") as profile:
      profile.begin(1)
      raise KeyError

  with pytest.raises(KeyError):
    fail()
  assert (tmp_path / "plugins/profile/steps_1/perfetto.json.gz").exists()
  assert "steps 5" not in capsys.readouterr().err


def test_steps_apart_have_traces_apart(tmp_path):
  with Profile([2, 4], epath.Path(tmp_path), "a run") as profile:
    for step in (1, 2, 3, 4):
      profile.begin(step)
  found = sorted(tmp_path.glob("plugins/profile/*"))
  assert [folder.name for folder in found] == ["steps_2", "steps_4"]


def test_an_operation_that_is_called_like_a_stage_is_none():
  span = dict(ph="X", pid=7, tid=1, ts=0.0, dur=1.0)
  stage, operation = span | {"name": "pick"}, span | {"name": "update"}
  operation["args"] = {"hlo_op": "update"}
  found = with_stages({"traceEvents": [stage, operation]})["traceEvents"]
  assert [e["name"] for e in found if e["ph"] == "X"] == [
    *("pick", "pick", "update"),
  ]
  assert [e["pid"] for e in found if e["ph"] == "X"] == [0, 7, 7]
