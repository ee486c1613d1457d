"""What an evaluation costs at most, and which problems it is bounded to."""

import types

import ml_collections
import pytest
import tiny_run

from prefixrl_jax.configs import code, logic, math
from prefixrl_jax.evals import costs, curve
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.models import flops
from prefixrl_jax.models.transformer import TransformerConfig
from prefixrl_jax.types import Problem, SamplingUsage

_MODEL = TransformerConfig(
  num_layers=1,
  width=8,
  num_heads=2,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=16,
  vocab_size=10,
)


def _session(**fields):
  config = tiny_run.config(**fields)
  tokens = lambda texts: ([0] * len(text) for text in texts)
  return types.SimpleNamespace(
    config=config,
    model=_MODEL,
    tokenizer=types.SimpleNamespace(encode_prompts=tokens),
  )


def _problems(count):
  return [Problem(f"p{i}", "?", "", "", "train", i) for i in range(count)]


def test_fewer_problems_are_among_more_of_them_in_their_order():
  problems = _problems(50)
  before: set[str] = set()
  for most in (1, 5, 20, 49):
    some = costs.some_of(problems, most)
    assert len(some) == most
    assert [p.index for p in some] == sorted(p.index for p in some)
    assert before < {p.id for p in some}
    before = {p.id for p in some}
  # Not the first ones: a file may be in order of difficulty.
  assert [p.id for p in costs.some_of(problems, 5)] != [
    p.id for p in problems[:5]
  ]


def test_which_problems_depends_on_nothing_else():
  problems = _problems(50)
  some = costs.some_of(problems, 10)
  assert costs.some_of(problems[::-1], 10) == some[::-1]
  # Without one that is not among them they are the same.
  other = next(p for p in problems if p not in some)
  assert costs.some_of([p for p in problems if p != other], 10) == some


@pytest.mark.parametrize("most", [0, 50, 51])
def test_all_of_them(most):
  assert costs.some_of(_problems(50), most) == _problems(50)


def test_at_most_every_completion_is_as_long_as_is_allowed():
  session = _session(**{"rollouts.max_completion_length": 7})
  usage = costs.at_most(session, [3, 10], 4)
  assert usage == SamplingUsage(
    completions=8, input_tokens=4 * 13, output_tokens=8 * 7
  )


def test_cost_is_said_by_the_papers_count():
  session = _session(**{"train.flops": 1e6})
  usage = SamplingUsage(completions=1200, input_tokens=400, output_tokens=600)
  spent = 2 * flops.num_active_params(_MODEL) * 2000
  said = costs.describe(session, [usage, usage])
  assert said.startswith("2,400 completions, at most 2e+03 tokens and")
  assert f"{spent:.3g} FLOPs by the paper's count" in said
  assert f"{spent / 1e6:.2g} times the budget" in said


def test_a_bounded_curve_has_the_same_problems_at_every_point(monkeypatch):
  data = tiny_run.data()
  session = _session(**{"evals.curve_problems": 2})
  asked = []

  def sampled(session, sampler, problems, **_):
    asked.append([p.id for p in problems])
    return [], []

  monkeypatch.setattr(curve, "without_prefix", sampled)
  sampler = types.SimpleNamespace(pop_usage=SamplingUsage)
  for step in (0, 5):
    curve.curve_point(session, sampler, data, Ledger(_MODEL), step, seed=step)
  assert asked[:2] == asked[2:]
  assert list(map(len, asked)) == [2, 2, 2, 2]
  assert set(asked[0]) < {p.id for p in data.train}


def test_what_a_curve_costs_is_known_before():
  data = tiny_run.data()  # 4 training problems and 2 held-out ones
  session = _session(**{"evals.curve_points": 4, "evals.curve_samples": 8})
  said = curve.cost_at_most(session, data)
  assert said.startswith(f"5 points with {5 * 6 * 8} completions, ")
  session = _session(
    **{
      "evals.curve_points": 4,
      "evals.curve_samples": 8,
      "evals.curve_problems": 1,
    }
  )
  said = curve.cost_at_most(session, data)
  assert said.startswith(f"5 points with {5 * 2 * 8} completions, ")


@pytest.mark.parametrize("made", [math, code, logic])
def test_evaluation_is_a_small_part_of_a_run_by_default(made):
  """Before it was bounded, it sampled more than training does."""
  c: ml_collections.ConfigDict = made.get_config()
  trained = 400 * c.train.prompts_per_step * c.train.completions_per_prompt
  e = c.evals
  problems = lambda most: sum(
    min(n, most or n) for n in (c.problems.num_train, c.problems.num_heldout)
  )
  on_curve = (e.curve_points + 1) * e.curve_samples * problems(e.curve_problems)
  finally_ = e.num_samples * problems(e.final_problems)
  finally_ += (
    len(e.fractions) * e.fraction_samples * (e.final_problems or 10**9)
  )
  # A completion that is only sampled costs a quarter of one that is learnt
  # from: 2ND against 2ND + 6ND.
  assert (on_curve + finally_) / 4 < 0.1 * trained
