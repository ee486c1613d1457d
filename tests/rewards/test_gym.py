"""reasoning-gym's tasks: golds are right, nonsense is wrong, none executes."""

import inspect
import json
import pathlib
import re
import types
import warnings

import pytest

from prefixrl_jax.problems import gym as problems_gym
from prefixrl_jax.problems.reading import Draw
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
  "logic/propositional_logic.py": "refused",
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
  verifier = gym.GymVerifier(num_workers=1, timeout_seconds=60.0)
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
      ("rubiks_cube", "example_correct_answer"),
    )
  }
  some = {name: entries[name] for name in examples}
  texts = [
    a if isinstance(a, str) else json.dumps(a) for a in examples.values()
  ]
  assert _judge(verifier, some, texts) == set(examples)


_NO_NUMBERS = (
  *("nan", "NaN", "-NAN", "nan+nanj", "nanj", "(nan, nan)", "nan + 3i"),
  *("inf", "-inf", "+Infinity", "infj", "∞", "1e999", "-1e+999 + 2i", "1e999j"),
  *("[1, NaN]", "9" * 400, "1_0e9_99", "1e٩٩٩", "ｎａｎ", "snan", "nan1"),
)


@pytest.mark.parametrize("text", _NO_NUMBERS, ids=lambda text: text[:20])
def test_no_number_is_right_that_is_not_finite(verifier, entries, text):
  for said in (text, f"<answer>{text}</answer>", f"The answer is {text}."):
    assert not _judge(verifier, entries, [said] * len(entries))
  entry = {"answer": "4.0 - 7.0i"}
  assert not gym._may_be_scored(text, entry)
  assert gym._may_be_scored(text, {"answer": text})  # the problem's own words


@pytest.mark.parametrize(
  "text",
  ["1e9", "-4.0 + 7.0i", "banana", "infer", "Nancy", "1 " * 999, "[[1]]"],
)
def test_what_may_be_scored(text):
  assert gym._may_be_scored(text, {"answer": "1"})


@pytest.mark.parametrize(
  ("name", "answer"),
  [
    ("complex_arithmetic", "nan"),
    ("complex_arithmetic", "nan+nanj"),
    ("propositional_logic", "(P ∨ Q)"),
    ("game_of_life_halting", "no idea"),
  ],
)
def test_what_is_right_for_other_problems_too_is_not_right(name, answer):
  """Of these the package's own scorers call it right."""
  others = gym.references(name)
  data = reasoning_gym.create_dataset(name, size=4, seed=3)
  assert all(gym._accepts(name, data[i], answer) for i in range(4))
  assert not any(gym._score((name, data[i], answer, others)) for i in range(4))


def test_an_answer_of_several_problems_may_be_right():
  """Whether a string is isomorphic has two answers for all problems."""
  others = gym.references("isomorphic_strings")
  data = reasoning_gym.create_dataset("isomorphic_strings", size=8, seed=3)
  golds = [data[i]["answer"] for i in range(8)]
  assert set(golds) == {"True", "False"}
  for i, gold in enumerate(golds):
    for answer in ("True", "False"):
      right = gym._score(("isomorphic_strings", data[i], answer, others))
      assert right == (answer == gold)


def test_a_task_whose_scorer_takes_a_constant_is_refused_when_drawn(
  monkeypatch,
):
  from reasoning_gym import factory

  make, make_config = factory.DATASETS["chain_sum"]
  # Fakes must have names of their own: scorers are kept by name.
  for name, constant in (("fake_a", "0"), ("fake_b", "None"), ("fake_c", None)):

    class _Lenient(make):
      taken = constant

      def score_answer(self, answer, entry):
        taken = entry["question"] if self.taken is None else self.taken
        return float(answer in (taken, entry["answer"]))

    monkeypatch.setitem(factory.DATASETS, name, (_Lenient, make_config))
    draw = Draw(name, "", 0, 0, 50)
    monkeypatch.setattr(gym, "references", lambda name: [])
    with pytest.raises(
      UserError, match=f"accepts '{constant or 'the question'}' for"
    ):
      next(problems_gym.generate(draw))


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


def test_what_is_not_finite_never_reaches_a_scorer():
  verifier = gym.GymVerifier(num_workers=1, timeout_seconds=60.0)
  asked = []

  def never(jobs):
    asked.extend(job[2] for job in jobs)
    return [False] * len(jobs)

  verifier._pool = types.SimpleNamespace(map=never)
  entry = dict(question="?", answer="4.0 - 7.0i", metadata={})
  texts = ["nan", "<answer>inf</answer>", "4", "The answer is 1e999."]
  problem = Problem(
    "p", "?", "", "", "t", 0, {"dataset": "complex_arithmetic", "entry": entry}
  )
  verifier.judge([problem] * 4, texts)
  assert asked == ["4"]


def test_a_part_of_the_mark_is_wrong(monkeypatch):
  """As many scorers give for an answer of some length."""
  monkeypatch.setattr(gym, "_scorer", lambda name: lambda answer, entry: 0.99)
  assert not gym._accepts("any", {}, "7")
  monkeypatch.setattr(gym, "_scorer", lambda name: lambda answer, entry: 1.0)
  assert gym._accepts("any", {}, "7")
  # And the whole of it says nothing if nonsense has it as well.
  assert not gym._score(("any", {"answer": "8"}, "7", ()))


def test_thoughts_and_tags_that_are_never_closed():
  draft = "<think>Maybe <answer>3</answer>.</think>"
  assert gym.extract_answer(f"{draft} <answer>4</answer>") == "4"
  # Reading each of them to the end would take hours.
  assert gym.extract_answer("<answer>" * 200_000) is None
  assert gym.extract_answer("<answer> 7\n</answer><answer></answer>") == "7"
