"""How the math verifier agrees with other graders' tests, and its speed.

  python -m benchmarks.verifiers --folder=GRADER_CASES --problems=MATH.jsonl \\
    --model_traces=TRACES.jsonl

GRADER_CASES is a folder of JSONL files with rows of gold, candidate, expected,
origin and options, or (extraction*, normalise*) of text, expected and origin.
docs/verifiers.md has what it prints.
"""

import contextlib
import json
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from benchmarks import measuring
from prefixrl_jax.rewards import comparison, math, statements
from prefixrl_jax.types import Problem

_FOLDER = flags.DEFINE_string("folder", None, "Of grader cases.")
_PROBLEMS = flags.DEFINE_string("problems", None, "JSONL with `answer`.")
_TRACES = flags.DEFINE_multi_string("model_traces", [], "JSONL with `traces`.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Worker processes.")
_SECONDS = flags.DEFINE_float("seconds", 15.0, "Limit of a comparison.")

# A candidate is a whole response if it has a box or prose; else an answer.
_RESPONSE = re.compile(r"boxed|Answer|(?<!\\)\b[a-zA-Z]{2,}\s+[a-zA-Z]{2,}\b")


def read_cases(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of a file, each with its origin's short name."""
  cases = [json.loads(line) for line in path.read_text().splitlines()]
  for case in cases:
    case["group"] = case["origin"].partition("@")[0].rpartition("/")[2]
  return cases


def agreements(
  verifier: math.MathVerifier, cases: Sequence[dict[str, Any]]
) -> list[bool]:
  """Returns for each case whether the verdict is the expected one."""
  verdicts = verifier.judge(
    [_problem(case["gold"]) for case in cases],
    [_response(case) for case in cases],
  )
  return [
    (verdict.reward == 1) == case["expected"]
    for case, verdict in zip(cases, verdicts)
  ]


def read_traces(
  path: pathlib.Path,
) -> tuple[list[Problem], list[str], list[bool]]:
  """Returns problems, texts and others' verdicts of a file of model traces.

  Its rows have problem, answer (or a reference that ends with "A: answer") and
  traces of text and correct.
  """
  problems, texts, verdicts = [], [], []
  for line in path.read_text().splitlines():
    row = json.loads(line)
    gold = row.get("answer") or row["reference"].rpartition("A:")[2].strip()
    for trace in row["traces"]:
      problems.append(_problem(gold, row["problem"], row["id"]))
      texts.append(trace["text"])
      verdicts.append(trace["correct"])
  return problems, texts, verdicts


def accepted_repetitions(
  verifier: math.MathVerifier, path: pathlib.Path, step: int = 1
) -> list[tuple[str, str]]:
  """Returns (gold, answer) where a formula of the question itself is right.

  Tried are all formulas of each statement, their sides and listed parts, as
  they are and trivially rewritten; not those that the gold answer is as text.

  Args:
    verifier: to be tried.
    path: JSONL with problem and answer.
    step: takes every step-th problem.
  """
  problems, answers = [], []
  for line in path.read_text().splitlines()[::step]:
    row = json.loads(line)
    for formula in statements.formulas_of(row["problem"]):
      for answer in _rewritten(formula):
        problems.append(_problem(row["answer"], row["problem"]))
        answers.append(answer)
  boxed = [rf"\boxed{{{answer}}}" for answer in answers]
  return [
    (problem.answer, answer)
    for problem, answer, verdict in zip(
      problems, answers, verifier.judge(problems, boxed)
    )
    if verdict.reward == 1
    and not comparison.at_a_glance(problem.answer, answer)
  ]


def _rewritten(formula: str) -> list[str]:
  return list(
    dict.fromkeys(
      (
        formula,
        formula.replace(r"\frac", r"\dfrac").replace("+", " + "),
        rf"1 \cdot ({formula})",
        f"{formula} + 0",
      )
    )
  )


def _problem(gold: str, statement: str = "", name: str = "") -> Problem:
  return Problem(name, statement, gold, "", "train", 0)


def _response(case: dict[str, Any]) -> str:
  candidate = case["candidate"]
  if "full_response" in case["options"] or _RESPONSE.search(candidate):
    return candidate
  return rf"\boxed{{{candidate}}}"


def _agrees_as_text(case: dict[str, Any]) -> bool:
  """Of rows without gold: what is taken from a text, or a text's normal form.

  A text need not be written like its normal form, but must be equal to it.
  """
  text, expected = case["text"], case["expected"]
  if case["file"].startswith("extraction"):
    found = math.final_answers(text)
    return (found[-1] if found else None) == (expected and str(expected))
  return comparison.equivalent(text, expected)


def _show_agreement(verifier: math.MathVerifier, folder: pathlib.Path) -> None:
  graded: list[dict[str, Any]] = []
  others: list[dict[str, Any]] = []
  for file in sorted(folder.glob("*.jsonl")):
    for case in read_cases(file):
      case["file"] = file.name
      (graded if "candidate" in case else others).append(case)
  agree = agreements(verifier, graded) + [_agrees_as_text(c) for c in others]
  cases = graded + others
  table = Table(title="agreement with other graders' tests")
  for name in ("file", "origin", "cases", "agree"):
    table.add_column(name)
  for file, group in sorted({(c["file"], c["group"]) for c in cases}):
    ours = [
      a
      for c, a in zip(cases, agree)
      if (c["file"], c["group"]) == (file, group)
    ]
    table.add_row(file, group, str(len(ours)), str(sum(ours)))
  console = Console()
  console.print(table)
  for case, is_same in zip(cases, agree):
    if not is_same:
      texts = [case[k] for k in ("gold", "candidate", "text") if k in case]
      console.print(
        f"{case['group']}: {' | '.join(map(repr, texts))}"
        f" wanted {case['expected']!r}",
        markup=False,
        soft_wrap=True,
      )


def _show_speed(path: pathlib.Path) -> None:
  """Every gold answer against those of the eight problems after it."""
  golds = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
  pairs = [
    (gold, golds[(i + k) % len(golds)])
    for i, gold in enumerate(golds)
    for k in range(1, 9)
  ]
  hard = [p for p in dict.fromkeys(pairs) if comparison.at_a_glance(*p) is None]
  for name, some in (("all", pairs), ("those that need algebra", hard)):
    seconds, timeouts = _timed(some)
    started = time.process_time()
    for pair in some:
      comparison.equivalent(*pair)
    cpu = time.process_time() - started
    print(
      f"{name}: {len(some)} verdicts in {seconds:.1f} s:"
      f" {len(some) / seconds:.0f}/s in {_WORKERS.value} processes;"
      f" {len(some) / cpu:.0f} a CPU second; {timeouts} timed out"
    )


def _timed(pairs: Sequence[tuple[str, str]]) -> tuple[float, int]:
  """Returns wall-clock seconds and time-outs of new workers, once started."""
  verifier = _verifier()
  verifier.judge(
    [_problem("x")] * _WORKERS.value,
    [rf"\boxed{{{i}x}}" for i in range(2, 2 + _WORKERS.value)],
  )
  started = time.monotonic()
  verdicts = verifier.judge(
    [_problem(gold) for gold, _ in pairs],
    [rf"\boxed{{{answer}}}" for _, answer in pairs],
  )
  seconds = time.monotonic() - started
  verifier.close()
  return seconds, sum(v.timed_out for v in verdicts)


def _verifier() -> math.MathVerifier:
  return math.MathVerifier(
    num_workers=_WORKERS.value, timeout_seconds=_SECONDS.value
  )


def _show_traces(verifier: math.MathVerifier, path: pathlib.Path) -> None:
  problems, texts, theirs = read_traces(path)
  ours = [v.reward == 1 for v in verifier.judge(problems, texts)]
  both = sum(a and b for a, b in zip(ours, theirs))
  print(
    f"{path.parent.name}: {len(texts)} traces, both call {both} right;"
    f" {sum(ours) - both} only we, {sum(theirs) - both} only they"
  )


def main() -> None:
  """Prints the tables that the flags ask for."""
  with contextlib.closing(_verifier()) as verifier:
    if _FOLDER.value:
      _show_agreement(verifier, pathlib.Path(_FOLDER.value))
    for traces in _TRACES.value:
      _show_traces(verifier, pathlib.Path(traces))
    if _PROBLEMS.value:
      path = pathlib.Path(_PROBLEMS.value)
      accepted = accepted_repetitions(verifier, path)
      print(f"{len(accepted)} formulas of a question are right: {accepted}")
  if _PROBLEMS.value:
    _show_speed(path)


if __name__ == "__main__":
  measuring.run(main)
