"""Configs: their argument, and the checks across their fields."""

import ast
import importlib.util
import math as numbers
import pathlib
import re
import sys

import ml_collections
import pytest

from prefixrl_jax.configs import (
  code,
  countdown,
  demo,
  gym,
  logic,
  math,
  sections,
  skills,
  stories,
  tasks,
  words,
)
from prefixrl_jax.settings import checks, fields
from prefixrl_jax.settings.validation import parse_arg, validate
from prefixrl_jax.types import UserError

_OWN = (demo, countdown, skills, stories)
_REAL = (math, code, logic, gym, words)


@pytest.mark.parametrize(
  ("config", "arg"),
  [
    *((config, arg) for config in _OWN for arg in ("", "tiny")),
    *(
      (config, arg)
      for config in _REAL
      for arg in ("", "model=smollm2_135m,trial=true")
    ),
  ],
)
def test_committed_configs_are_valid(config, arg):
  validate(config.get_config(arg))


_ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("own", [*_OWN, *_REAL])
def test_the_file_in_configs_is_the_package_s(own):
  """It imports nothing that an installed package does not have."""
  name = own.__name__.rpartition(".")[2]
  file = _ROOT / "configs" / f"{name}.py"
  assert "from configs" not in file.read_text()
  spec = importlib.util.spec_from_file_location(f"copy_of_{name}", file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  for arg in ("", "seeds=2,arms=rl"):
    assert module.get_config(arg).to_dict() == own.get_config(arg).to_dict()


def _makers(config):
  """Section -> what makes it, of `c.SECTION = MAKER(...)`."""
  body = ast.walk(ast.parse(pathlib.Path(config.__file__).read_text()))
  return {
    ast.unparse(node.targets[0]): ast.unparse(node.value.func)
    for node in body
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
  }


def test_a_default_that_all_configs_have_stands_once():
  """A new field is one edit, in sections.py, and not one in each config."""
  one, other = _makers(demo), _makers(tasks)
  alike = {name for name in one.keys() & other.keys() if name.startswith("c.")}
  assert {"c.learner", "c.rollouts", "c.train", "c.evals"} <= alike
  # Other fields in each: whose task it is decides.
  alike -= {"c.problems", "c.pretrain", "c.arms", "c.seeds", "c.run_arms"}
  for name in alike:
    maker = f"sections.{name.removeprefix('c.')}"
    assert one[name] == other[name] == maker, name


def test_wandb_is_named_before_anything_if_it_is_missing(monkeypatch):
  config = demo.get_config()
  config.wandb.project = "p"
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(UserError, match=r"prefixrl_jax\[wandb\]"):
    validate(config)


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
    ("seed=1", "no argument 'seed'; known: arms, seeds, tiny"),
    ("seeds=many", "seeds='many' is not of type int"),
    ("tiny=perhaps", "'perhaps' is not true or false"),
    ("arms=rl+prl", "no arm 'prl'; config.arms has"),
    ("arms=rl+rl", "run_arms = .* a list of different values"),
  ],
)
def test_names_a_wrong_argument(arg, message):
  with pytest.raises(UserError, match=message):
    validate(demo.get_config(arg))


def test_what_to_do_with_long_prompts_is_one_of_two():
  config = math.get_config()
  config.problems.too_long = "cut"
  with pytest.raises(UserError, match="not one of 'error', 'drop'"):
    validate(config)


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    (
      "export.arm",
      "prl",
      r"export\.arm: there is no arm 'prl'; config\.arms has",
    ),
    ("export.seed", 3, r"export\.seed = 3 is none of config\.seeds, 0, 1, 2\."),
    ("export.dtype", "int4", "'int4' is not one of '', 'float32', 'bfloat16'"),
    ("export.shard_gigabytes", 0.0, r"= 0\.0 is not a number in \(0"),
    *(
      ("export.hub", name, "is not ORGANISATION/NAME or empty")
      for name in ("tiny", "a/b/c", "a/b.git", "a/b--c", "a /b", "a/-b", 3)
    ),
    ("export.lora", "peft", r"no adapters: config\.lora\.rank is 0"),
    ("export.lora", "added", "'added' is not one of 'merged', 'peft'"),
    ("lora.rank", -1, "rank = -1 is not a whole number, at least 0"),
    ("lora.alpha", 0.0, r"alpha = 0\.0 is not"),
    ("arms.rl.prefixed_share", 1.5, r"rl\.prefixed_share = 1\.5 is not"),
    ("arms.sft_rl.sft_epochs", -1, "sft_epochs = -1 is not"),
    ("problems.num_train", -1, "num_train = -1 is not"),
    ("problems.num_easy", 2**31 - 1, "from 0 to 10000000"),
    ("rewards.memory_mb", 1, "memory_mb = 1 is not .* at least 64"),
    ("rewards.num_workers", 10**6, "from 0 to 4096"),
    ("problems.size", 11, "problems of checksum have 1 to 10 blocks"),
    ("rewards.verifier", "oracle", "'oracle' is not one of '', 'math'"),
    ("rewards.sandbox", "none", "'none' is not one of 'bubblewrap', 'unsafe"),
    ("rewards.total_seconds", 1.0, r"got\n? ?5\.0 and 1\.0"),
    ("prefixes.low", 0.9, "low=0.9, high=0.8"),
    ("learner.advantage", "gea", "'gea' is not one of 'group_mean'"),
    ("learner.discount", 0.0, r"discount = 0\.0 is not a number in \(0, 1\]"),
    ("learner.decay_steps", 30, r"must be above warmup_steps = 30"),
    ("train.completions_per_prompt", 1, "at least 2 .*baseline"),
    ("train.prompts_per_step", 1, "is rounded to [01] of them"),
    ("train.log_every", 0, "log_every = 0 is not"),
    ("rollouts.temperature", 0.0, r"temperature = 0\.0 is not"),
    ("rollouts.top_p", 0.0, "top_p"),
    ("screen.max_correct", 64, "below num_samples"),
    ("evals.fractions", (0.0, 0.5), "0 is always evaluated"),
    ("evals.fractions", (0.5, 0.5), "different values"),
    # What ran, and ended later or not at all.
    ("rollouts.steps_per_dispatch", 0, "steps_per_dispatch = 0 is not"),
    ("train.checkpoints_kept", 0, "checkpoints_kept = 0 is not"),
    ("train.rollouts_kept.share", 1.5, "rollouts_kept.share = 1.5 is not"),
    ("train.rollouts_kept.max_megabytes", 0, "max_megabytes = 0 is not"),
    ("evals.num_samples", 0, "num_samples = 0 is not"),
    ("evals.curve_points", 0, "curve_points = 0 is not"),
    ("evals.final_problems", -1, "final_problems = -1 is not"),
    ("evals.curve_problems", -1, "curve_problems = -1 is not"),
    ("evals.curve_temperature", -0.1, "curve_temperature = -0.1 is not"),
    (
      "evals.run_sets",
      "longer",
      "no set 'longer'; config.evals.sets has short",
    ),
    ("evals.curve_samples", 0, "curve_samples = 0 is not"),
    ("evals.lanes", 0, "lanes = 0 is not"),
    ("screen.rows", 0, "rows = 0 is not"),
    ("collect.budget", 0, "budget = 0 is not"),
    ("collect.problems_per_part", 0, "problems_per_part = 0 is not"),
    ("sft.batch_size", 0, "batch_size = 0 is not"),
    ("sft.learning_rate", -1e-4, "learning_rate = -0.0001 is not"),
    ("train.prompts_per_step", 0, "prompts_per_step = 0 is not"),
    ("train.flops", -1.0, "flops = -1.0 is not"),
    ("train.flops", numbers.inf, "flops = inf is not"),
    ("arms.rl.learning_rate", numbers.nan, "learning_rate = nan is not"),
    ("learner.logits_chunk_length", 0, "logits_chunk_length = 0 is not"),
    ("learner.optimizer.b1", 1.0, r"b1 = 1\.0 is not a number in \[0, 1\)"),
    ("learner.kl_coefficient", -0.1, "kl_coefficient = -0.1 is not"),
    ("model.dtype", "float8", "'float8' is not one of 'float32', 'bfloat16'"),
    ("model.head_dim", 15, "head_dim be even"),
    ("model.num_kv_heads", 3, "must divide num_heads"),
    ("mesh.data", 0, "data = 0 is not a whole number, at least 1, or -1"),
    ("mesh.fsdp", -1, "at most one size may be -1"),
    ("seeds", (), r"config\.seeds = \(\) is not a list of different values"),
    ("seeds", (-1,), "at least 0"),
    ("run_arms", (), "run_arms"),
    ("train", 3, r"config\.train = 3 is not a section"),
    ("pretrain.phases", (), r"phases = \(\) is not a list of sections"),
    ("pretrain.phases", ({"num_steps": 1},), "learning_rate .* is missing"),
    ("problems.num_train", 3.0, r"num_train = 3\.0 is not a whole number"),
    ("train.max_steps", True, "max_steps = True is not a whole number"),
    ("train.max_steps", "3", "max_steps = '3' is not a whole number"),
    (
      "wandb_project",
      "mine",
      r"no field config\.wandb_project; it is config\.wandb\.project now",
    ),
    ("train.flopz", 1.0, r"no field config\.train\.flopz; did you mean flops"),
    ("arms.rl.rate", 1.0, r"no field config\.arms\.rl\.rate"),
    ("arms.base", {}, r"config\.arms\.base\.prefixed_share .*is missing"),
  ],
)
def test_names_a_wrong_field(field, value, message):
  config = demo.get_config()
  _set(config, field, value)
  with pytest.raises(UserError, match=message):
    validate(config)


def _set(config, field, value):
  """Sets a field as a config file may, to a value of whatever type."""
  *sections, name = field.split(".")
  for section in sections:
    config = config[section]
  with config.ignore_type():
    config[name] = value


@pytest.mark.parametrize("name", ["base", "a/b", "-x", "a b"])
def test_an_arm_s_name_is_that_of_a_folder(name):
  config = demo.get_config()
  config.arms[name] = dict(config.arms.rl)
  with pytest.raises(UserError, match="cannot be the name of an arm"):
    validate(config)


def test_only_training_needs_training_problems():
  config = math.get_config()
  config.problems.num_train = 0
  validate(config, ("screen", "evaluate"))
  for stage in ("import", "collect", "cut", "train"):
    with pytest.raises(UserError, match=rf"--stage={stage} needs training"):
      validate(config, ("screen", stage))
  config.problems.num_heldout = 0
  with pytest.raises(UserError, match="num_train or num_heldout must be above"):
    validate(config, ("problems",))


_ALL = {"demo": demo, "countdown": countdown, "math": math, "gym": gym}


@pytest.mark.no_cover
@pytest.mark.parametrize("name", _ALL)
def test_every_field_has_a_rule_that_refuses_nonsense(name):
  """What is in no table is refused, so that a new field needs a rule."""
  config = _ALL[name].get_config().to_dict()
  checks.check(config)
  plain = _one_of_a_kind(config)
  assert len(plain) > 80
  for path, right in plain.items():
    section, last = _place(config, path)
    values = (None, numbers.nan, -5, b"", {"a": 1}, [[]])
    for value in (*values, *(("",) if type(right) in (int, float) else ())):
      section[last] = value
      with pytest.raises(UserError, match=rf"config\.{path}") as e:
        checks.check(config)
      assert "\n" not in str(e.value)
    section[last] = right


def _place(config, path):
  """The section of a field, in a config as plain dicts, and the field's name.

  ConfigDict takes most of the time of thousands of checks.
  """
  *sections, last = path.split(".")
  for section in sections:
    config = config[section]
  return config, last


@pytest.mark.parametrize(
  "template", ["", "{prompt} and a hint", "{hint}", "{prompt}{ hint }", "{}{}"]
)
def test_a_template_of_hints_shows_problem_and_hint(template):
  config = math.get_config()
  config.problems.hint = template
  with pytest.raises(UserError, match=r"problems\.hint = .*{prompt}.*{hint}"):
    validate(config)
  config.problems.hint = "{hint}{prompt}"
  validate(config)


def _one_of_a_kind(config):
  """Fields {path: value}; of an arm's, each in the first arm that has it."""
  values, kinds = dict(_paths(config)), {}
  for path in values:
    kinds.setdefault(re.sub(r"^(arms|evals\.sets)\.\w+", r"\1", path), path)
  return {path: values[path] for path in kinds.values()}


def _paths(section, path=""):
  for name, value in section.items():
    if hasattr(value, "items"):
      yield from _paths(value, f"{path}{name}.")
    else:
      yield path + name, value


@pytest.mark.no_cover
@pytest.mark.parametrize("name", _ALL)
def test_a_field_that_is_missing_is_named(name):
  config = _ALL[name].get_config().to_dict()
  for path in _one_of_a_kind(config):
    if re.match(r"arms\.\w+\.learner\.", path):
      continue  # what an arm has otherwise; config.learner has all
    section, last = _place(config, path)
    right = section.pop(last)
    with pytest.raises(UserError, match=rf"{path}.* is missing|another kind"):
      checks.check(config)
    section[last] = right
  checks.check(config)


def test_every_row_of_the_table_is_a_field_of_some_config():
  there = set()
  for config in (demo.get_config(), countdown.get_config(), math.get_config()):
    there |= set(dict(_paths(config)))
    for phase in config.pretrain.get("phases", ()):
      there |= {f"pretrain.phases.N.{p}" for p in dict(_paths(phase))}
  there = {re.sub(r"\b(arms|sets)\.\w+\.", r"\1.NAME.", p) for p in there}
  for task in ("", "checksum", "countdown_steps"):
    for path, field in fields.leaves(fields.tree_of(task)):
      assert path in there
      assert field.help


def test_a_task_of_the_other_kind_of_config_is_named():
  config = demo.get_config()
  config.problems.task = "math500"
  for wrong in (config, math.get_config("task=checksum")):
    with pytest.raises(UserError, match="needs a config of another kind"):
      validate(wrong)


@pytest.mark.parametrize(
  "fields",
  [
    {"task": "nonsense"},
    {"heldout.task": "nonsense"},
    {"exclude": "gsm8k=a.jsonl, nonsense=b.jsonl"},
  ],
)
def test_a_task_that_there_is_not_is_named_before_anything_is_read(fields):
  config = math.get_config("task=gsm8k")
  config.problems.update_from_flattened_dict(fields)
  with pytest.raises(UserError, match=r"'nonsense' is none of .*, gsm8k, "):
    validate(config)


_EXECUTION = """
mesh.data mesh.fsdp mesh.tensor mesh.expert
model.remat model.scan_unroll
rewards.num_workers rewards.timeout_seconds rewards.total_seconds
screen.rows screen.lanes screen.problems_per_part
collect.rows collect.lanes collect.problems_per_part
rollouts.steps_per_dispatch
learner.rows_per_microbatch learner.logits_chunk_length learner.row_length
learner.skip_nonfinite learner.norms_by_kind
train.rows train.checkpoint_every train.checkpoints_kept train.log_every
train.rollouts_kept.share train.rollouts_kept.max_megabytes
evals.rows evals.lanes
export.lora export.arm export.seed export.step export.directory export.dtype
export.shard_gigabytes export.hub
profile.steps
wandb.project wandb.mode wandb.name wandb.group wandb.resume
"""


def test_says_what_changes_only_how_results_are_computed():
  """No other field does: the rest is what a workdir is refused for."""
  found = {
    path
    for task in ("", "checksum", "countdown_steps")
    for path, _ in fields.leaves(fields.tree_of(task))
    if fields.is_execution(path)
  }
  assert found == set(_EXECUTION.split())
  for path in ("pretrain.phases.0.noise", "problems", "no.such.field"):
    assert not fields.is_execution(path)


@pytest.mark.parametrize(
  ("arm", "fields", "message"),
  [
    ("ppo", {"learner.critic.kind": "none"}, r"missing is .*critic\.kind=head"),
    ("ppo", {"learner.advantage": "group_mean"}, r"missing is .*advantage=gae"),
    ("luffy", {"trace_lanes": 0}, r"luffy learns from traces; set trace_lanes"),
    ("luffy", {"trace_lanes": 9}, r"trace_lanes = 9 is more than .* size, 8"),
    ("luffy", {"trace_lanes": 7}, None),
    ("rl_sft_loss", {"trace_lanes": 7}, r"a single completion is its own"),
    (
      "off_policy",
      {"learner.trace_advantage": "group"},
      r"a group of 1 is its own baseline",
    ),
    ("off_policy", {"schedule": sections.ADAPTIVE}, r"samples nothing"),
    ("ppo", {"trace_lanes": 1}, r"a critic has no say on traces"),
    ("ppo", {"loss.dual_clip": 0.5}, r"dual_clip = 0\.5 must be above 1"),
    ("ppo", {"learner.num_minibatches": 99}, r"99 mini-batches of .* = 16"),
    ("rl_entropy", {"learner.entropy_coefficient": -1.0}, r"is not a number"),
    ("rl_easy", {}, r"num_easy_train is 0"),
    ("prefixrl", {"easy_share": 0.75}, r"together are 1.5, above 1"),
    ("luffy", {"easy_share": 0.5}, r"easy problems have no traces"),
    ("dapo", {"learner.truncated": "cut"}, r"'cut' is not one of 'wrong'"),
    ("dapo", {"loss.importance": "word"}, r"'word' is not one of 'none'"),
  ],
)
def test_parts_of_a_method_that_need_each_other(arm, fields, message):
  config = demo.get_config(f"arms={arm}")
  for path, value in fields.items():
    *parts, last = path.split(".")
    section = config.arms[arm]
    for part in parts:
      section = section[part]
    section[last] = value
  if message is None:
    return validate(config)
  with pytest.raises(UserError, match=message):
    validate(config)


@pytest.mark.parametrize(
  ("learner", "message"),
  [
    ({"kl_target": 0.1}, "adapts learner.kl_coefficient, which is 0"),
    ({"row_length": 64}, "it is one for all arms"),
    ({"num_minibatch": 2}, "no field .*; did you mean num_minibatches"),
    (
      {"critic": {"kinds": "head"}},
      "no field .*critic.kinds; did you mean kind",
    ),
  ],
)
def test_what_an_arm_has_otherwise_than_the_learner(learner, message):
  config = demo.get_config("arms=rl")
  config.arms.rl.learner = ml_collections.ConfigDict(learner)
  with pytest.raises(UserError, match=message):
    validate(config)


def test_every_arm_of_every_config_is_allowed():
  for module in _ALL.values():
    config = module.get_config()
    config.run_arms = tuple(config.arms)
    if "num_easy_train" in config.problems:
      with pytest.raises(UserError, match="num_easy_train is 0"):
        validate(config)
      config.problems.num_easy_train = 4
    validate(config)
