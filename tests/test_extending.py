"""The examples of docs/extending.md: each is run, and what it adds is used."""

import importlib
import pathlib
import re

import jax
import numpy as np
import pytest
import tiny_run
from etils import epath

from prefixrl_jax import train
from prefixrl_jax.configs import math, sections
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner import losses
from prefixrl_jax.models import families
from prefixrl_jax.prefixes import schedules
from prefixrl_jax.problems import loading, sources
from prefixrl_jax.settings import fields
from prefixrl_jax.settings import validation as config_lib
from prefixrl_jax.storage.metrics import read_jsonl

pytestmark = pytest.mark.usefixtures("one_device_alone")

_DOC = pathlib.Path(__file__).parents[1] / "docs/extending.md"
_BLOCK = re.compile(
  r"```python\n# (\S+\.py)(, in get_config)?\n(.*?)```", re.DOTALL
)
# What the examples add rows to.
_TABLES = (
  losses.LOSSES,
  fields.LOSSES,
  fields.SCHEDULES,
  schedules.SCHEDULES,
  sources.SOURCES,
  families.FAMILIES,
)


@pytest.fixture
def config():
  """The tiny run's config, after every block of the page was run."""
  before = [dict(table) for table in _TABLES]
  c = tiny_run.config(**{"train.max_steps": 3})
  for file, is_config, code in _BLOCK.findall(_DOC.read_text()):
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    scope = dict(vars(module))
    exec(code, scope | {"c": c, "sections": sections} if is_config else scope)
  config_lib.validate(c)
  yield c
  for table, rows in zip(_TABLES, before):
    table.clear()
    table.update(rows)


def _train(config, arm, folder):
  mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
  session = tiny_run.session(config, mesh)
  train.train(session, tiny_run.data(), epath.Path(folder), arm=arm, seed=0)
  return read_jsonl(epath.Path(folder) / "metrics.jsonl")


def test_every_block_that_names_a_file_is_run():
  blocks = re.findall(r"```python\n(.*)\n", _DOC.read_text())
  named = [line for line in blocks if line.startswith("# prefixrl_jax/")]
  assert len(named) == len(_BLOCK.findall(_DOC.read_text())) == 8
  assert all(
    (_DOC.parents[1] / n.split()[1].rstrip(",")).exists() for n in named
  )


def test_a_loss(config, tmp_path):
  logprobs, behavior = np.log([0.8, 0.2]), np.log([0.2, 0.4])
  loss = losses.make_loss("masked_ratio", cap=3.0)
  ones = np.ones(2)
  value, sums = loss.function(
    losses.Tokens(logprobs, ones > 0, ones, behavior, ones > 0)
  )
  # Ratios of 4, which is masked, and of a half.
  assert float(value) == pytest.approx(-0.5, rel=1e-6)
  assert float(sums["masked"]) == 1
  rows = _train(config, "rl_masked", tmp_path)
  assert len(rows) == 3
  assert {row["train/masked"] for row in rows} == {0}  # on-policy


def test_a_schedule(config, tmp_path):
  config.arms.prefixrl_shrinking.schedule.period = 1
  data = tiny_run.data()
  schedule = schedules.make_schedule(
    problems=data.train,
    prefixed=data.prefixed,
    prompts_per_step=4,
    prefixed_share=1.0,
    cuts_together=False,
    seed=0,
    **config.arms.prefixrl_shrinking.schedule,
  )
  lengths = [
    {p.problem_id: len(p.prefix) for p in schedule.draw(step)}
    for step in range(3)
  ]
  assert all(lengths[0][i] > lengths[1][i] == lengths[2][i] for i in lengths[0])
  rows = _train(config, "prefixrl_shrinking", tmp_path)
  assert all("train/prefixed/reward" in row for row in rows)


def test_a_task(config):
  del config  # it was run
  c = math.get_config("task=digit_sum").problems
  c.update(level="3", num_train=4, num_heldout=1)
  problems = loading.load_problems(c, seed=0)
  assert len({p.prompt for p in problems}) == 5
  for problem in problems:
    [number] = re.findall(r"of (\d+)\?", problem.prompt)
    assert problem.answer == str(sum(map(int, number)))


def test_a_family(config):
  del config
  theirs = dict(
    model_type="llama",
    num_hidden_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=64,
    vocab_size=50,
    rms_norm_eps=1e-5,
  )
  renamed = theirs | {"model_type": "renamed", "ffn_size": 96}
  del renamed["intermediate_size"]
  read = families.config_fields(renamed, "config.json")
  assert read["mlp_width"] == 96
  assert read == families.config_fields(
    theirs | {"intermediate_size": 96}, "config.json"
  )
