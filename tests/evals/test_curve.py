"""Points of the curve: when they are due, and what is in them."""

import types

import ml_collections
import tiny_run

from prefixrl_jax.evals import curve
from prefixrl_jax.evals.curve import Curve, curve_point
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.models.transformer import TransformerConfig
from prefixrl_jax.types import EvalResult, SamplingUsage

_MODEL = TransformerConfig(
  num_layers=1,
  width=8,
  num_heads=2,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=16,
  vocab_size=10,
)


def _point(flops):
  ledger = Ledger(_MODEL).to_dict()
  ledger["update"]["flops_paper"] = flops
  return {"step": 0, "ledger": ledger, "accuracy": {}}


def test_points_are_due_on_one_grid_for_all_arms():
  config = ml_collections.ConfigDict(
    {"train": {"flops": 100.0}, "evals": {"curve_points": 4}}
  )
  points = Curve(config, [])
  assert points.is_due(30.0)  # an arm may begin at the cost of its traces
  points.add(_point(30.0))
  assert not points.is_due(49.9)
  assert points.is_due(50.0)
  points.add(_point(60.0))
  assert not points.is_due(74.9)
  assert Curve(config, points.points).is_due(75.0)  # when it goes on


def test_hard_heldout_problems_are_a_line_of_their_own(monkeypatch):
  """All of them are evaluated; the hard one is solved once in four samples."""
  data = tiny_run.data()
  correct = {data.hard_heldout: 1, frozenset(): 3}
  asked = []

  def evaluated(session, sampler, problems, **settings):
    asked.append(settings)
    results = [
      EvalResult(p.id, p.split, 0.0, 4, correct[data.hard_heldout & {p.id}])
      for p in problems
    ]
    return results, []

  monkeypatch.setattr(curve, "without_prefix", evaluated)
  sampler = types.SimpleNamespace(
    pop_usage=lambda: SamplingUsage(completions=3, output_tokens=5)
  )
  session = types.SimpleNamespace(
    config=ml_collections.ConfigDict(
      {"evals": {"curve_samples": 4, "curve_problems": 0}}
    )
  )
  ledger = Ledger(_MODEL)
  point = curve_point(session, sampler, data, ledger, 7, 2)
  assert point["step"] == 7
  assert point["accuracy"] == {
    "train": 0.75,
    "heldout": 0.5,
    "heldout_hard": 0.25,
  }
  assert point["ledger"]["evaluation"]["completions"] == 3
  assert point["ledger"] == ledger.to_dict()
  expected = dict(num_samples=4, step=7, purpose="evaluation", seed=2)
  assert asked == [expected, expected]
