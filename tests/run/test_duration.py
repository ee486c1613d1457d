"""What a run takes, added up by hand from what its programs take."""

import jax
import pytest
import tiny_run

from prefixrl_jax.distributed.chips import CHIPS
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.models.flops import num_active_params
from prefixrl_jax.run import duration
from prefixrl_jax.run.session import demo_model, open_engine


def _engine(**fields):
  config = tiny_run.config()
  config.run_arms = ("rl",)
  config.seeds = (0, 1)
  config.update_from_flattened_dict(
    {
      "rollouts.max_completion_length": 20,
      "rollouts.max_prompt_length": 8,
      "problems.num_train": 6,
      "problems.num_heldout": 4,
      "screen.num_samples": 16,
      "screen.rows": 2,
      "screen.lanes": 4,
      "collect.budget": 32,
      "collect.rows": 2,
      "collect.lanes": 4,
      "train.prompts_per_step": 8,
      "train.rows": 4,
      "train.completions_per_prompt": 2,
      "train.max_steps": 5,
      "train.flops": 1e30,
      "evals.rows": 2,
      "evals.lanes": 4,
      "evals.num_samples": 8,
      "evals.final_problems": 0,
      "evals.fractions": (0.5,),
      "evals.fraction_samples": 4,
      "evals.curve_points": 3,
      "evals.curve_samples": 2,
      "evals.curve_problems": 2,
      "fresh_data_per_seed": False,
    }
    | fields
  )
  mesh = make_mesh(1, 2, 1, devices=jax.devices()[:2])
  return open_engine(
    config,
    model=demo_model(config.model),
    mesh=mesh,
    stop_tokens=tiny_run.TOKENIZER.stop_tokens,
    show=lambda _: None,
  )


def _programs(**seconds):
  """All of a run's, each of 1 s if not said otherwise."""
  samplers = ["screen", "collect", "rl, rollouts", "rl, curve", "rl, evaluate"]
  of = {
    "decode": samplers,
    "prefill a layer": samplers,
    "prefill, last layer": samplers,
    "hand over a layer": ["rl, rollouts"],
    "hand over the rest": ["rl, rollouts"],
    "update": ["rl, RL"],
  }
  return [
    {
      "name": name,
      "of": places,
      "rows": 2 if name.startswith("prefill") else None,
      "at_least": float(seconds.get(name.replace(" ", "_"), 1)),
      "by_hand": {"flops": 3e12, "recomputed": 2e12},
    }
    for name, places in of.items()
  ]


def test_a_step_is_two_rounds_of_decoding_and_an_update():
  engine = _engine()
  layers = engine.model.num_layers
  found = duration.steps(engine, _programs(update=7), CHIPS["v5e"])["rl"]
  # 8 prompts, 4 at a time; completions of half of 20 tokens.
  assert found["decode"] == 2 * 10
  assert found["prefill"] == 2 * layers
  assert found["hand-over"] == layers + 1
  assert found["update"] == 7
  whole = 20 + 2 * layers + layers + 1 + 7
  assert found["step"] == whole
  # 16 sequences, half of a prompt of 8 and of 20 tokens, on two chips.
  assert found["tokens_per_second_per_chip"] == 16 * 14 / whole / 2
  assert found["mfu"] == (whole - 6) * 1e12 / whole / CHIPS["v5e"].flops


def test_the_run_s_chip_hours_have_its_evaluations_in_them():
  engine = _engine()
  layers = engine.model.num_layers
  found = duration.chip_hours(engine, _programs())
  # Of a grid of 8 lanes: 10 tokens and a prefill each time that it is filled.
  full = 10 + layers
  hours = lambda seconds: pytest.approx(2 * seconds / 3600)
  step = 20 + 2 * layers + layers + 1 + 1
  assert found == {
    "screen": hours(6 * 16 / 8 * full),  # the first seed's, for both
    "collect": hours(6 * 32 / 8 * full),
    "train": hours(2 * 5 * step),
    # At its begin and three points, two problems of each split.
    "curve": hours(2 * 4 * 2 * 4 / 8 * full),
    # Ten problems, and six with half of a trace.
    "evaluate": hours(2 * (10 * 8 + 6 * 4) / 8 * full),
  }


def test_a_budget_is_spent_by_the_paper_s_count():
  engine = _engine(**{"train.max_steps": 0})
  # 2 N D to sample and 6 N D to learn, of 16 sequences of 14 tokens.
  a_step = 8 * num_active_params(engine.model) * 16 * 14
  engine.config.train.flops = 3.5 * a_step
  assert duration.num_steps(engine, "rl") == 4


def test_a_stage_whose_programs_are_not_known_is_left_out():
  engine = _engine()
  programs = [p for p in _programs() if p["name"] != "update"]
  assert duration.steps(engine, programs, CHIPS["v5e"]) == {}
  found = duration.chip_hours(engine, programs)
  assert found.keys() == {"screen", "collect", "curve", "evaluate"}
