"""Reading a config's argument, and every check across its fields."""

from typing import Any

import ml_collections

from prefixrl_jax.learner.advantages import ESTIMATORS
from prefixrl_jax.problems.symbols import TASKS
from prefixrl_jax.rewards.verifiers import VERIFIERS
from prefixrl_jax.types import UserError


def parse_arg(arg: str, **defaults: Any) -> ml_collections.ConfigDict:
  """Parses what follows the colon of --config=FILE:arg.

  Args:
    arg: "key=value,key=value"; a bare key means true.
    **defaults: the keys there are; a value takes its default's type.

  Raises:
    UserError: an unknown key, or a value that does not parse.
  """
  parsed = ml_collections.ConfigDict(defaults)
  for item in filter(None, arg.split(",")):
    key, _, value = item.partition("=")
    if key not in defaults:
      raise UserError(
        f"--config: there is no argument {key!r}; known are"
        f" {', '.join(defaults)}."
      )
    default = defaults[key]
    if isinstance(default, bool):
      if value.lower() not in ("", "true", "false"):
        raise UserError(f"--config: {key}={value!r} is not true or false.")
      parsed[key] = value.lower() != "false"
      continue
    try:
      parsed[key] = type(default)(value)
    except ValueError:
      raise UserError(
        f"--config: {key}={value!r} is not of type {type(default).__name__}."
      ) from None
  return parsed


def validate(config: ml_collections.ConfigDict) -> None:
  """Raises UserError for the first thing in the config that cannot work."""
  c = config

  def check(condition: bool, message: str) -> None:
    if not condition:
      raise UserError(message)

  for arm in c.run_arms:
    check(
      arm in c.arms,
      f"there is no arm {arm!r}; config.arms has {', '.join(c.arms)}.",
    )
  check(len(set(c.run_arms)) == len(c.run_arms), "an arm is named twice.")
  check(len(c.seeds) > 0, "config.seeds is empty.")
  for name, arm in c.arms.items():
    check(
      0 <= arm.prefixed_share <= 1,
      f"config.arms.{name}.prefixed_share = {arm.prefixed_share} is not in"
      " [0, 1].",
    )
    check(
      arm.sft_epochs >= 0,
      f"config.arms.{name}.sft_epochs = {arm.sft_epochs} is negative.",
    )
  _check_problems(c.problems, check)
  _check_rewards(c.rewards, check)
  p = c.prefixes
  check(
    0 <= p.low <= p.high <= 1 and p.num_cuts > 0,
    f"config.prefixes: 0 <= low <= high <= 1 and num_cuts > 0 must hold; got"
    f" low={p.low}, high={p.high}, num_cuts={p.num_cuts}.",
  )
  check(
    c.learner.advantage in ESTIMATORS,
    f"config.learner.advantage = {c.learner.advantage!r} is none of"
    f" {', '.join(ESTIMATORS)}.",
  )
  check(
    c.model.remat in ("none", "full", "auto"),
    f"config.model.remat = {c.model.remat!r} is none of none, full, auto.",
  )
  check(
    c.learner.rows_per_microbatch >= 0,
    "config.learner.rows_per_microbatch is negative; 0 is as many as fit.",
  )
  check(
    0 < c.learner.discount <= 1,
    f"config.learner.discount = {c.learner.discount} is not in (0, 1].",
  )
  check(
    c.train.completions_per_prompt > 1,
    "config.train.completions_per_prompt must be at least 2: a group of one"
    " has no baseline.",
  )
  check(
    c.train.rows >= 0,
    "config.train.rows is negative; 0 samples all prompts of a step at once.",
  )
  check(
    min(c.train.checkpoint_every, c.train.log_every) > 0,
    "config.train.checkpoint_every and log_every must be at least 1.",
  )
  check(
    c.rollouts.temperature > 0,
    "config.rollouts.temperature must be above 0: training samples.",
  )
  check(
    0 < c.rollouts.top_p <= 1 and c.rollouts.top_k >= 0,
    "config.rollouts: top_p is in (0, 1], top_k at least 0 (off).",
  )
  check(
    c.screen.max_correct < c.screen.num_samples,
    "config.screen.max_correct must be below num_samples.",
  )
  check(
    c.export.arm in ("", *c.arms),
    f"config.export.arm: there is no arm {c.export.arm!r}; config.arms has"
    f" {', '.join(c.arms)}.",
  )
  check(
    c.export.seed in (-1, *c.seeds),
    f"config.export.seed = {c.export.seed} is none of config.seeds,"
    f" {', '.join(map(str, c.seeds))}.",
  )
  check(
    c.export.dtype in ("", "bfloat16", "float32"),
    f"config.export.dtype = {c.export.dtype!r} is neither bfloat16 nor"
    " float32.",
  )
  check(
    c.export.lora in ("merged", "peft"),
    f"config.export.lora = {c.export.lora!r} is neither merged nor peft.",
  )
  check(
    c.export.lora == "merged" or c.lora.rank > 0,
    "config.export.lora = 'peft', but there are no adapters: config.lora.rank"
    " is 0.",
  )
  check(
    c.lora.rank >= 0 and c.lora.alpha > 0,
    f"config.lora: rank {c.lora.rank} must be at least 0 (off), alpha"
    f" {c.lora.alpha} above 0.",
  )
  check(
    c.export.shard_gigabytes > 0,
    "config.export.shard_gigabytes must be above 0.",
  )
  check(
    all(0 < f < 1 for f in c.evals.fractions),
    f"config.evals.fractions {tuple(c.evals.fractions)} must be in (0, 1); 0"
    " is always evaluated.",
  )


def _check_problems(p: ml_collections.ConfigDict, check) -> None:
  check(
    min(p.num_train, p.num_heldout) >= 0 < p.num_train + p.num_heldout,
    "config.problems: num_train and num_heldout are not negative, and one of"
    " them is above 0.",
  )
  if p.task in TASKS:  # their sections are shorter
    return
  check(p.start >= 0, f"config.problems.start = {p.start} is negative.")
  check(
    p.too_long in ("error", "drop"),
    f"config.problems.too_long = {p.too_long!r} is neither error nor drop.",
  )
  check(
    p.max_number > 1,
    f"config.problems.max_number = {p.max_number} must be above 1.",
  )
  check(
    bool(p.name) or p.task not in ("tfds", "gym"),
    f"config.problems.name is empty; task {p.task!r} needs the name of a data"
    " set.",
  )


def _check_rewards(r: ml_collections.ConfigDict, check) -> None:
  check(
    r.verifier in ("", *VERIFIERS),
    f"config.rewards.verifier = {r.verifier!r} is none of"
    f" {', '.join(VERIFIERS)}; empty is the task's own.",
  )
  check(
    r.sandbox in ("bubblewrap", "unsafe_subprocess"),
    f"config.rewards.sandbox = {r.sandbox!r} is neither bubblewrap nor"
    " unsafe_subprocess.",
  )
  check(
    r.num_workers > 0 and r.memory_mb > 0,
    "config.rewards: num_workers and memory_mb must be above 0.",
  )
  check(
    0 < r.timeout_seconds <= r.total_seconds,
    "config.rewards: 0 < timeout_seconds <= total_seconds must hold; got"
    f" {r.timeout_seconds} and {r.total_seconds}.",
  )
