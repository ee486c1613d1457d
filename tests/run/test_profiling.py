"""Profiles: of which steps, with which names, and that nothing changes."""

import gzip
import json

import jax
import pytest
import tiny_run
from etils import epath

from prefixrl_jax import train
from prefixrl_jax.run.profiling import Profile, with_stages
from prefixrl_jax.storage.metrics import read_jsonl


def _trained(folder, mesh, **fields):
  config = tiny_run.config(
    **{"train.max_steps": 3, "evals.curve_points": 1, **fields}
  )
  trained = train.train(
    tiny_run.session(config, mesh),
    tiny_run.data(),
    folder,
    arm="prefixrl",
    seed=0,
  )
  learned = [
    {k: v for k, v in row.items() if k.startswith(("step", "train", "flops"))}
    for row in read_jsonl(folder / "metrics.jsonl")
  ]
  return learned, [point["accuracy"] for point in trained.curve]


def _names(events, of):
  return {e["name"] for e in events if of.items() <= e.items()}


def test_these_steps_are_traced_by_name_and_nothing_changes(
  tmp_path, one_device, capsys
):
  folder = epath.Path(tmp_path)
  plain = _trained(folder / "plain", one_device)
  assert not (folder / "plain" / "profile").exists()
  steps = {"profile.steps": (2, 3, 77)}
  assert _trained(folder / "traced", one_device, **steps) == plain
  said = capsys.readouterr().err
  assert "profile of prefixrl seed 0: there is none of steps 77" in said
  [found] = (folder / "traced/profile/plugins/profile").iterdir()
  assert found.name == "steps_2_3"
  assert str(found / "perfetto.json.gz") in said
  trace = json.loads(gzip.decompress((found / "perfetto.json.gz").read_bytes()))
  events = trace["traceEvents"]
  rows = {
    e["tid"]: e["args"]["name"]
    for e in events
    if (e.get("pid"), e["name"]) == (0, "thread_name")
  }
  assert list(rows.values()) == [
    *("step", "weight hand-over", "rollout", "prefill", "decode"),
    *("wait for decode", "pick", "judge", "update", "checkpoint"),
  ]
  number = {name: tid for tid, name in rows.items()}
  in_row = lambda name: [
    e
    for e in events
    if e["ph"] == "X" and e["pid"] == 0 and e["tid"] == number[name]
  ]
  assert [e["name"] for e in in_row("step")] == ["step 2", "step 3"]
  # Each within its step, in order.
  for step, rollout, update in zip(*map(in_row, ("step", "rollout", "update"))):
    assert step["ts"] <= rollout["ts"] < update["ts"]
    assert update["ts"] + update["dur"] <= step["ts"] + step["dur"]
  modules = {e.get("args", {}).get("hlo_module") for e in events}
  assert {"jit_decode", "jit_update", "jit_hand_over_a_layer"} <= modules
  [planes] = found.glob("*.xplane.pb")
  opened = jax.profiler.ProfileData.from_serialized_xspace(planes.read_bytes())
  annotated = {
    event.name
    for plane in opened.planes
    for line in plane.lines
    for event in line.events
  }
  assert {"step", "rollout", "judge", "update"} <= annotated


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
