"""Which points a sweep has, and what they are named."""

import pytest

from prefixrl_jax.configs import demo
from prefixrl_jax.sweep.points import (
  Point,
  as_read,
  points_of,
  read_variation,
)
from prefixrl_jax.types import UserError


def _points(arms, *sets):
  return points_of(arms, [read_variation(text) for text in sets])


def test_every_arm_has_every_combination():
  points = _points(
    ["rl", "sft_rl"],
    "config.arms.{arm}.learning_rate=1e-4,3e-4",
    "config.arms.sft_rl.sft_epochs=2,8",
    "config.problems.size=5,6",
  )
  assert [p.name for p in points if p.arm == "rl"] == [
    f"rl,learning_rate={rate},problems.size={size}"
    for rate in ("1e-4", "3e-4")
    for size in (5, 6)
  ]
  assert len(points) == 4 + 8
  assert points[-1].flags == [
    "--config.arms.sft_rl.learning_rate=3e-4",
    "--config.arms.sft_rl.sft_epochs=8",
    "--config.problems.size=6",
  ]


def test_without_settings_an_arm_is_one_point():
  assert _points(["rl"]) == [Point("rl", ())]
  assert Point("rl", ()).name == "rl"


@pytest.mark.parametrize(
  ("text", "values"),
  [
    ("config.evals.fractions=(0.1,0.2),(0.3,)", ("(0.1,0.2)", "(0.3,)")),
    ("config.problems.exclude='a,b',\"c\"", ("'a,b'", '"c"')),
    ("config.x = 1 , 2", ("1", "2")),
    ("--config.x=1", ("1",)),
    ("config.x=a=b,c", ("a=b", "c")),
  ],
)
def test_a_comma_within_a_value_is_no_separator(text, values):
  assert read_variation(text).values == values


@pytest.mark.parametrize(
  ("arms", "sets", "message"),
  [
    (["rl"], ["learning_rate=1"], "of the form config.FIELD=VALUE"),
    (["rl"], ["config.x"], "of the form config.FIELD=VALUE"),
    (["rl"], ["config.x="], "a value is empty"),
    (["rl"], ["config.x=1,,2"], "a value is empty"),
    (["rl"], ["config.x=1,2,1"], "1 is given twice"),
    (["rl"], ["config.x=1", "config.x=2"], "config.x is given twice"),
    (
      ["rl"],
      ["config.arms.{arm}.a=1", "config.arms.rl.a=2"],
      "config.arms.rl.a is given twice",
    ),
    (["rl"], ["config.arms.ppo.a=1"], "a field of none of --arms, rl"),
    (["rl"], ["config.seeds=1,2"], "--seeds says which"),
    (["rl"], ["config.run_arms=1,2"], "--arms says which"),
  ],
)
def test_what_is_no_sweep_is_said(arms, sets, message):
  with pytest.raises(UserError) as e:
    _points(arms, *sets)
  assert message in str(e.value)
  assert "\n" not in str(e.value)


def test_a_value_is_named_as_the_config_has_it():
  config = demo.get_config()
  point = Point(
    "rl",
    (
      ("config.arms.rl.learning_rate", "5e-4"),
      ("config.evals.fractions", "(.1,)"),
    ),
  )
  config.evals.fractions = (0.1,)
  assert as_read(point, config).settings == (
    ("config.arms.rl.learning_rate", "0.0005"),
    ("config.evals.fractions", "[0.1]"),
  )


def test_names_are_those_of_folders_and_differ():
  long = [
    Point("rl", (("config.problems.file", "x" * 200 + end),)) for end in "ab"
  ]
  paths = [
    Point("rl", (("config.problems.file", f"a{sign}b"),)) for sign in "/_*"
  ]
  names = [p.name for p in (*long, *paths)]
  assert len(set(names)) == 5
  assert all(len(n) <= 120 and "/" not in n and "*" not in n for n in names)
