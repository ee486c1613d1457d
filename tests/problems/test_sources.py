"""Every known set: a row of its schema, and real files where there are any."""

import json
import pathlib

import pytest

from prefixrl_jax.problems.loading import load_parts
from prefixrl_jax.problems.reading import Getter, Skip
from prefixrl_jax.problems.sources import SOURCES
from prefixrl_jax.rewards.verifiers import VERIFIERS

_SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"


def _read(task, row):
  return SOURCES[task].read(Getter(SOURCES[task].columns, row))


# -- math ----------------------------------------------------------------------


@pytest.mark.parametrize(
  ("task", "row", "problem", "answer"),
  [
    (
      "math",
      {
        "problem": "p",
        "level": "Level 5",
        "type": "Algebra",
        "solution": r"so $\boxed{1}$, no, $\boxed{\frac{1}{2}}$.",
      },
      "p",
      r"\frac{1}{2}",
    ),
    ("math", {"problem": "p", "solution": r"$\boxed 7$."}, "p", "7"),
    ("math", {"problem": "p", "solution": r"$\fbox{7}$."}, "p", "7"),
    (
      "math500",
      {"problem": "p", "solution": "", "answer": "(3, 4)", "level": 2},
      "p",
      "(3, 4)",
    ),
    ("gsm8k", {"question": "p", "answer": "2*3=6\n#### 6"}, "p", "6"),
    (
      "dapo17k",
      {
        "data_source": "math_dapo",
        "prompt": [
          {
            "role": "user",
            "content": "Solve the following math problem step by step. The"
            " last line of your response should be of the form Answer: $Answer"
            " (without quotes) where $Answer is the answer to the problem."
            "\n\nFind\n\nx.\n\nRemember to put your answer on its own line"
            ' after "Answer:".',
          }
        ],
        "reward_model": {"ground_truth": "34", "style": "rule"},
        "extra_info": {"index": "9a9b"},
      },
      "Find\n\nx.",
      "34",
    ),
    (
      "omni_math",
      {
        "domain": ["Algebra"],
        "difficulty": 8.0,
        "problem": "p",
        "solution": "s",
        "answer": "2",
        "source": "imo",
      },
      "p",
      "2",
    ),
    (
      "deepmath",
      {
        "question": "p",
        "final_answer": "0",
        "difficulty": 4.5,
        "topic": "t",
        "r1_solution_1": "r",
      },
      "p",
      "0",
    ),
    ("aime2024", {"id": 60, "problem": "p", "answer": "204"}, "p", "204"),
    (
      "aime2025",
      {"problem_idx": 1, "problem": "p", "answer": 70},
      "p",
      "70",
    ),
    ("hmmt2025", {"problem_idx": 1, "problem": "p", "answer": "1"}, "p", "1"),
  ],
)
def test_math_rows(task, row, problem, answer):
  parts = _read(task, row)
  assert (parts.prompt, parts.answer, parts.metadata) == (problem, answer, {})
  assert SOURCES[task].verifier == "math"


@pytest.mark.parametrize(
  ("task", "row", "reason"),
  [
    ("math", {"problem": "p", "solution": "none"}, "no answer"),
    ("math", {"problem": "p", "solution": r"$\boxed{7"}, "no answer"),
    ("math500", {"problem": "", "answer": "1"}, "no problem"),
    ("gsm8k", {"question": "p", "answer": "####"}, "no answer"),
    ("gsm8k", {"question": "p", "answer": None}, "no answer"),
    ("dapo17k", {"prompt": [], "reward_model": {}}, "no problem"),
    ("apps", {"question": "q", "input_output": ""}, "no tests"),
    ("apps", {"question": "q", "input_output": "{"}, "tests is not JSON"),
    (
      "apps",
      {"question": "q", "input_output": '{"inputs": ["1"], "outputs": []}'},
      "inputs and outputs differ",
    ),
    ("code_contests", {"description": "d", "public_tests": None}, "no tests"),
    ("mbpp", {"text": "t", "test_list": ["assert True"]}, "call no function"),
    (
      "folio",
      {"premises": "p", "conclusion": "c", "label": "Perhaps"},
      "none of True, False, Unknown",
    ),
    (
      "prontoqa",
      {"question": "f", "query": "q", "answer": "Unknown"},
      "none of True, False",
    ),
  ],
)
def test_rows_that_are_no_problem(task, row, reason):
  with pytest.raises(Skip, match=reason):
    _read(task, row)


# -- code ----------------------------------------------------------------------

_CODE = {
  "entry_point": "",
  "setup": "",
  "prompt_code": "",
  "whole_completion": False,
  "tolerance": None,
}


@pytest.mark.parametrize(
  ("task", "row", "metadata"),
  [
    (
      "apps",
      {
        "question": "Add. The absolute error must not exceed 10^{-6}.",
        "input_output": json.dumps(
          {"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", ["7"]]}
        ),
        "difficulty": "interview",
        "starter_code": "",
      },
      {
        "format": "stdin",
        "tests": [
          {"input": "1 2\n", "output": "3\n"},
          {"input": "3\n4", "output": "7"},
        ],
        "tolerance": 1e-6,
      },
    ),
    (
      "apps",
      {
        "question": "Add.",
        "input_output": json.dumps(
          {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}
        ),
        "starter_code": "def add(a, b):",
      },
      {
        "format": "call",
        "tests": [
          {"input": [1, 2], "output": [3], "or_output": 3},
          {"input": [3, 4], "output": [7], "or_output": 7},
        ],
        "entry_point": "add",
      },
    ),
    (
      "apps",
      {
        "question": "Split.",
        "input_output": json.dumps(
          {"fn_name": "f", "inputs": [[3]], "outputs": [[1, 2]]}
        ),
      },
      {
        "format": "call",
        "tests": [{"input": [3], "output": [1, 2]}],
        "entry_point": "f",
      },
    ),
    (
      "code_contests",
      {
        "description": "Double.",
        "public_tests": {"input": ["1\n"], "output": ["2\n"]},
        "private_tests": {"input": [], "output": []},
        "generated_tests": {"input": ["4\n"], "output": ["8\n"]},
      },
      {
        "format": "stdin",
        "tests": [
          {"input": "1\n", "output": "2\n"},
          {"input": "4\n", "output": "8\n"},
        ],
      },
    ),
    (
      "humaneval",
      {
        "prompt": "def f(x):\n  '''Doubles.'''\n",
        "entry_point": "f",
        "test": "def check(c):\n  assert c(1) == 2",
      },
      {
        "format": "asserts",
        "tests": ["def check(c):\n  assert c(1) == 2\ncheck(f)"],
        "entry_point": "f",
        "prompt_code": "def f(x):\n  '''Doubles.'''\n",
      },
    ),
    (
      "mbpp",
      {
        "prompt": "Double.",
        "test_imports": ["import math", "import re"],
        "test_list": [
          "assert set(twice([1])) == {2}",
          "assert twice([]) == []",
        ],
      },
      {
        "format": "asserts",
        "tests": ["assert set(twice([1])) == {2}", "assert twice([]) == []"],
        "entry_point": "twice",
        "setup": "import math\nimport re",
      },
    ),
  ],
)
def test_code_rows(task, row, metadata):
  parts = _read(task, row)
  assert parts.metadata == _CODE | metadata
  assert parts.answer == ""
  assert parts.text in parts.prompt or task == "humaneval"
  if metadata["format"] == "stdin":
    assert "standard input" in parts.prompt
  else:
    assert f"Python function {metadata['entry_point']}" in parts.prompt


def test_a_completion_goes_on_with_the_code(section, lines):
  row = {"prompt": "def f():\n", "entry_point": "f", "test": "t"}
  file = lines("h.jsonl", row, row | {"prompt": "def g():\n"})
  config = section(
    "humaneval_completion", file=file, num_train=1, num_heldout=1
  )
  train, _ = load_parts(config, seed=0)
  (problem,) = train.problems
  assert problem.prompt == "def f():\n"  # and no instruction
  assert problem.metadata["whole_completion"]


# -- logic ---------------------------------------------------------------------


@pytest.mark.parametrize(
  ("row", "answer"),
  [
    (
      {"premises": "A.\nB.", "conclusion": "C.", "label": "Uncertain"},
      "Unknown",
    ),
    ({"premises": ["A.", "B. "], "conclusion": "C.", "answer": "True"}, "True"),
  ],
)
def test_folio_rows(row, answer):
  parts = _read("folio", row)
  assert parts.text == "Premises:\nA.\nB.\n\nConclusion: C."
  assert parts.answer == answer
  assert parts.metadata == {"labels": ["True", "False", "Unknown"]}
  assert "True, False or Unknown?" in parts.prompt


@pytest.mark.parametrize(
  "row",
  [
    {
      "in_context_example0": {"question": "x", "query": "y", "answer": "True"},
      "test_example": {
        "question": "Each cat is a pet. Sam is a cat.",
        "query": "True or false: Sam is not a pet.",
        "chain_of_thought": ["..."],
        "answer": "False",
      },
    },
    {
      "id": "ProntoQA_1",
      "context": "Each cat is a pet. Sam is a cat.",
      "question": "Is the following statement true or false? Sam is not a pet.",
      "options": ["A) True", "B) False"],
      "answer": "B",
    },
    {
      "question": "Each cat is a pet. Sam is a cat.",
      "query": "True or false: Sam is not a pet.",
      "answer": "False",
    },
  ],
)
def test_prontoqa_rows(row):
  parts = _read("prontoqa", row)
  assert parts.text == (
    "Premises:\nEach cat is a pet. Sam is a cat.\n\nConclusion: Sam is not a"
    " pet."
  )
  assert (parts.answer, parts.metadata) == (
    "False",
    {"labels": ["True", "False"]},
  )


# -- the table, and real files -------------------------------------------------


def test_the_table_is_whole():
  for name, source in SOURCES.items():
    assert source.verifier in VERIFIERS, name
    assert set(source.optional) <= set(source.columns), name
    assert bool(source.hub) == bool(source.splits), name
    if source.hub:
      assert source.split in source.splits, name
      assert source.heldout in ("", *source.splits), name
  evaluated = {name for name, s in SOURCES.items() if s.eval_only}
  assert evaluated == {"aime2024", "aime2025", "hmmt2025"}


@pytest.mark.parametrize(
  ("task", "file", "count", "kinds"),
  [
    ("math500", "math500/test.jsonl", 500, None),
    ("math", "math500/test.jsonl", 500, None),
    ("gsm8k", "gsm8k/test.jsonl", 1319, None),
    ("mbpp", "mbpp/all.jsonl", 374, {"asserts"}),
    ("humaneval", "humaneval/test.jsonl", 164, {"asserts"}),
    ("code_contests", "code_contests_test165/test.jsonl", 165, {"stdin"}),
    ("folio", "folio/train.jsonl", 1003, None),
    ("folio", "folio/validation.jsonl", 204, None),
  ],
)
def test_real_files_are_read_whole(section, task, file, count, kinds):
  if not (_SHARED / file).exists():
    pytest.skip(f"{file} is absent")
  config = section(
    task, file=str(_SHARED / file), num_train=count, num_heldout=0
  )
  config.shown_tests = "keep"
  train, _ = load_parts(config, seed=0)
  assert len(train.problems) == count
  assert not train.skipped
  assert len({p.id for p in train.problems}) == count
  if kinds:
    assert {p.metadata["format"] for p in train.problems} == kinds
    assert all(p.metadata["tests"] for p in train.problems)
  else:
    assert all(p.answer for p in train.problems)


def test_the_last_box_is_the_answer_that_math500_gives():
  """MATH has no answer field: its rule against a file that has both."""
  file = _SHARED / "math500/test.jsonl"
  if not file.exists():
    pytest.skip(f"{file} is absent")
  rows = [json.loads(line) for line in file.read_text().splitlines()]
  differ = [
    (row["answer"], ours)
    for row in rows
    if (ours := _read("math", row | {"answer": ""}).answer) != row["answer"]
  ]
  plain = lambda s: s.replace(" ", "").replace("dfrac", "frac")
  assert len(differ) < 10
  assert all(plain(a) == plain(b) for a, b in differ), differ
