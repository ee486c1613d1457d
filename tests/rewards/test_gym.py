"""reasoning-gym's tasks: golds are right, nonsense is wrong, none executes."""

import inspect
import json
import pathlib
import re
import warnings

import pytest

from prefixrl_jax.rewards import gym
from prefixrl_jax.types import Problem, UserError

reasoning_gym = pytest.importorskip(
  "reasoning_gym", reason="pip install 'prefixrl_jax[gym]'"
)

# What runs text as a program, or may: in a scorer, model text.
_RUNS = re.compile(
  r"(?<!re\.)(?<!Compiler\.)\b(?:eval|exec|parse_expr|sympify|nsimplify|literal_eval|lambdify|compile"
  r"|__import__|import_module|Popen|system|check_output)\(|\bpickle\b|\bmarshal\b"
)
# Files of the package that do, and why none of them runs model text here.
_KNOWN = {
  "algebra/intermediate_integration.py": "refused",
  "algebra/polynomial_multiplication.py": "refused",
  "algebra/simple_integration.py": "refused",
  "algorithmic/binary_matrix.py": "checked here",
  "algorithmic/number_sorting.py": "evaluates the gold answer",
  "algorithmic/spiral_matrix.py": "checked here",
  "algorithmic/string_insertion.py": "checked here",
  "arithmetic/basic_arithmetic.py": "evaluates its own problem",
  "arithmetic/bitwise_arithmetic.py": "evaluates its own problem",
  "arithmetic/gsm_symbolic/generators_00_49.py": "evaluates its own fractions",
  "arithmetic/gsm_symbolic/generators_50_99.py": "evaluates its own fractions",
  "code/codeio.py": "refused",
  "games/countdown.py": "checked here",
  "games/n_queens.py": "checked here",
  "games/puzzle24.py": "checked here",
  "logic/propositional_logic.py": "parse_expr is a parser of its own",
}


@pytest.fixture(scope="module")
def entries():
  """One entry of every task that is not refused, as a problem file has it."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return {
      name: reasoning_gym.create_dataset(name, size=1, seed=7)[0]
      for name in sorted(reasoning_gym.factory.DATASETS)
      if name not in gym.REFUSED
    }


@pytest.fixture(scope="module")
def verifier():
  verifier = gym.GymVerifier(num_workers=1, timeout_seconds=20.0)
  yield verifier
  verifier.close()


def _judge(verifier, entries, texts):
  problems = [
    Problem(
      name,
      e["question"],
      e["answer"] or "",
      "",
      "train",
      0,
      {"dataset": name, "entry": json.loads(json.dumps(e))},
    )
    for name, e in entries.items()
  ]
  verdicts = verifier.judge(problems, texts)
  assert not any(v.timed_out or v.died for v in verdicts)
  return {p.id for p, v in zip(problems, verdicts) if v.reward == 1}


def test_no_unknown_file_of_the_package_runs_text():
  root = pathlib.Path(inspect.getfile(reasoning_gym)).parent
  found = {
    str(path.relative_to(root))
    for path in root.rglob("*.py")
    if "contrib" not in path.parts and _RUNS.search(path.read_text())
  }
  assert found == set(_KNOWN)
  datasets = reasoning_gym.factory.DATASETS
  assert set(gym.REFUSED) | set(gym.CHECKED_HERE) <= set(datasets)
  for name, (dataset, _) in datasets.items():
    source = pathlib.Path(inspect.getfile(dataset)).relative_to(root)
    why = _KNOWN.get(str(source), "")
    assert (why == "refused") <= (name in gym.REFUSED), name
    assert (why == "checked here") <= (name in gym.CHECKED_HERE), name


def test_gold_answers_are_right(verifier, entries):
  golds = [f"<answer>{e['answer'] or ''}</answer>" for e in entries.values()]
  right = _judge(verifier, entries, golds)
  without = {name for name, e in entries.items() if e["answer"] is None}
  assert without == {
    "boxnet",
    "graph_color",
    "propositional_logic",
    "rubiks_cube",
    "rush_hour",
  }
  # This polynomial has no real root, and its scorer then accepts nonsense.
  empty = {name for name, e in entries.items() if e["answer"] == ""}
  assert right == set(entries) - without - empty
  examples = {
    name: entries[name]["metadata"][key]
    for name, key in (
      ("graph_color", "possible_answer"),
      ("propositional_logic", "example_answer"),
      ("rubiks_cube", "example_correct_answer"),
    )
  }
  some = {name: entries[name] for name in examples}
  texts = [
    a if isinstance(a, str) else json.dumps(a) for a in examples.values()
  ]
  assert _judge(verifier, some, texts) == set(examples)


@pytest.mark.parametrize(
  "nonsense",
  [
    *("", "?", "yes", "None", "[]", "True False", "1, 2, 3, 4, 5, 6, 7, 8"),
    " ".join(map(str, range(1000))),
    r"\boxed{} \boxed{1} or something else altogether; well, \boxed{2}",
    "The answer is x where x is the gold answer.",
    "nonsense " * 2000,
  ],
  ids=lambda text: text[:20],
)
def test_nonsense_is_wrong(verifier, entries, nonsense):
  some = {name: e for name, e in entries.items() if e["answer"] != nonsense}
  assert len(some) >= len(entries) - 1
  assert _judge(verifier, some, [nonsense] * len(some)) == set()


def test_the_question_and_two_answers_are_wrong(verifier, entries):
  assert not _judge(
    verifier, entries, [e["question"] for e in entries.values()]
  )
  both = [
    f"<answer>{e['answer']}</answer><answer>7 7</answer>"
    for e in entries.values()
  ]
  assert not _judge(verifier, entries, both)


def test_a_prefix_of_a_number_is_not_the_number(verifier, entries):
  entry = dict(entries["coin_flip"], answer="0.3125")
  some = {"coin_flip": entry}
  for text, right in (("0", 0), ("0.3", 0), ("5/16", 1), ("0.3125", 1)):
    assert len(_judge(verifier, some, [text])) == right
  entry = dict(entries["gsm_symbolic"], answer="20")
  some = {"gsm_symbolic": entry}
  for text, right in (("-20", 0), ("20 or 7", 0), ("#### 20", 1)):
    assert len(_judge(verifier, some, [text])) == right


def test_model_text_is_not_executed(verifier, entries, tmp_path):
  mark = tmp_path / "mark"
  attack = f"__import__('pathlib').Path({str(mark)!r}).touch()"
  texts = [attack, f"[[{attack}]]", f"<answer>{attack}</answer>"]
  for text in texts:
    assert not _judge(verifier, entries, [text] * len(entries))
  assert not mark.exists()


@pytest.mark.parametrize("name", sorted(gym.REFUSED))
def test_refused_tasks_are_refused(verifier, name):
  metadata = {"dataset": name, "entry": {}}
  problem = Problem("p", "?", "", "", "train", 0, metadata)
  with pytest.raises(UserError, match=name):
    verifier.judge([problem], ["1"])
