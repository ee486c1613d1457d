"""The code verifier: right solutions pass, and nothing else does."""

import contextlib
import json
import os
import pathlib
import queue
import sys
import textwrap
import threading

import pytest
from watching import ends

from prefixrl_jax.problems.reading import Getter
from prefixrl_jax.problems.sources import SOURCES
from prefixrl_jax.rewards import sandbox, sandbox_pool
from prefixrl_jax.rewards.code import CodeVerifier, find_code
from prefixrl_jax.rewards.inside import checking, plain, serving
from prefixrl_jax.types import Problem, UserError, Verdict

_DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
_SETTINGS = dict(
  num_workers=2, timeout_seconds=1.0, total_seconds=60.0, memory_mb=256
)


@pytest.fixture(scope="module")
def verifier():
  yield from _verifier(partial=False)


@pytest.fixture(scope="module")
def partial_verifier():
  yield from _verifier(partial=True)


def _verifier(**settings):
  try:
    verifier = CodeVerifier(sandbox="bubblewrap", **_SETTINGS | settings)
  except UserError as e:
    pytest.skip(str(e))
  yield verifier
  verifier.close()


def _problem(kind, tests, **metadata):
  defaults = {
    "entry_point": "f",
    "setup": "",
    "prompt_code": "",
    "whole_completion": True,
    "tolerance": None,
  }
  return Problem(
    "p",
    "?",
    "",
    "",
    "train",
    0,
    {"format": kind, "tests": tests} | defaults | metadata,
  )


def _examine(verifier, problem, code):
  (report,) = verifier.examine([problem], [code])
  return report.statuses


_DOUBLE = _problem(
  "stdin", [{"input": f"{n}\n", "output": f"{2 * n}\n"} for n in (1, 21, 300)]
)
_SQUARE_CALLS = _problem(
  "call", [{"input": [n], "output": n * n} for n in (2, 3, 40)]
)
_SQUARE_ASSERTS = _problem(
  "asserts", [f"assert f({n}) == {n * n}" for n in (2, 3, 40)]
)
_PASSED = ["passed"] * 3


@pytest.mark.parametrize(
  ("text", "code"),
  [
    ("```python\nx = 1\n```", "x = 1"),
    ("no\n```py\nx = 1\n```\nor rather\n``` python3\nx = 2\n```\nend", "x = 2"),
    ("```\nx = 1\ny = 2\n```", "x = 1\ny = 2"),
    ("~~~python\ns = '''\n```\n'''\n~~~", "s = '''\n```\n'''"),
    ("````\n```\n````", "```"),
    ("1. so:\n   ```python\n   if x:\n     y\n   ```", "if x:\n  y"),
    ("```python title=a\nx = 1\n```", "x = 1"),
    ("use `x = 1`", "no code"),
    ("```python\nx = 1", "no code"),
    ("```python\nx = 1\n```\n```python\nx = 2", "no code"),
    ("```python\n\n```", "no code"),
    ("```python\nx = 1\n```\n```cpp\nint x;\n```", "not python"),
    ("<think>\n```\nx = 1\nno\n</think>\n```\nx = 2\n```", "x = 2"),
    ("<think>\n```\nx = 1\n```\n</think>\nI do not know.", "no code"),
    ("```\nx = 1\n```\n</think>\n```\nx = 2\n```", "x = 2"),
    ("```\nx = 1\n```\n<think>\n```\nx = 2\n```", "x = 1"),
    ("[THINK]```\nx = 1\n```[/THINK]\n```\nx = 2\n```", "x = 2"),
    ("", "no code"),
  ],
)
def test_finds_the_last_block(text, code):
  found, why = find_code(text, whole=False)
  assert (found or why) == code


@pytest.mark.parametrize(
  "line", ["```" + "a" * 10**6 + "`", "`" * 10**6 + "a`"]
)
def test_a_long_line_is_looked_at_once(line):
  with ends():
    assert find_code(f"```\nx\n```\n{line}", whole=False)[0] == "x"


def test_whole_completions_need_no_fence():
  assert find_code("  x = 1\n", whole=True)[0] == "  x = 1\n"
  assert find_code("```python\nx = 1\n```", whole=True)[0] == "x = 1"
  assert find_code(" \n", whole=True) == (None, "no code")


def test_programs(verifier):
  right = "Here:\n```python\nprint(2 * int(input()))\n```"
  texts = [right, right.replace("2 *", "3 *"), "print(2)\n", "```js\n1\n```"]
  fenced = _problem("stdin", _DOUBLE.metadata["tests"], whole_completion=False)
  verdicts = verifier.judge([fenced] * 4, texts)
  assert [v.reward for v in verdicts] == [1, 0, 0, 0]
  assert not any(v.timed_out for v in verdicts)


@pytest.mark.parametrize(
  ("code", "status"),
  [
    ("print(2 * int(input()))\nexit()", "passed"),
    ("n = int(input())\nif n: print(2 * n); quit()\nprint(0)", "passed"),
    ("print(2 * int(input())); exit(0)", "passed"),
    ("print(2 * int(input())); exit(1)", "error"),
    ("exit()\nprint(2 * int(input()))", "wrong"),
    ("license, credits, copyright, help\nprint(2 * int(input()))", "passed"),
    ("import __main__ as m\nx = 2\nprint(m.x * int(input()))", "passed"),
    ("import sys\nprint(len(sys.argv) * 2 * int(input()))", "passed"),
    ("f = __file__\nprint(2 * int(input()))", "passed"),
  ],
)
def test_a_program_is_what_it_is_in_a_file(verifier, code, status):
  assert _examine(verifier, _DOUBLE, code) == (
    _PASSED if status == "passed" else [status]
  )


_ITS_OWN_FILE = {
  "dataclass": """
    from dataclasses import dataclass, field, replace
    @dataclass(order=True)
    class Pair:
      x: int
      y: list = field(default_factory=list)
    def f(n): return replace(Pair(0), x=n).x ** 2
  """,
  "pickle": """
    import pickle
    class Box:
      def __init__(self, x): self.x = x
    def f(n): return pickle.loads(pickle.dumps(Box(n))).x ** 2
  """,
  "deepcopy and enum": """
    import copy, enum, pickle
    class Colour(enum.Enum):
      RED = 1
    def f(n):
      red = pickle.loads(pickle.dumps(Colour.RED))
      return n * n if copy.deepcopy([red]) == [Colour.RED] else 0
  """,
  "annotations": """
    from typing import NamedTuple, get_type_hints
    class Pair(NamedTuple):
      x: int
    def f(n: int) -> int:
      same = f.__annotations__["n"] is int is get_type_hints(Pair)["x"]
      return Pair(n).x ** 2 if same else 0
  """,
  "singledispatch": """
    from functools import singledispatch
    @singledispatch
    def g(n): return 0
    @g.register
    def _(n: int): return n * n
    def f(n): return g(n)
  """,
  "its name": """
    import sys
    def g(n): return n * n
    def f(n): return sys.modules[__name__].g(n)
  """,
  "its source": """
    import inspect
    def f(n): return n * n if "n * n" in inspect.getsource(f) else 0
  """,
  "postponed": """
    from __future__ import annotations
    def f(n: Unknown): return n * n
  """,
  "not a script": """
    def f(n): return n * n
    if __name__ == "__main__": f = None
  """,
}


@pytest.mark.parametrize("code", _ITS_OWN_FILE.values(), ids=_ITS_OWN_FILE)
def test_a_function_is_what_it_is_in_a_file(verifier, code):
  code = textwrap.dedent(code)
  for problem in (
    _SQUARE_CALLS,
    _SQUARE_ASSERTS,
    _problem(
      "call", _SQUARE_CALLS.metadata["tests"], prompt_code="import typing\n"
    ),
  ):
    assert _examine(verifier, problem, code) == _PASSED


def test_annotations_are_looked_up(verifier):
  code = "def f(n: Unknown): return n * n"
  assert _examine(verifier, _SQUARE_CALLS, code) == ["error"]
  postponed = "from __future__ import annotations\ndef f(n): return n * n"
  assert _examine(verifier, _SQUARE_ASSERTS, postponed) == _PASSED


@pytest.mark.parametrize(
  ("returned", "status"),
  [("n", "passed"), ("[n]", "passed"), ("[[n]]", "wrong"), ("n + 1", "wrong")],
)
def test_apps_results_in_a_list_of_their_own(verifier, returned, status):
  """Rows do not say whether the list is the function's or the source's."""
  tests = {"fn_name": "f", "inputs": [[5], [6]], "outputs": [[5], [6]]}
  row = {"question": "?", "input_output": json.dumps(tests)}
  source = SOURCES["apps"]
  metadata = source.read(Getter(source.columns, row)).metadata
  problem = Problem("p", "?", "", "", "train", 0, metadata)
  code = f"```\ndef f(n): return {returned}\n```"
  assert _examine(verifier, problem, code)[0] == status


def test_starter_code_may_be_annotated_as_on_its_site(verifier):
  starter = "class Solution:\n  def f(self, xs: List[int]) -> Optional[int]:\n"
  tests = {"fn_name": "f", "inputs": [[[5, 6]]], "outputs": [11]}
  row = {
    "question": "?",
    "input_output": json.dumps(tests),
    "starter_code": starter,
  }
  source = SOURCES["apps"]
  metadata = source.read(Getter(source.columns, row)).metadata
  problem = Problem("p", "?", "", "", "train", 0, metadata)
  code = f"```\n{starter}    return sum(xs)\n```"
  assert _examine(verifier, problem, code) == ["passed"]


@pytest.mark.parametrize(
  ("printed", "expected", "tolerance", "status"),
  [
    ("1 2\\n3", "1\n2 3\n", None, "passed"),
    ("1 2", "1 2 3", None, "wrong"),
    ("1 2 3", "1 2", None, "wrong"),
    ("0.5", "0.50", None, "wrong"),
    ("0.5", "0.50", 1e-9, "passed"),
    ("1000001 yes", "1000000 yes", 1e-5, "passed"),
    ("0.001 yes", "0.002 yes", 1e-5, "wrong"),
    ("nan", "1", 1e-5, "wrong"),
    ("inf", "1", 1e-5, "wrong"),
    ("1", "inf", 1e-5, "wrong"),
    ("YES", "yes", 1e-5, "wrong"),
    ("", "", None, "passed"),
  ],
)
def test_output_is_compared_by_token(
  verifier, printed, expected, tolerance, status
):
  tests = [{"input": "", "output": expected}]
  problem = _problem("stdin", tests, tolerance=tolerance)
  assert _examine(verifier, problem, f"print('{printed}')") == [status]


@pytest.mark.parametrize(
  ("code", "status"),
  [
    ("def f(n): return n * n", "passed"),
    ("class Solution:\n  def f(self, n): return n * n", "passed"),
    ("f = lambda n: n ** 2", "passed"),
    ("f = lambda n: float(n * n)", "passed"),
    ("f = lambda n: n * n + 1", "wrong"),
    ("f = lambda n: str(n * n)", "wrong"),
    ("f = lambda n: [n * n]", "wrong"),
    ("f = lambda n: None", "wrong"),
    ("f = lambda n: print(n * n)", "wrong"),
    ("f = lambda: 4", "error"),
    ("g = lambda n: n * n", "error"),
    ("def f(n): return n *", "error"),
    ("f = lambda n: 1 / 0", "error"),
    ("def f(n):\n  while True: pass", "time limit"),
    ("while True: pass", "time limit"),
    ("f = lambda n: bytearray(2**40)", "memory limit"),
    ("import os\ndef f(n): os._exit(0)", "error"),
    ("import os\ndef f(n): os.abort()", "crash"),
    ("def f(n): raise SystemExit(0)", "error"),
    ("raise SystemExit", "error"),
    ("f = lambda n: f", "error"),
  ],
)
def test_calls_and_asserts(verifier, code, status):
  for problem in (_SQUARE_CALLS, _SQUARE_ASSERTS):
    statuses = _examine(verifier, problem, code)
    wanted = _PASSED if status == "passed" else [status]
    if problem is _SQUARE_ASSERTS and status == "memory limit":
      wanted = ["error"]  # the test could have caught it
    assert statuses[: len(wanted)] == wanted


@pytest.mark.parametrize(
  ("returned", "expected", "same"),
  [
    ("(1, (2, 'x'))", [1, [2, "x"]], True),
    ("{1: 'a', None: True}", {"1": "a", "null": True}, True),
    ("{1: 'a'}", {"1": "b"}, False),
    ("{1}", [1], False),
    ("{10**5000: 1}", {"1": 1}, None),
    ("0.1 + 0.2", 0.3, False),
    ("True", 1, True),
    ("10**400", 10**400, True),
    ("float('nan')", None, False),
    ("'a'", "a", True),
    ("b'a'", "a", False),
    ("[None, 1.5]", [None, 1.5], True),
    ("[1] * 3", [1, 1], False),
  ],
)
def test_values_are_compared_as_json(verifier, returned, expected, same):
  problem = _problem("call", [{"input": [], "output": expected}])
  status = {True: "passed", False: "wrong", None: "error"}[same]
  assert _examine(verifier, problem, f"def f(): return {returned}") == [status]


def test_values_with_tolerance(verifier):
  tests = [{"input": [x], "output": [0.3, 2]} for x in (0.1, 10**400)]
  problem = _problem("call", tests, tolerance=1e-9)
  code = "def f(x): return [x + 0.2, 2]"
  assert _examine(verifier, problem, code) == ["passed", "error"]
  code = "def f(x): return [x, 2]"
  assert _examine(verifier, problem, code) == ["wrong"]


def test_calls_leave_nothing_to_each_other(verifier):
  """Else work that takes longer than a test may is done in many of them."""
  code = """
import os
done = []
def f(n):
  done.append(n)
  f.done = open(f"{n}", "w")
  return n * n if (done, os.listdir()) == ([n], [f"{n}"]) else 0
"""
  assert _examine(verifier, _SQUARE_CALLS, code) == _PASSED


def test_partial_results(partial_verifier):
  code = "print(2 * int(input()) % 500)"
  assert _examine(partial_verifier, _DOUBLE, code) == [
    "passed",
    "passed",
    "wrong",
  ]
  code = "def f(n):\n  while n == 3: pass\n  return n * n"
  for problem in (_SQUARE_CALLS, _SQUARE_ASSERTS):
    (report,) = partial_verifier.examine([problem], [code])
    assert report.statuses == ["passed", "time limit", "passed"]
    verdict = partial_verifier._verdict(report)
    assert verdict == Verdict(pytest.approx(2 / 3))
    assert _examine(partial_verifier, problem, "1 / 0") == ["error"] * 3


def test_without_tests_nothing_is_right(verifier, partial_verifier):
  for v in (verifier, partial_verifier):
    for kind in ("stdin", "call", "asserts"):
      (verdict,) = v.judge([_problem(kind, [])], ["def f(): pass"])
      assert verdict == Verdict(0.0)


def test_unknown_format_names_the_problem(verifier):
  with pytest.raises(UserError, match=r"problem p: .*'quiz' is none of stdin"):
    verifier.judge([_problem("quiz", [])], ["x"])


def test_total_limit_is_counted_and_a_test_limit_is_not(verifier):
  sleep = "import time; time.sleep(0.7); print(2 * int(input()))"
  lazy = "import time\ndef f(n): time.sleep(0.7); return n * n"
  problems = [_DOUBLE, _SQUARE_CALLS, _SQUARE_ASSERTS]
  for short in _verifier(total_seconds=1.5, partial=False):
    verdicts = short.judge(problems, [sleep, lazy, lazy])
    assert verdicts == [Verdict(0.0, timed_out=True)] * 3
  # With time enough for them to be judged, however busy the machine is.
  verdicts = verifier.judge(problems, ["1 / 0"] * 3)
  assert verdicts == [Verdict(0.0)] * 3


def test_a_sandbox_that_breaks_down_is_replaced_once(verifier, monkeypatch):
  run, breakdowns = verifier._pool.run, []

  def breaking(code, stdins):
    if breakdowns.pop():
      raise sandbox.Died("gone")
    yield from run(code, stdins)

  monkeypatch.setattr(verifier._pool, "run", breaking)
  code = "print(2 * int(input()))"
  breakdowns[:] = [False, True]
  assert verifier.judge([_DOUBLE], [code]) == [Verdict(1.0)]
  breakdowns[:] = [True, True]
  assert verifier.judge([_DOUBLE], [code]) == [Verdict(0.0, died=True)]


# Rewards that are not earned.

_LOOK_FOR = """
def look_for(word):
  import gc, os, sys
  seen, todo = set(), [gc.get_objects(), dict(sys.modules), globals()]
  frame = sys._getframe()
  while frame:
    todo.append([frame.f_locals, frame.f_globals, frame.f_code])
    frame = frame.f_back
  for folder, _, files in os.walk("/"):
    if folder.startswith(("/tmp", "/inside", "/proc", "/etc")):
      for name in files:
        try: todo.append(open(os.path.join(folder, name)).read())
        except Exception: pass
  while todo:
    x = todo.pop()
    if id(x) in seen or x is word: continue
    seen.add(id(x))
    if isinstance(x, (str, bytes)):
      text = x if isinstance(x, str) else x.decode(errors="replace")
      if word in text and "look_for" not in text: return text
    elif len(seen) < 300_000:
      try: todo += gc.get_referents(x)
      except Exception: pass
  return ""
"""


def test_expected_outputs_are_nowhere_to_be_found():
  for verifier in _verifier(timeout_seconds=5.0, partial=False):
    secret = "answer-" + "7" * 9
    problem = _problem("stdin", [{"input": "question-1", "output": secret}])
    # The search works: it finds its input, and nothing else.
    code = _LOOK_FOR + "import sys; n = sys.stdin.read()\nprint(look_for({!r}))"
    question = _problem(
      "stdin", [{"input": "question-1", "output": "question-1"}]
    )
    assert _examine(verifier, question, code.format("question-")) == ["passed"]
    assert _examine(verifier, problem, code.format("answer-")) == ["wrong"]
    problem = _problem("call", [{"input": [1], "output": secret}])
    code = _LOOK_FOR + "def f(n): return look_for('answer-')"
    assert _examine(verifier, problem, code) == ["wrong"]
    problem = _problem("asserts", [f"assert f(1) == {secret!r}"])
    assert _examine(verifier, problem, code) == ["wrong"]
    # Nor is the text of the test, or of those that come after it.
    problem = _problem("asserts", ["assert f(1) == ''", "assert f(2) == ''"])
    code = _LOOK_FOR + "def f(n): return look_for('assert f' + '(')"
    assert _examine(verifier, problem, code) == ["passed", "passed"]


_SPEAK = """
import json, os, struct
def speak(*messages):
  for m in messages:
    data = json.dumps(m).encode()
    for fd in range(64):
      try: os.write(fd, struct.pack(">I", len(data)) + data)
      except OSError: pass
"""


@pytest.mark.parametrize(
  "code",
  [
    "import os; os._exit(0)",
    "import sys; sys.exit(0)",
    "import atexit, os; atexit.register(os._exit, 0)\ndef f(n): exit()",
    "print('passed'); print('4\\n9\\n1600')",
    _SPEAK + "speak({'status': 'passed'}, {'status': 'passed', 'text': ''})",
    _SPEAK + "speak(*[{'value': True}] * 9)\ndef f(n): pass",
    _SPEAK + "def f(n): speak({'status': 'passed'}, {'ended': 'passed'})",
    _SPEAK + "def f(n): speak({'do': 'call'}, {'source': ''})",
    _SPEAK + "speak({'ended': 'passed'})",
    _SPEAK + "speak({'value': 1})\ndef f(n): pass\nspeak({'ended': 'passed'})",
    _SPEAK + "speak({'value': 1}, {'value': 1}, {'ended': ['passed']})",
    _SPEAK + "speak({'value': 1}, {'value': 1}, {'value': {'int': 'x'}})",
    _SPEAK + "speak({'value': 1}, {'value': 1}, {'value': {'int': 1, 'a': 2}})",
    _SPEAK
    + "speak({'value': 1}, {'value': 1}, {'value': {'complex': [10**400]}})",
    _SPEAK + "speak({'value': 1}, {'value': 1}, {'value': {'type': 'x'}})",
    "def f(n): return {10**5000: 1, 2: {}}",
    "def f(n): return 'x' * 10**7",
    "import os\nfor fd in range(64):\n  try: os.write(fd, b'\\xff' * 99)\n"
    "  except OSError: pass",
    "import os\nos.closerange(0, 64)\ndef f(n): return n * n",
    # Equal to everything.
    "class A:\n  def __eq__(self, other): return True\n"
    "  __hash__ = None\ndef f(n): return A()",
    "class A(int):\n  def __eq__(self, other): return True\n"
    "def f(n): return A(0)",
    "class A(str):\n  def __eq__(self, other): return True\n"
    "  def __ne__(self, other): return False\ndef f(n): return A()",
    "class A(list):\n  __class__ = int\n  def __eq__(self, o): return True\n"
    "def f(n): return A()",
    "from unittest.mock import ANY\ndef f(n): return ANY",
    "class Solution:\n  def __getattr__(self, n): return lambda *_: f\n"
    "  def __eq__(self, other): return True\nf = Solution()",
    # The checker is patched.
    "import builtins, sys\nbuiltins.AssertionError = SystemError\n"
    "builtins.__build_class__ = builtins.isinstance = lambda *_: True\n"
    "def f(n): return 0",
    'import json, sys\njson.dumps = lambda *_, **__: \'{"status": "passed"}\'\n'
    "json.loads = lambda *_: {}\ndef f(n): return 0",
    "import sys\nfor m in list(sys.modules.values()):\n"
    "  for n in ('encode', 'run_test', 'serve', 'send'):\n"
    "    if hasattr(m, n): setattr(m, n, lambda *_, **__: True)\n"
    "def f(n): return 0",
    "import sys\nframe = sys._getframe()\nwhile frame:\n"
    "  for n in ('reply', 'status'):\n    frame.f_locals[n] = 'passed'\n"
    "  frame = frame.f_back\ndef f(n): return 0",
    "check = candidate = assert_ = lambda *_: True\ndef f(n): return 0",
    "def f(n): raise AssertionError",
    "def f(n): raise StopIteration",
    "import os\nif os.fork() == 0: os._exit(0)",
    "import os\nos.kill(os.getppid(), 9)\ndef f(n): return n * n",
    "def f(n): return [0] * 10**9",
    "def f(n):\n  x = []\n  for _ in range(10**5): x = [x]\n  return x",
    "def f(n): yield n * n",
  ],
)
def test_unearned_rewards(verifier, code, monkeypatch):
  monkeypatch.setattr(sandbox_pool, "_GRACE_SECONDS", 0.0)  # one falls silent
  problems = [_DOUBLE, _SQUARE_CALLS, _SQUARE_ASSERTS]
  for report in verifier.examine(problems, [code] * 3):
    assert report.statuses
    assert "passed" not in report.statuses
    assert verifier._verdict(report) == Verdict(0.0)


def test_values_that_collide_take_no_time_out_here(verifier):
  """A set of them takes minutes to build; that would hold up all others."""
  code = f"""{_SPEAK}
same_hash = {{"set": [i * (2**61 - 1) for i in range(100_000)]}}
speak({{"value": 1}}, {{"value": 1}}, {{"value": same_hash}})
"""
  reply = """import json, os
reply = {"value": {"set": [i * (2**61 - 1) for i in range(100_000)]}}
os.write(3, json.dumps(reply).encode())
os._exit(0)
"""
  with ends():
    assert _examine(verifier, _SQUARE_CALLS, reply) == ["wrong"]
  # It is the checker's own time that it takes.
  code = code.replace("1}, {", '1}, {"value": {"reference": 0}}, {', 1)
  code = code.replace(', {"value": 1}', "", 1)
  assert _examine(verifier, _SQUARE_ASSERTS, code) == ["time limit"]


def test_names_of_the_tests_are_not_the_solutions(verifier):
  """math, sorted and the prompt's own functions are the genuine ones."""
  problem = _problem(
    "asserts",
    [
      "assert math.isclose(f(2), 4.0)",
      "assert sorted(f(3)) == [1, 2]",
      "assert abs(helper(f(4))) < 1",
    ],
    prompt_code="def helper(x):\n  return x - 9\ndef f(n):\n  ...\n",
  )
  hack = (
    "class math:\n  isclose = lambda *_: True\n"
    "sorted = lambda x: [1, 2]\nhelper = abs = lambda x: 0\n"
    "def f(n): return 3"
  )
  for n in range(3):
    single = _problem(
      "asserts",
      problem.metadata["tests"][n : n + 1],
      prompt_code=problem.metadata["prompt_code"],
    )
    assert _examine(verifier, single, hack) in (["wrong"], ["error"])
  right = "def f(n): return {2: 4.0, 3: (2, 1), 4: 9.5}[n]"
  assert _examine(verifier, problem, right) == _PASSED


# What tests legitimately do with a solution.


def test_asserts_see_objects_exceptions_and_changes(verifier):
  code = """
    class Node:
      def __init__(self, value): self.value, self.next = value, None
    def total(node): return node.value + total(node.next) if node else 0
    def count(n):
      while n: yield n; n -= 1
    def tidy(xs, seen): xs.sort(); seen["n"] = len(xs)
    def strict(n):
      if n < 0: raise ValueError("negative")
    class Odd(KeyError): pass
    def odd(): raise Odd("x")
    def of_type(x, kind): return isinstance(x, kind)
    LIMIT = {"a": (1, 2j, b"x", frozenset([3]))}
  """
  tests = [
    "n = Node(1); n.next = Node(2)\nassert total(n) == 3 and n.next.value == 2",
    "assert list(count(3)) == [3, 2, 1] and sum(count(4)) == 10",
    "it = iter(count(2))\nassert next(it) == 2",
    "xs, seen = [3, 1], {}\ntidy(xs, seen)\n"
    "assert (xs, seen) == ([1, 3], {'n': 2})",
    "try: strict(-1)\nexcept ValueError as e: assert str(e) == 'negative'\n"
    "else: assert False",
    "try: odd()\nexcept KeyError: pass\nelse: assert False",
    "assert of_type(1, int) and not of_type('', kind=float)",
    "assert LIMIT['a'] == (1, 2j, b'x', frozenset([3]))",
    "assert strict(1) is None",
  ]
  problem = _problem("asserts", tests, entry_point="")
  code = textwrap.dedent(code)
  assert _examine(verifier, problem, code) == ["passed"] * len(tests)


def test_prompts_are_completed_or_replaced(verifier):
  prompt = "from typing import List\n\ndef f(x: List[int]) -> int:\n  'Sum.'\n"
  problem = _problem(
    "asserts",
    ["def check(candidate):\n  assert candidate([1, 2]) == 3\ncheck(f)"],
    prompt_code=prompt,
  )
  for text in ("  return sum(x)\n", prompt + "  return sum(x)\n"):
    assert _examine(verifier, problem, text) == ["passed"]
  # Its functions and imports are there for one that begins anew.
  helped = "from typing import List\ndef add(x): return sum(x)\n" + prompt[25:]
  whole = "def f(x: List[int]) -> int:\n  return add(x)\n"
  given = _problem("asserts", problem.metadata["tests"], prompt_code=helped)
  assert _examine(verifier, given, whole) == ["passed"]
  # A prompt may end where the body is to begin.
  headless = _problem(
    "asserts",
    problem.metadata["tests"],
    prompt_code=prompt.partition("  'Sum")[0],
  )
  assert _examine(verifier, headless, "  return sum(x)\n") == ["passed"]
  whole = "def f(x: List[int]) -> int:\n  return sum(x)\n"
  assert _examine(verifier, headless, whole) == ["passed"]
  assert _examine(verifier, problem, f"So:\n```python\n{whole}```") == [
    "passed"
  ]
  assert _examine(verifier, problem, "  return 4") == ["wrong"]


@pytest.mark.parametrize(
  "value",
  [
    [None, True, 1, -1.5, "é\ud800", [], [[1, "x"]]],
    {1: (2, {3}), "k": frozenset([4]), None: b"\xff", (1, 2): 1 + 2j},
    [2**63, -(10**5000), float("inf")],
    [int, {"t": tuple}],
  ],
)
def test_plain_data_comes_back(value):
  coded = json.loads(json.dumps(plain.encode(value)))
  decoded = plain.decode(coded)
  assert decoded == value
  assert [type(x) for x in decoded] == [type(x) for x in value]


@pytest.mark.parametrize("value", [object(), len, [lambda: 0], {"a": range(3)}])
def test_other_data_is_refused(value):
  with pytest.raises(TypeError, match="not plain data"):
    plain.encode(value)


@pytest.fixture
def converse(monkeypatch):
  """`_converse`; what it leaves in this process is undone."""
  for name in ("__main__", "solution", "tests"):
    monkeypatch.setitem(sys.modules, name, sys.modules.get(name))
  monkeypatch.setattr(sys, "argv", sys.argv[:])
  return _converse


def _converse(code, source, **settings):
  """Runs a test of some code, both in this process."""
  to_code, to_test = queue.Queue(), queue.Queue()

  def receive():
    message = to_code.get()
    if message is None:
      raise SystemExit
    return json.loads(message)

  send = lambda message: to_test.put(json.dumps(message))

  def serve():
    with contextlib.suppress(SystemExit):
      serving.serve(code, receive, send)

  thread = threading.Thread(target=serve)
  thread.start()
  try:
    assert "value" in json.loads(to_test.get())
    return checking.run_test(
      source,
      **{"setup": "", "prompt_code": "", "entry_point": "f"} | settings,
      receive=lambda: json.loads(to_test.get()),
      send=lambda message: to_code.put(json.dumps(message)),
    )
  finally:
    to_code.put(None)
    thread.join()


@pytest.mark.parametrize(
  ("code", "source", "status"),
  [
    ("def f(x): x.append(1); return x", "x = [0]\nassert f(x) == x", "passed"),
    ("def f(x): x.add(1)", "x = {0}; f(x)\nassert x == {0, 1}", "passed"),
    ("class f:\n  y = 3", "assert f().y == 3 and f.y == 3", "passed"),
    ("f = map(abs, [-1, 2])", "assert list(f) == [1, 2]", "passed"),
    ("f = range(5)", "assert len(f) == 5 and f[2] == 2", "passed"),
    ("class f: pass", "x = f(); x.y = 4\nassert x.y == 4", "passed"),
    ("def f(): 1 / 0", "try: f()\nexcept ArithmeticError: pass", "passed"),
    ("def f(): raise type('E', (BaseException,), {})", "f()", "error"),
    ("def f(): bytearray(2**60)", "try: f()\nexcept MemoryError: 1", "passed"),
    ("def f(): return 1", "assert f() == 2, 'no'", "wrong"),
    (
      "f = 1",
      "from dataclasses import dataclass\n@dataclass\nclass A:\n  x: int\n"
      "assert A(f).x == 1 and A.__annotations__['x'] is int",
      "passed",
    ),
    ("f = object()", "assert f", "error"),
    ("f = object()", "assert f == f", "error"),
    ("f = object()", "import copy; copy.copy(f)", "error"),
    ("def f(g): return g(1)", "assert f(lambda x: x) == 1", "error"),
    ("f = 1", "assert g == 1", "error"),
    ("f = 1", "raise SystemExit", "error"),
    ("def f(x): raise StopIteration", "assert all(map(f, [0, 1]))", "error"),
    (
      "f = iter([1])",
      "next(f)\ntry: next(f)\nexcept StopIteration: 1",
      "passed",
    ),
    ("f = sum = lambda x: 3", "assert sum([1]) == 1 == f(0) - 2", "passed"),
  ],
)
def test_solutions_and_tests_converse(converse, code, source, status):
  assert converse(code, source)[0] == status


# Reference solutions.


def _read(task, name):
  """The rows of a file, and what the task's reader makes of them."""
  path = _DATA / name
  if not path.exists():
    pytest.skip(f"needs {path.parent.name}/{path.name}")
  rows = list(map(json.loads, path.read_text().splitlines()))
  source = SOURCES[task]
  read = [source.read(Getter(source.columns, row)) for row in rows]
  problems = [
    Problem(str(i), parts.prompt, "", task, "train", i, parts.metadata)
    for i, parts in enumerate(read)
  ]
  return rows, problems


def _block(code):
  return f"It is:\n```python\n{code}\n```"


def _patient():
  return _verifier(timeout_seconds=10.0, total_seconds=120.0, partial=False)


@pytest.mark.slow
def test_humaneval_references():
  rows, problems = _read("humaneval", "humaneval/test.jsonl")
  _, goes_on = _read("humaneval_completion", "humaneval/test.jsonl")
  bodies = [row["canonical_solution"] for row in rows]
  whole = [_block(row["prompt"] + row["canonical_solution"]) for row in rows]
  for verifier in _patient():
    # Those with an even number as a block, the others as what follows.
    both = [(problems, whole), (goes_on, bodies)]
    some = range(0, 164, int(os.environ.get("HUMANEVAL_EVERY", "3")))
    verdicts = verifier.judge(
      [both[i % 2][0][i] for i in some], [both[i % 2][1][i] for i in some]
    )
    assert sum(v.reward for v in verdicts) == len(some)
    # The next problem's solution is none.
    shifted = verifier.judge(problems[:20], whole[1:21])
    shifted += verifier.judge(goes_on[:20], bodies[1:21])
    assert sum(v.reward for v in shifted) == 0


@pytest.mark.slow
def test_mbpp_references():
  rows, problems = _read("mbpp", "mbpp/all.jsonl")
  # All of them take a minute of CPU time: MBPP_EVERY=1, and HUMANEVAL_EVERY=1.
  some = range(0, len(rows), int(os.environ.get("MBPP_EVERY", "9")))
  chosen = [i for i in range(len(rows)) if i in some or i in (366, 926)]
  rows, problems = [rows[i] for i in chosen], [problems[i] for i in chosen]
  for verifier in _patient():
    reports = verifier.examine(problems, [_block(r["code"]) for r in rows])
    failed = [
      (row["task_id"], report.statuses)
      for row, report in zip(rows, reports)
      if report.statuses != ["passed"] * report.num_tests
    ]
    # 367 and 927 fail only where their set-up runs before the solution.
    assert failed == []
