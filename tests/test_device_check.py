"""The check of a device: its parts apart, and what they compute right."""

import json
import sys

import numpy as np
import pytest

from benchmarks import device_check, device_exact, device_speed
from benchmarks.device_work import Decoding


def _lines(out):
  return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_part_that_hangs_or_fails_costs_the_others_nothing(tmp_path):
  out, log = tmp_path / "x.jsonl", tmp_path / "x.log"
  python = lambda code: [sys.executable, "-c", code]
  write = f"open({str(out)!r}, 'a').write('{{\"part\": \"good\"}}\\n')"
  forks = "import subprocess, time; subprocess.Popen(['sleep', '77'])"
  device_check.run_together(
    {
      "hangs": (python(f"{forks}; print('here'); time.sleep(77)"), {}, 1.0),
      "fails": (python("raise SystemExit(3)"), {}, 60.0),
      "good": (python(f"{write}"), {}, 60.0),
    },
    out,
    log,
  )
  ended = {x["part"]: x["ended"] for x in _lines(out) if "ended" in x}
  assert ended == {
    "hangs": "at its limit of 1 s",
    "fails": "with exit code 3",
    "good": "well",
  }
  assert {"part": "good"} in _lines(out)


def test_a_line_is_short_and_whole(tmp_path):
  out = tmp_path / "x.jsonl"
  device_check.record(out, "machine", name="a", seconds=1 / 3, launches=12)
  assert _lines(out) == [
    {"part": "machine", "name": "a", "seconds": 0.33333, "launches": 12}
  ]


def test_every_part_can_be_found():
  for part in device_check.PARTS.values():
    assert callable(device_check.pkgutil.resolve_name(part.run))


def test_what_is_computed_is_near_the_dense_reference():
  """On a CPU, where float32 is float32; gradients are the reference's."""
  rows = {}
  record = lambda name, **x: rows.update({name: x})
  device_exact.exact_float32(record, small=True)
  for name in ("out", "d_query", "d_key", "d_value"):
    assert rows["attention"][name] < 1e-5
  assert rows["sampler"]["logprob_error_max"] < 1e-4
  assert rows["update"]["logprob_error_max"] < 1e-4
  assert rows["update"]["gap_to_sampler_max"] < 1e-4
  assert rows["update"]["gradient_error"] < 1e-5


def test_an_error_is_seen(monkeypatch):
  """A gradient that is off by a hundredth, and one that is not there."""
  exact = {"a": np.array([3.0, 0.0]), "b": np.array([4.0])}
  off = {"a": np.array([3.0, 0.05]), "b": np.array([4.0])}
  assert device_exact.relative_error(off, exact) == pytest.approx(0.01)
  none = {"a": np.zeros(2), "b": np.zeros(1)}
  assert device_exact.relative_error(none, exact) == 1


def test_the_step_is_the_difference_of_two_calls(model):
  """By hand: 2 rows of 3 lanes; 10 steps more take 0.2 s more."""
  work = Decoding(2, 3, 5, 16, 1, 11, 11)
  figures = work.figures(0.5, 0.7)
  assert figures["ms_a_step"] == pytest.approx(20)
  assert figures["tokens_per_second"] == pytest.approx(300)
  # The model's two layers have 2 kv heads of 8; a lane has 6 keys on average.
  keys = 2 * (5 + 3 * 6)
  weights = device_speed.parameters.num_params(model)
  assert work.bytes_a_step(model) == 2 * (weights + keys * 2 * 2 * 2 * 8)


def test_the_card_is_measured(tmp_path):
  rows = []
  device_speed.machine(lambda **x: rows.append(x), small=True)
  assert rows[0]["bf16_tflops"] > 0
  assert rows[0]["copy_gb_per_second"] > 0
  [product] = [x for x in rows if "highest" in x.get("name", "")]
  assert product["relative_error"] < 1e-5
