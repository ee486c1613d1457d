"""When a run's figures first are high for ten steps, by hand."""

import json

from prefixrl_jax.evals import takeoff


def test_the_first_step_is_the_last_of_ten_with_the_share():
  rows = [{"step": i, "x": float(i >= 20)} for i in range(1, 41)]
  # Of the ten steps up to 24 five, 20 to 24, are 1.
  assert takeoff.first_step(rows, "x", 0.5) == 24
  # Steps without the field are no steps of it.
  rows = [row for row in rows if row["step"] != 22]
  assert takeoff.first_step(rows, "x", 0.5) == 25
  assert takeoff.first_step(rows[:10], "x", 0.5) is None
  assert takeoff.first_step(rows, "y", 0.5) is None


def test_a_run_is_read_without_its_sft(tmp_path):
  rows = [{"step": 1, "sft/loss": 1.0}] + [
    {
      "step": step,
      "train/no_prefix/marker": 0.6,
      "train/no_prefix/signal": 0.25 * (step > 8),
      "train/no_prefix/entropy": 0.125 * (step > 11),
    }
    for step in range(2, 22)
  ]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "metrics.jsonl").write_text(lines)
  curve = [{"accuracy": {"heldout": 0.0}}, {"accuracy": {"heldout": 0.75}}]
  (tmp_path / "curve.json").write_text(json.dumps(curve))
  assert takeoff.of_run(tmp_path) == {
    "after prefixes": None,
    "no prefix": 11,
    "signal": 13,
    "steps": 20,
    "entropy": 0.125,
    "held-out": 0.75,
  }
