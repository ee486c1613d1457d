"""Plausible runs, and the report of them."""

import numpy as np

from prefixrl_jax.evals.curves import CurvePoint, RunRecord
from prefixrl_jax.evals.page import write_report
from prefixrl_jax.evals.training import TrainingRecord
from prefixrl_jax.types import EvalResult

COLLECTION = 3e11
BUDGET = 1.5e12
# arm -> (final accuracy, steepness, uses traces)
ARMS = {
  "base": (0.002, 0.0, False),
  "rl": (0.12, 4.0, False),
  "sft_rl": (0.28, 2.0, True),
  "prefixrl": (0.76, 2.0, True),
}
SAMPLE = {
  "arm": "prefixrl",
  "seed": 0,
  "problem_id": "train-7",
  "prompt": "a43 b15?",
  "prefix": "a4:1",
  "completion": "3=1 b=1;",
  "reward": 1.0,
  "fraction": 0.4,
}


def fake_run(arm: str, seed: int, *, is_old: bool = True) -> RunRecord:
  """A run; an old one has nothing of its training but the curve."""
  final, steepness, uses_traces = ARMS[arm]
  rng = np.random.default_rng([seed, len(arm)])
  final *= 1 + 0.2 * rng.uniform(-1, 1)
  start = COLLECTION * (1 + 0.1 * seed) if uses_traces else 0.0
  curve = []
  for i, share in enumerate(np.linspace(0, 1, 16) if arm != "base" else []):
    spent = (BUDGET - start) * float(share)
    entries = {"sampling": spent / 4, "update": spent * 3 / 4}
    if uses_traces:
      entries |= {"screening": COLLECTION / 2, "collection": start}
    ledger = {
      purpose: {
        "flops_paper": flops,
        "flops_executed": 0.6 * flops,
        "tokens": flops / 3e5,
        "completions": flops / 1e7,
        "seconds": flops / 1e10,
      }
      for purpose, flops in entries.items()
    }
    accuracy = final * float(share) ** steepness
    curve.append(
      CurvePoint(10 * i, ledger, {"train": accuracy, "heldout": accuracy / 2})
    )
  results = [
    EvalResult(f"{split}-{i}", split, fraction, 32, int(rng.binomial(32, p)))
    for split, fractions in {
      "train": np.linspace(0, 0.9, 10),
      "heldout": [0.0],
    }.items()
    for fraction in fractions
    for p in [final + (0.95 - final) * float(fraction) ** 2]
    for i in range(12)
  ]
  training = TrainingRecord()
  if curve and not is_old:
    training = fake_training(rng, is_prefixed=arm == "prefixrl")
  return RunRecord(arm, seed, curve, results, uses_traces, training=training)


def fake_training(rng, *, is_prefixed: bool) -> TrainingRecord:
  """Noisy norms; entropies and a marker that rise, prefixes of two authors."""
  rows, prefixed = [], []
  for step, share in enumerate(np.linspace(0.02, 1, 60), 1):
    row = {"step": step, "flops_paper": BUDGET * share}
    row["train/grad_norm"] = float(rng.exponential(0.2))
    for kind in ("no_prefix", *["prefixed"] * is_prefixed):
      row |= {
        f"train/{kind}/accuracy": share,
        f"train/{kind}/signal": float(rng.uniform(0.1, 0.4)),
        f"train/{kind}/entropy": 0.3 + 0.1 * (kind == "prefixed") + share / 5,
        f"train/{kind}/marker": share / 2,
      }
    rows.append(row)
    if is_prefixed:
      prefixed += [(step, "base@0123456789", share), (step, "rule", share / 2)]
  gains = [np.linspace(1, 0, 40) for _ in range(8 * is_prefixed)]
  return TrainingRecord(rows, prefixed, gains)


def write(directory, *, runs=None, samples=(SAMPLE,), notes=None):
  return write_report(
    directory,
    runs or [fake_run(arm, seed) for arm in ARMS for seed in range(3)],
    samples=samples,
    notes=notes or {"hard problems": "35 of 80"},
    marker="share of worked blocks",
    trained_band=(0.4, 0.8),
  )
