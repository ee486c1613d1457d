"""Reading a config's argument, and every check across its fields."""

import re
from typing import Any

import ml_collections

from prefixrl_jax import fields
from prefixrl_jax.problems import symbols
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
  fields.check(config)
  c = config

  def check(condition: bool, message: str) -> None:
    if not condition:
      raise UserError(message)

  _check_arms(c, check)
  if c.problems.task in symbols.TASKS:
    _check_symbols(c, check)
  _check_problems(c.problems, check)
  m = c.mesh
  check(
    list(m.values()).count(-1) <= 1,
    f"config.mesh {m.to_dict()}: at most one size may be -1 (= the rest).",
  )
  r = c.rewards
  check(
    r.timeout_seconds <= r.total_seconds,
    "config.rewards: timeout_seconds <= total_seconds must hold; got"
    f" {r.timeout_seconds} and {r.total_seconds}.",
  )
  p = c.prefixes
  check(
    p.low <= p.high,
    f"config.prefixes: low <= high must hold; got low={p.low}, high={p.high}.",
  )
  check(
    not 0 < c.learner.decay_steps <= c.learner.warmup_steps,
    f"config.learner.decay_steps = {c.learner.decay_steps} counts from the"
    f" first step; it must be above warmup_steps = {c.learner.warmup_steps},"
    " or 0.",
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
    c.export.lora == "merged" or c.lora.rank > 0,
    "config.export.lora = 'peft', but there are no adapters: config.lora.rank"
    " is 0.",
  )


def _check_arms(c: ml_collections.ConfigDict, check) -> None:
  for name in c.arms:
    check(
      bool(re.fullmatch(r"\w[\w.+-]*", name)) and name != "base",
      f"config.arms: {name!r} is no name for an arm; it is the name of a"
      " folder, so letters, digits and _.+- are, but not 'base'.",
    )
  for arm in c.run_arms:
    check(
      arm in c.arms,
      f"there is no arm {arm!r}; config.arms has {', '.join(c.arms)}.",
    )


def _check_symbols(c: ml_collections.ConfigDict, check) -> None:
  """What a model can be whose shape and alphabet are ours."""
  own, m, p = symbols.TASKS[c.problems.task], c.model, c.problems
  for name, size in (("size", p.size), ("easy_size", p.easy_size)):
    check(
      size in own.SIZES,
      f"config.problems.{name} = {size}: problems of {p.task} have"
      f" {own.SIZES[0]} to {own.SIZES[-1]} {own.UNITS}.",
    )
  check(
    m.num_heads % m.num_kv_heads == 0 and m.head_dim % 2 == 0,
    f"config.model: num_kv_heads must divide num_heads, and head_dim be even;"
    f" got {m.num_kv_heads}, {m.num_heads} and {m.head_dim}.",
  )


def _check_problems(p: ml_collections.ConfigDict, check) -> None:
  check(
    p.num_train + p.num_heldout > 0,
    "config.problems: num_train or num_heldout must be above 0.",
  )
  check(
    bool(p.get("name")) or p.task not in ("tfds", "gym"),
    f"config.problems.name is empty; task {p.task!r} needs the name of a data"
    " set.",
  )
