"""The benchmark of scaling: bytes by hand, and every point of its figure."""

import dataclasses

import pytest

from benchmarks import sharded

_SIZES = sharded.Sizes(lanes=2, trunk_length=8, steps=4, row_length=128)
# Of the tests' model, all for a width of 24: queries and outputs of 6 heads of
# 8, keys and values of 2, an MLP of three matrices with 40 features; an
# embedding of 17, and a head that is not tied to it; three norms' scales.
_WEIGHTS = 4 * 24 * (2 * 6 * 8 + 2 * 2 * 8 + 3 * 40 + 2 * 17)
_NORMS = 4 * 24 * 3


def test_what_reaches_a_device_is_what_a_hand_counts(model, tmp_path):
  model = dataclasses.replace(model, num_layers=1)
  rows = sharded.measure(
    model, ["data", "fsdp"], [2], _SIZES, rows=1, repeats=1
  )
  sent = {
    (r["axis"], r["phase"]): r["MiB a device"] * 2**20
    for r in rows
    if r["scaling"] == "weak"
  }
  # A replica has all weights; of shards, the other device has half.
  assert sent["data", "weight hand-over"] == 0
  assert sent["fsdp", "weight hand-over"] == _WEIGHTS / 2
  # In a ring of two, an all-reduce of the gradients sends them once; so it does
  # the sums that are metrics.
  gradients = _WEIGHTS + _NORMS
  assert gradients <= sent["data", "update"] < gradients + 2000
  # Rows are decoded where they are. A prefill's new keys and values, of two
  # heads of 8 at 8 tokens, are gathered on every device: docs/performance.md.
  assert sent["data", "decode"] < 100
  assert 0 <= sent["data", "prefill"] - 4 * 2 * 8 * 2 * 8 < 100
  assert all(0 < r["least"] <= r["seconds"] <= r["most"] for r in rows)
  sharded.draw(rows, "a machine", str(tmp_path / "scaling"))
  assert "<svg" in (tmp_path / "scaling.svg").read_text()
  assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_strong_scaling_keeps_the_rows_and_weak_those_of_a_device(
  model, monkeypatch
):
  found = []

  def work(config, mesh, num_rows, sizes):
    found.append(({k: n for k, n in mesh.shape.items() if n > 1}, num_rows))

  monkeypatch.setattr(sharded, "Work", work)
  of_each = {phase: {"all-gather": 3 * 2.0**20} for phase in sharded.PHASES}
  monkeypatch.setattr(sharded, "received", lambda work: of_each)
  took = {phase: [1.0, 2.0, 9.0] for phase in sharded.PHASES}
  monkeypatch.setattr(sharded, "seconds", lambda *_: took)
  rows = sharded.measure(
    model, ["fsdp", "tensor"], [1, 2, 8], _SIZES, rows=3, repeats=3
  )
  # One device, and what both ways have alike, is measured once.
  assert found == [
    ({}, 24),
    ({"fsdp": 2}, 24),
    ({"fsdp": 8}, 24),
    ({}, 3),
    ({"fsdp": 2}, 6),
    ({"tensor": 2}, 24),
    ({"tensor": 8}, 24),
    ({"tensor": 2}, 6),
  ]
  assert [(r["scaling"], r["devices"], r["rows"]) for r in rows[::4]] == 2 * [
    *(("strong", n, 24) for n in (1, 2, 8)),
    *(("weak", n, 3 * n) for n in (1, 2, 8)),
  ]
  assert [r["phase"] for r in rows] == 12 * [*sharded.PHASES]
  assert {(r["MiB a device"], r["seconds"]) for r in rows} == {(3.0, 2.0)}


@pytest.mark.parametrize(
  ("devices", "said"), [("1,3,8", "each must divide"), ("1,x", "numbers")]
)
def test_numbers_of_devices_are_checked(devices, said, monkeypatch):
  monkeypatch.setattr(
    sharded, "_DEVICES", type("Flag", (), {"value": devices.split(",")})
  )
  with pytest.raises(SystemExit, match=said):
    sharded._counts()
