"""Configs: their argument, and the checks across their fields."""

import pytest

from configs import code, demo, gym, logic, math
from prefixrl_jax.config import parse_arg, validate
from prefixrl_jax.types import UserError


@pytest.mark.parametrize(
  ("config", "arg"),
  [
    (demo, ""),
    *(
      (config, arg)
      for config in (math, code, logic, gym)
      for arg in ("", "model=smollm2_135m,trial=true")
    ),
  ],
)
def test_committed_configs_are_valid(config, arg):
  validate(config.get_config(arg))


def test_task_and_level_are_an_argument():
  problems = gym.get_config("task=countdown,level=hard").problems
  assert (problems.task, problems.name) == ("gym", "countdown")
  assert problems.level == "hard"
  problems = logic.get_config("task=countdown,level=4").problems
  assert (problems.task, problems.name) == ("countdown", "")


def test_argument_takes_the_types_of_the_defaults():
  parsed = parse_arg("a=3,b,c=x", a=1, b=False, c="")
  assert parsed.to_dict() == {"a": 3, "b": True, "c": "x"}
  assert parse_arg("b=false", b=True).b is False


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("seed=1", "no argument 'seed'; known are arms, seeds, tiny"),
    ("seeds=many", "seeds='many' is not of type int"),
    ("tiny=perhaps", "'perhaps' is not true or false"),
    ("arms=rl+ppo", "no arm 'ppo'; config.arms has"),
    ("arms=rl+rl", "named twice"),
    ("seeds=0", r"config\.seeds is empty"),
  ],
)
def test_names_a_wrong_argument(arg, message):
  with pytest.raises(UserError, match=message):
    validate(demo.get_config(arg))


def test_what_to_do_with_long_prompts_is_one_of_two():
  config = math.get_config()
  config.problems.too_long = "cut"
  with pytest.raises(UserError, match="neither error nor drop"):
    validate(config)


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    (
      "export.arm",
      "ppo",
      r"export\.arm: there is no arm 'ppo'; config\.arms has",
    ),
    ("export.seed", 3, r"export\.seed = 3 is none of config\.seeds, 0\."),
    ("export.dtype", "int4", "'int4' is neither bfloat16 nor float32"),
    ("export.shard_gigabytes", 0.0, "shard_gigabytes must be above 0"),
    ("export.lora", "peft", r"no adapters: config\.lora\.rank is 0"),
    ("export.lora", "added", "'added' is neither merged nor peft"),
    ("lora.rank", -1, "rank -1 must be at least 0"),
    ("lora.alpha", 0.0, r"alpha 0\.0 above 0"),
    ("arms.rl.prefixed_share", 1.5, r"rl\.prefixed_share = 1\.5"),
    ("arms.sft_rl.sft_epochs", -1, "negative"),
    ("problems.num_train", -1, "num_train and num_heldout are not negative"),
    ("rewards.verifier", "oracle", "'oracle' is none of math, code"),
    ("rewards.sandbox", "none", "'none' is neither bubblewrap nor"),
    ("rewards.num_workers", 0, "num_workers and memory_mb must be above 0"),
    ("rewards.total_seconds", 1.0, r"got\n? ?5\.0 and 1\.0"),
    ("prefixes.low", 0.9, "low=0.9, high=0.8"),
    ("prefixes.num_cuts", 0, "num_cuts=0"),
    ("learner.advantage", "gae", "'gae' is none of"),
    ("learner.discount", 0.0, r"not in \(0, 1\]"),
    ("train.completions_per_prompt", 1, "has no baseline"),
    ("train.log_every", 0, "log_every must be at least 1"),
    ("rollouts.temperature", 0.0, "above 0"),
    ("rollouts.top_p", 0.0, "top_p"),
    ("screen.max_correct", 64, "below num_samples"),
    ("evals.fractions", (0.0, 0.5), "0 is always evaluated"),
  ],
)
def test_names_a_wrong_field(field, value, message):
  config = demo.get_config()
  with config.unlocked():
    config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=message):
    validate(config)
