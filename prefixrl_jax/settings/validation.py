"""Reading a config's argument, and the checks across its fields."""

import importlib.util
import re
from collections.abc import Collection, Iterator
from typing import Any

import ml_collections

from prefixrl_jax.embedded import tasks
from prefixrl_jax.settings import arms, checks, fields, rules
from prefixrl_jax.settings.methods import check_method
from prefixrl_jax.types import UserError

# Arguments that several configs take; a config may have others.
ARGUMENTS = {
  "arms": fields.Field(rules.NAME, "rows of config.arms, + between"),
  "seeds": fields.Field(rules.whole(1, 10_000), "how many runs, from seed 0"),
  "tiny": fields.Field(rules.SWITCH, "for tests: seconds, and no results"),
  "task": fields.Field(
    rules.NAME, "task to train on; docs/tasks.md lists them"
  ),
  "level": fields.Field(rules.TEXT, "difficulty, in the task's own terms"),
  "model": fields.Field(rules.TEXT, "preset of a model; docs/presets.md"),
  "trial": fields.Field(rules.SWITCH, "everything small, as for a CPU"),
}
# The run's own splits; a set's name is that of its split.
_NO_SETS = ("train", "heldout", "heldout_hard", "easy", "problems")
# The argument's keys of the config that was read last, with their defaults.
arguments: dict[str, Any] = {}


def describe(key: str) -> str:
  """Returns what --help says of a key of a config's argument."""
  known = ARGUMENTS.get(key)
  return f"{known.help} ({known.rule.words})" if known else ""


def parse_arg(arg: str, **defaults: Any) -> ml_collections.ConfigDict:
  """Parses what follows the colon of --config=FILE:arg.

  Args:
    arg: "key=value,key=value"; a bare key means true.
    **defaults: the known keys; a value has its default's type.

  Raises:
    UserError: an unknown key, or a value that does not parse.
  """
  arguments.clear()
  arguments.update(defaults)
  parsed = ml_collections.ConfigDict(defaults)
  for item in filter(None, arg.split(",")):
    key, _, text = item.partition("=")
    key, text = key.strip(), text.strip()
    if key not in defaults:
      raise UserError(
        f"--config: there is no argument {key!r}; known: {', '.join(defaults)}."
      )
    value = _parsed(key, text, type(defaults[key]))
    known = ARGUMENTS.get(key)
    if known and not known.rule.allows(value):
      raise UserError(f"--config: {key}={text} is not {known.rule.words}.")
    parsed[key] = value
  return parsed


def _parsed(key: str, text: str, kind: type) -> Any:
  if kind is bool:
    if text.lower() not in ("", "true", "false"):
      raise UserError(f"--config: {key}={text!r} is not true or false.")
    return text.lower() != "false"
  try:
    return kind(text)
  except ValueError:
    raise UserError(
      f"--config: {key}={text!r} is not of type {kind.__name__}."
    ) from None


def validate(
  config: ml_collections.ConfigDict, stages: Collection[str] = ()
) -> None:
  """Raises UserError for the first thing in the config that cannot work.

  Args:
    config: the whole of it.
    stages: that will run.
  """
  checks.check(config)
  c = config

  def check(condition: bool, message: str) -> None:
    if not condition:
      raise UserError(message)

  _check_arms(c, check)
  # Otherwise found only after a model is loaded or problems are screened.
  needed = [s for s in ("import", "collect", "cut", "train") if s in stages]
  check(
    c.problems.num_train > 0 or not needed,
    f"config.problems.num_train = 0, but --stage={','.join(needed)} needs"
    " training problems.",
  )
  check(
    bool(c.model.folder) or "export" not in stages,
    "--stage=export: the embedded task's model is of no Hugging Face family;"
    " only what began as a Hugging Face folder (config.model.folder) can be"
    " exported.",
  )
  if c.problems.task in tasks.TASKS:
    _check_symbols(c, check)
  _check_problems(c.problems, check)
  _check_tasks(c.problems)
  _check_sets(c, check)
  _check_functions(c, check)
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
  _check_export(c, check)
  check(
    not c.wandb.project or _is_installed("wandb"),
    "config.wandb.project is set, but wandb is not installed: pip install"
    " 'prefixrl_jax[wandb]'.",
  )


def notes(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields a line for each way in which the run departs from the config.

  Args:
    config: validated.
  """
  if not config.problems.num_heldout:
    yield (
      "config.problems.num_heldout = 0: there will be no accuracy on problems"
      " that are not trained on"
    )
  prompts = config.train.prompts_per_step
  for name in config.run_arms:
    share = config.arms[name].prefixed_share
    count = round(share * prompts)
    if abs(count - share * prompts) > 1e-6:
      yield (
        f"config.arms.{name}.prefixed_share = {share:g} of"
        f" config.train.prompts_per_step = {prompts} is no whole number of"
        f" problems; {count}, a share of {count / prompts:.3g}, are prefixed"
      )


def _check_export(c: ml_collections.ConfigDict, check) -> None:
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


def _is_installed(package: str) -> bool:
  try:
    return importlib.util.find_spec(package) is not None
  except ValueError:  # it was imported without being findable
    return False


def _check_arms(c: ml_collections.ConfigDict, check) -> None:
  for name in c.arms:
    check(
      bool(re.fullmatch(r"\w[\w.+-]*", name)) and name != "base",
      f"config.arms: {name!r} cannot be the name of an arm, which names a"
      " folder: use letters, digits and _.+-, and not 'base'.",
    )
  for arm in c.run_arms:
    check(
      arm in c.arms,
      f"there is no arm {arm!r}; config.arms has {', '.join(c.arms)}.",
    )
    check_method(c, arm, check)
    schedule = c.arms[arm].schedule
    check(
      schedule.get("low", 0) <= schedule.get("high", 0),
      f"config.arms.{arm}.schedule: low <= high must hold; got"
      f" {schedule.to_dict()}.",
    )
    share, prompts = c.arms[arm].prefixed_share, c.train.prompts_per_step
    count = round(share * prompts)
    check(
      share in (0, 1) or 0 < count < prompts,
      f"config.arms.{arm}.prefixed_share = {share:g} of"
      f" config.train.prompts_per_step = {prompts} is rounded to {count} of"
      f" them, so that one kind is left out; shares are whole {prompts}ths.",
    )


def _check_symbols(c: ml_collections.ConfigDict, check) -> None:
  """Checks the model and problems of an embedded task."""
  own, m, p = tasks.TASKS[c.problems.task], c.model, c.problems
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


def _check_tasks(p: ml_collections.ConfigDict) -> None:
  """Checks sources by name; nothing has been read yet."""
  # Imported here, so that --help answers at once.
  from prefixrl_jax.problems.streams import find_source

  if p.task in tasks.TASKS:
    return
  excluded = [item.partition("=")[0] for item in p.exclude.split(",")]
  for task in (p.task, p.heldout.task, *excluded):
    if task.strip():
      find_source(p, task.strip())


def _check_sets(c: ml_collections.ConfigDict, check) -> None:
  """What is only evaluated on; rows that are not asked for may be anything."""
  # Imported here, so that --help answers at once.
  from prefixrl_jax.problems.streams import find_source

  sets, task = c.evals.sets, c.problems.task
  for name in arms.listed(c.evals.run_sets):
    field = f"config.evals.sets.{name}"
    check(
      name in sets,
      f"config.evals.run_sets: there is no set {name!r}; config.evals.sets has"
      f" {', '.join(sets) or 'none'}.",
    )
    check(
      bool(re.fullmatch(r"\w[\w.-]*", name)) and name not in _NO_SETS,
      f"config.evals.sets: {name!r} is no name for a set; it is the name of a"
      " folder, so letters, digits and _.- are, but not"
      f" {', '.join(_NO_SETS)}.",
    )
    row = sets[name]
    if task in tasks.TASKS:
      own = tasks.TASKS[task]
      check(
        row.size in own.SIZES,
        f"{field}.size = {row.size}: problems of {task} have {own.SIZES[0]} to"
        f" {own.SIZES[-1]} {own.UNITS}.",
      )
      check(
        row.num_problems > 0,
        f"{field}.num_problems = 0, but its problems are drawn; say how many.",
      )
      continue
    find_source(c.problems, row.task)
    check(
      bool(row.name) or row.task not in ("tfds", "gym"),
      f"{field}.name is empty; task {row.task!r} needs the name of a data set.",
    )
    check(
      bool(row.file) or row.task != "jsonl",
      f"{field}.file is empty; give a file of problems.",
    )


def _check_functions(c: ml_collections.ConfigDict, check) -> None:
  """Functions of the user's: they are read here, before anything else is."""
  # Imported here, so that --help answers at once.
  from prefixrl_jax.problems import own as own_problems
  from prefixrl_jax.rewards import own as own_reward

  r, p = c.rewards, c.problems
  check(
    bool(r.function) or r.verifier != "function",
    "config.rewards.verifier = 'function' needs config.rewards.function,"
    " FILE.py:NAME.",
  )
  check(
    not r.function or r.verifier in ("", "function"),
    "config.rewards: there can be a verifier or a function, not both; got"
    f" {r.verifier!r} and {r.function!r}.",
  )
  others = [p.get("file", ""), *dict(p.get("heldout", {})).values()]
  check(
    not p.function or not any(others),
    "config.problems.function gives all problems; leave file and heldout"
    " empty.",
  )
  if r.function:
    own_reward.check(r.function)
  if p.function:
    own_problems.check(p.function)


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
