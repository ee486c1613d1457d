"""Rewards and problems of the user's: the page's examples, and mistakes."""

import json
import os
import pathlib
import re
import types

import pytest
from etils import epath

from prefixrl_jax import user_code
from prefixrl_jax.configs import demo, math
from prefixrl_jax.pipeline import Pipeline
from prefixrl_jax.problems import loading, own
from prefixrl_jax.problems.streams import EVALUATED, REPEATED, TOO_LONG, Limit
from prefixrl_jax.rewards.own import FunctionVerifier
from prefixrl_jax.run.inputs import Inputs, verifier_name
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.settings.validation import validate
from prefixrl_jax.types import Problem, UserError, Verdict

pytestmark = pytest.mark.usefixtures("one_device_alone")

_DOC = pathlib.Path(__file__).parents[1] / "docs/own_tasks.md"
_BLOCK = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.DOTALL)


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Returns a writer of files; what they are named is relative to them."""
  monkeypatch.chdir(tmp_path)

  def write(name, text):
    (tmp_path / name).write_text(text)
    user_code.contents.cache_clear()  # as in another process
    return name

  return write


@pytest.fixture
def examples(write):
  for name, text in _BLOCK.findall(_DOC.read_text()):
    write(name, text)


def _problem(i=0, answer="7"):
  return Problem(f"p{i}", f"{i}?", answer, "", "train", i)


def _judge(function, problems, texts, **settings):
  settings = dict(num_workers=1, timeout_seconds=20.0) | settings
  verifier = FunctionVerifier(function=function, **settings)
  try:
    return verifier.judge(problems, texts)
  finally:
    verifier.close()


# -- the page's examples -------------------------------------------------------


def test_the_page_s_reward(examples):
  texts = [
    "It is 7.",
    r"\boxed{7}",
    r"\boxed{7} or \boxed{8}",
    "",
    r"\boxed{8}, no: 7",
  ]
  verdicts = _judge("reward.py:boxed_number", [_problem()] * 5, texts)
  assert [v.reward for v in verdicts] == [0.5, 1.0, 0.0, 0.0, 0.5]


def test_the_page_s_problems(examples):
  config = math.get_config()
  config.problems.update(
    function="sums.py:sums", num_train=20, num_heldout=5, instruction="Go."
  )
  validate(config)
  train, heldout = loading.load_parts(config.problems, seed=3)
  assert (len(train.problems), len(heldout.problems)) == (20, 5)
  for part, low in ((train, 10), (heldout, 100)):
    for p in part.problems:
      a, b = map(int, re.findall(r"\d+", p.prompt))
      assert p.answer == str(a + b)
      assert min(a, b) >= low
      assert p.prompt.endswith("? Go.")
  indices = [p.index for part in (train, heldout) for p in part.problems]
  assert len(set(indices)) == 25
  again = loading.load_parts(config.problems, seed=3)
  assert [p.problems for p in again] == [train.problems, heldout.problems]
  other = loading.load_parts(config.problems, seed=4)
  assert other[0].problems != train.problems


# -- rewards -------------------------------------------------------------------


def test_a_config_s_reward_replaces_its_verifier(examples):
  config = math.get_config()
  config.rewards.function = "reward.py:boxed_number"
  validate(config)
  assert verifier_name(config) == "function"
  config.rewards.verifier = "math"
  with pytest.raises(UserError, match="verifier or a function, not both"):
    validate(config)
  config.rewards.update(verifier="function", function="")
  with pytest.raises(UserError, match=r"needs config\.rewards\.function"):
    validate(config)


def test_texts_are_judged_in_their_order_by_several_processes(write):
  write(
    "r.py",
    "def f(problems, texts):\n"
    "  for p, t in zip(problems, texts):\n"
    "    yield float(t) * (p.answer == '7')\n",
  )
  problems = [_problem(i, "7" if i % 3 else "8") for i in range(50)]
  texts = [str(i / 50) for i in range(50)]
  verdicts = _judge("r.py:f", problems, texts, num_workers=2)
  assert [v.reward for v in verdicts] == [
    i / 50 if i % 3 else 0.0 for i in range(50)
  ]
  assert _judge("r.py:f", [], []) == []


def test_numbers_of_any_kind_are_rewards(write):
  write(
    "r.py",
    "import numpy as np\nfrom fractions import Fraction\n"
    "def f(problems, texts):\n"
    "  return [True, 0, np.float32(0.5), np.array(0.25), Fraction(1, 8),"
    " np.bool_(True)]\n"
    "def g(problems, texts):\n"
    "  return np.linspace(0, 1, 3)\n",
  )
  verdicts = _judge("r.py:f", [_problem()] * 6, [""] * 6)
  assert [v.reward for v in verdicts] == [1, 0, 0.5, 0.25, 0.125, 1]
  verdicts = _judge("r.py:g", [_problem()] * 3, [""] * 3)
  assert [v.reward for v in verdicts] == [0, 0.5, 1]


def test_only_a_text_that_is_to_blame_is_wrong(write):
  write(
    "r.py",
    "import os, time\n"
    "def f(problems, texts):\n"
    "  if 'hang' in texts:\n    time.sleep(60)\n"
    "  if 'die' in texts:\n    os._exit(3)\n"
    "  if 'eat' in texts:\n    bytearray(8 << 30)\n"
    "  return [1.0] * len(texts)\n",
  )
  texts = ["a", "hang", "b", "die", "c", "eat", "d"]
  verdicts = _judge("r.py:f", [_problem()] * 7, texts, timeout_seconds=0.5)
  right, dead = Verdict(1.0), Verdict(0.0, died=True)
  late = Verdict(0.0, timed_out=True)
  assert verdicts == [right, late, right, dead, right, dead, right]


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("return [0.5, float('nan')]", "r.py:3: f returns nan as reward of text 1"),
    ("return [0.5, float('inf')]", "r.py:3: f returns inf as reward of text 1"),
    ("return [0.5, 1.5]", "r.py:3: f returns 1.5 as reward of text 1"),
    ("return [-0.1, 1]", "r.py:3: f returns -0.1 as reward of text 0"),
    ("return [1]", "r.py:3: f returns 1 rewards for 2 texts"),
    ("return []", "r.py:3: f returns 0 rewards for 2 texts"),
    ("return None", r"r.py:3: f returns None (NoneType), no list of rewards"),
    ("return 1.0", "r.py:3: f returns 1.0 (float), no list"),
    ("return '11'", "r.py:3: f returns '11' (str), no list"),
    ("return {0: 1, 1: 1}", "r.py:3: f returns {0: 1, 1: 1} (dict), no list"),
    ("return ['1', 1]", "r.py:3: f returns '1' (str) as reward of text 0"),
    ("return [1, None]", "f returns None (NoneType) as reward of text 1"),
    ("return [1, [1]]", "f returns [1] (list) as reward of text 1"),
    ("return 1 / 0", "r.py:4: ZeroDivisionError: division by zero. Return 0"),
    ("return helper(texts)", "r.py:2: KeyError: 'x'. Return 0"),
    ("raise SystemExit(3)", "r.py:4: SystemExit: 3"),
    ("yield 1; texts[9]", "r.py:4: IndexError: list index out of range"),
  ],
)
def test_what_is_no_reward_is_said_with_file_and_line(write, body, message):
  write(
    "r.py",
    "def helper(x):\n  raise KeyError('x')\n"
    f"def f(problems, texts):\n  {body}\n",
  )
  with pytest.raises(UserError) as e:
    _judge("r.py:f", [_problem()] * 2, ["a", "b"], num_workers=1)
  assert str(e.value).startswith("config.rewards.function: r.py:")
  assert message in str(e.value)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("place", "text", "message"),
  [
    ("absent.py:f", "", "absent.py cannot be read: No such file"),
    ("r.py", "", "'r.py' is not of the form FILE.py:FUNCTION"),
    ("r.py:", "", "is not of the form FILE.py:FUNCTION"),
    ("r.txt:f", "", "is not of the form FILE.py:FUNCTION"),
    ("r.py:g", "def f(): pass", "r.py has no function 'g'; it has f."),
    ("r.py:g", "g = 3", "r.py has no function 'g'."),
    ("r.py:f", "def f(texts): pass", "r.py:1: it will be called as f("),
    ("r.py:f", "\ndef f(a, b, c): pass", "r.py:2: it will be called as f("),
    ("r.py:f", "async def f(a, b): pass", "r.py:1: f is async"),
    (
      "r.py:f",
      "\nimport no_such_module",
      "r.py:2: ModuleNotFoundError: No mod",
    ),
    ("r.py:f", "x = (\n", "r.py:1: '(' was never closed"),
    ("r.py:f", "\n\n1 / 0", "r.py:3: ZeroDivisionError: division by zero"),
    ("r.py:f", "\0", "r.py"),
    ("r.py:f", "raise SystemExit", "r.py:1: SystemExit"),
  ],
)
@pytest.mark.parametrize("section", ["rewards", "problems"])
def test_what_is_no_function_is_said_before_anything(
  write, section, place, text, message
):
  write("r.py", text)
  config = demo.get_config("tiny=true")
  config[section].function = place
  with pytest.raises(UserError) as e:
    validate(config)
  assert str(e.value).startswith(f"config.{section}.function")
  assert message in str(e.value)
  assert "\n" not in str(e.value)


def test_functions_of_any_kind_are_called(write):
  write(
    "r.py",
    "import functools\n"
    "class Judge:\n"
    "  def __call__(self, problems, texts):\n    return [0.5] * len(texts)\n"
    "a = Judge()\n"
    "def _b(reward, problems, texts):\n  return [reward] * len(texts)\n"
    "b = functools.partial(_b, 0.25)\n"
    "def c(problems, texts, scale=0.75):\n  return [scale] * len(texts)\n"
    "def d(*both):\n  return [0.125]\n",
  )
  for name, reward in (("a", 0.5), ("b", 0.25), ("c", 0.75), ("d", 0.125)):
    [verdict] = _judge(f"r.py:{name}", [_problem()], [""])
    assert verdict.reward == reward


def test_a_file_that_is_edited_meanwhile_is_judged_with_as_it_was(write):
  write("r.py", "def f(problems, texts):\n  return [1] * len(texts)\n")
  verifier = FunctionVerifier(
    function="r.py:f", num_workers=1, timeout_seconds=9.0
  )
  write("r.py", "def f(problems, texts):\n  return [0] * len(texts)\n")
  try:
    assert verifier.judge([_problem()], ["a"]) == [Verdict(1.0)]
  finally:
    verifier.close()


def test_a_reward_has_no_accelerator_and_its_own_process(write, monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "tpu")
  write(
    "r.py",
    "import os\n"
    "def f(problems, texts):\n"
    "  return [os.environ['JAX_PLATFORMS'] == 'cpu'"
    f" and os.getpid() != {os.getpid()}] * len(texts)\n",
  )
  assert _judge("r.py:f", [_problem()], [""]) == [Verdict(1.0)]


def _config(**fields):
  config = demo.get_config("tiny=true,arms=rl")
  config.update_from_flattened_dict(fields)
  return config


def test_another_reward_is_another_run(write, tmp_path):
  write("r.py", "def f(problems, texts):\n  return [1] * len(texts)\n")
  workdir = epath.Path(tmp_path / "run")
  config = _config(**{"rewards.function": "r.py:f"})
  screen = Workspace(config, workdir).data_artifact("screen", 0)
  screen.begin()
  screen.finish({"weights": ""}, [])
  write("copy.py", (tmp_path / "r.py").read_text())
  config.rewards.function = "copy.py:f"  # the same, elsewhere
  Workspace(config, workdir).data_artifact("screen", 0).check()
  write("r.py", "def f(problems, texts):\n  return [0] * len(texts)\n")
  for function in ("r.py:f", ""):
    config.rewards.function = function
    with pytest.raises(UserError, match=r"screen was made.*\n  made_from\.rew"):
      Workspace(config, workdir).data_artifact("screen", 0).check()


def test_a_reward_is_tried_before_anything_is_computed(
  write, tmp_path, monkeypatch
):
  write("r.py", "def f(problems, texts):\n  return [2] * len(texts)\n")
  monkeypatch.setattr(
    "prefixrl_jax.run.workspace.open_session",
    lambda *_, **__: pytest.fail("something is computed"),
  )
  config = _config(**{"rewards.function": "r.py:f", "rewards.num_workers": 1})
  with pytest.raises(UserError, match=r"r\.py:1: f returns 2 as reward"):
    Pipeline(config, epath.Path(tmp_path / "run")).run(("screen",))


def test_a_run_on_ones_own_reward_and_problems(write, tmp_path):
  """Problems of the demo's alphabet; the reward is a share of blocks."""
  write(
    "mine.py",
    "import random\n"
    "def problems(config, seed):\n"
    "  rng = random.Random(seed)\n"
    "  for i in range(20):\n"
    "    digits = [[rng.randrange(10) for _ in 'abc'] for _ in 'abc']\n"
    "    yield dict(\n"
    "      prompt=' '.join(l + ''.join(map(str, d)) for l, d in zip('abc',"
    " digits)) + '?',\n"
    "      answer=' '.join(\n"
    "        f'{l}={sum(d) % 3}' for l, d in zip('abc', digits)),\n"
    "      split=('train', 'train', 'heldout', 'easy')[i % 4])\n"
    "def share(problems, texts):\n"
    "  return [sum(part in t for part in p.answer.split()) / 3\n"
    "          for p, t in zip(problems, texts)]\n",
  )
  config = _config(
    **{
      "problems.function": "mine.py:problems",
      "rewards.function": "mine.py:share",
      "rewards.num_workers": 1,
    }
  )
  validate(config)
  Pipeline(config, epath.Path(tmp_path / "run")).run(("screen",))
  manifest = json.loads(
    (tmp_path / "run/data/seed_0/screen/manifest.json").read_text()
  )
  assert manifest["made_from"]["reward"].endswith(":share")
  problems = Inputs(config).problems(0)
  assert [p.split for p in problems] == [
    *["train"] * 6,
    *["heldout"] * 4,
    *["easy"] * 2,
  ]


# -- problems ------------------------------------------------------------------


def _load(write, body, *, limit=None, **fields):
  write("p.py", f"import itertools\ndef f(config, seed):\n{body}\n")
  config = math.get_config("task=jsonl").problems
  config.update(function="p.py:f", num_train=2, num_heldout=1)
  config.update(**fields)
  limit = limit or Limit(lambda prompts: [False] * len(prompts))
  return own.load(config, 0, {}, limit)


_TRAIN = "dict(prompt='a', answer='1', split='train')"


@pytest.mark.parametrize(
  ("item", "message"),
  [
    ("3", "as problem 0 3 (int); a problem is a dict"),
    ("('a', '1')", "as problem 0 ('a', '1') (tuple); a problem is a dict"),
    (f"{_TRAIN} | dict(prompt='')", "problem 0 one whose prompt is empty"),
    (f"{_TRAIN} | dict(prompt=' \\n')", "problem 0 one whose prompt is empty"),
    (f"{_TRAIN} | dict(prompt=None)", "one whose prompt is None (NoneType)"),
    (f"{_TRAIN} | dict(answer=7)", "one whose answer is 7 (int); it is a str"),
    (f"{_TRAIN} | dict(id=7)", "one whose id is 7 (int)"),
    (f"{_TRAIN} | dict(id='')", "one whose id is empty"),
    (
      f"{_TRAIN} | dict(split='test')",
      "one whose split is 'test' (str); it is",
    ),
    (f"{_TRAIN} | dict(split=[])", "one whose split is [] (list)"),
    (f"{_TRAIN} | dict(level=3)", "one with 'level'; its keys are prompt"),
    ("dict(prompt='a', split='train')", "one without 'answer'"),
    ("dict(prompt='a', answer='1')", "one without 'split'"),
    (f"{_TRAIN} | dict(metadata=3)", "metadata are not JSON (TypeError: it is"),
    (f"{_TRAIN} | dict(metadata=dict(x=set()))", "whose metadata are not JSON"),
    (f"{_TRAIN} | dict(metadata=dict(x=float('nan')))", "are not JSON"),
    (f"{_TRAIN} | dict(prompt='\\ud800')", "text that is no Unicode"),
    ("1 / 0", "p.py:3: ZeroDivisionError: division by zero"),
  ],
)
def test_what_is_no_problem_is_said_with_file_and_line(write, item, message):
  for body in (f"  yield {item}", f"  return [{item}]"):
    with pytest.raises(UserError) as e:
      _load(write, body)
    line = 3 if "ZeroDivision" in message else 2
    assert str(e.value).startswith(f"config.problems.function: p.py:{line}: ")
    assert message in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("value", ["None", "3", "'abc'", f"{_TRAIN}"])
def test_what_returns_no_problems(write, value):
  with pytest.raises(UserError, match=r"p\.py:2: f returns .*return a list of"):
    _load(write, f"  return {value}")


def test_an_id_is_not_used_twice(write):
  body = f"  for i in (1, 2):\n    yield {_TRAIN} | dict(id='x', prompt=str(i))"
  with pytest.raises(UserError, match="problems 0 and 1 the same id 'x'"):
    _load(write, body)


def test_problems_that_are_others_every_time_are_refused(write):
  body = (
    f"  import random\n  yield {_TRAIN} | dict(prompt=str(random.random()))"
  )
  with pytest.raises(UserError, match=r"p\.py:2: f gives .*called again"):
    _load(write, body)


def test_copies_are_dropped_and_counted_and_replaced(write):
  body = (
    "  for text, split in [('a', 'train'), ('b', 'train'), ('a', 'train'),\n"
    "      ('b', 'heldout'), ('b', 'train'), ('c', 'train'), ('d', 'train')]:\n"
    "    yield dict(prompt=text, answer='1', split=split)"
  )
  train, heldout, easy = _load(write, body)
  assert [p.prompt for p in train.problems] == ["a", "c"]
  assert [p.prompt for p in heldout.problems] == ["b"]
  assert easy.problems == []
  assert dict(train.dropped) == {REPEATED: 1, EVALUATED: 2}


def test_prompts_that_are_too_long_are_named_or_dropped(write):
  body = (
    "  for text, split in [('aaaa', 'train'), ('b', 'train'), ('c', 'heldout'),"
    " ('d', 'train')]:\n"
    "    yield dict(prompt=text, answer='1', split=split, id=text)"
  )
  longer = lambda prompts: [len(p) > 3 for p in prompts]
  train, *_ = _load(write, body, limit=Limit(longer))
  assert train.too_long == ["aaaa"]
  train, *_ = _load(write, body, limit=Limit(longer, drops=True))
  assert [p.id for p in train.problems] == ["b", "d"]
  assert dict(train.dropped) == {TOO_LONG: 1}


def test_one_that_does_not_end_is_asked_for_no_more_than_enough(write):
  body = (
    "  for i in itertools.count():\n"
    "    assert i < 4, 'too far'\n"
    "    yield dict(prompt=str(i), answer='1',"
    " split='heldout' if i == 3 else 'train')"
  )
  train, heldout, _ = _load(write, body)
  assert [p.prompt for p in train.problems] == ["0", "1"]
  assert [p.prompt for p in heldout.problems] == ["3"]
  body = f"  while True:\n    yield {_TRAIN}"
  train, heldout, _ = _load(write, body)
  assert len(train.problems) == 1


def test_too_few_are_said(write):
  write("p.py", f"def f(config, seed):\n  yield {_TRAIN}\n")
  config = math.get_config("task=jsonl").problems
  config.update(function="p.py:f", num_train=2, num_heldout=0)
  with pytest.raises(UserError, match=r"num_train asks for 2 .*there are 1"):
    loading.load_parts(config, seed=0)


def test_problems_may_be_the_package_s_own_type(write):
  body = (
    "  from prefixrl_jax.types import Problem\n"
    "  yield Problem('x', 'a', '1', 'me', 'heldout', 77, {'k': 1})"
  )
  _, heldout, _ = _load(write, body)
  assert heldout.problems == [
    Problem("x", "a", "1", "p.py:f", "heldout", 0, {"k": 1})
  ]


def test_a_function_and_a_file_are_not_both_given(write):
  write("p.py", "def f(config, seed): return []")
  config = math.get_config()
  config.problems.update(function="p.py:f", file="x.jsonl")
  with pytest.raises(UserError, match="leave file and heldout empty"):
    validate(config)


def test_a_config_that_dataclasses_need_is_a_module(write):
  write(
    "c.py",
    "from __future__ import annotations\nimport dataclasses\n"
    "@dataclasses.dataclass\nclass A:\n  x: int = 3\n",
  )
  path = pathlib.Path("c.py")
  module = user_code.run_file(str(path), path.read_bytes(), "--config")
  assert isinstance(module, types.ModuleType)
  assert module.A().x == 3
