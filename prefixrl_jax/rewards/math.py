r"""The math verifier: a final answer against the gold one.

docs/verifiers.md has the rules. In short: the answer stands in boxes, else on
an answer line, else it is the last line's only number. Two different boxed
answers are wrong. Numbers are compared exactly, here; all else is judged by
math-verify, in a process that can be killed. Running out of time is wrong, and
is counted.
"""

import functools
import logging
import re
from collections.abc import Sequence
from typing import Any

from prefixrl_jax.rewards import Verdict, answers, numbers
from prefixrl_jax.rewards.workers import TIMED_OUT, WorkerPool
from prefixrl_jax.thoughts import without_thoughts
from prefixrl_jax.types import Problem

# Longer answers, and more of them, are wrong unless equal as text.
_LONGEST = 1000
_MOST_ANSWERS = 4
# What a worker may allocate, so that 10^{10^{10}} does not take the machine.
_MEMORY_BYTES = 4 * 2**30
# Floats amid a formula are equal up to rounding errors.
_FLOAT_PLACES = 12

_DELIMITER = re.compile(r"\\?\$|\\[()\[\]]|\\displaystyle(?![a-zA-Z])")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_FORMULA = re.compile(
  r"\$\$([^$]+)\$\$|(?<!\\)\$([^$]+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL
)
_NOTHING = re.compile(
  r"\\!\s*|(?<=\d)\\,(?=\d{3})|\\(?:left|right)(?![a-zA-Z])"
)
_SPACE = re.compile(r"\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\s+")
_COMMA = re.compile(r"\s*\{\s*,\s*\}\s*")
_WRAPPED = re.compile(
  r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf)|mbox)\s*\{([^{}]*)\}"
)
_OR = re.compile(r"(?<=[\d)])(and|or)(?=[\d(A-Z])")
_DEFINED = re.compile(r"(?<![\\A-Za-z])([A-Za-z])\(([A-Za-z])\)\s*=")
_OPEN_BOX = re.compile(r"^.*\\{1,2}(?:boxed|fbox)\s*\{", re.DOTALL)
_LETTER = re.compile(r"^\(([A-Za-z])\)$")
_BASE = re.compile(r"(\w+)_\{?(\d+)\}?")
_SIDES = re.compile(r"(?<![<>!:\\])=")
_SEVERAL = re.compile(r"[,;<>|]|\\[lg]eq?(?![a-zA-Z])|\b(?:and|or)\b")
# Text with a number in it; a word at which math-verify begins to search.
_UNREADABLE = re.compile(
  r"\\(?:text|mbox)\s*\{[^{}]*\d[^{}]*\}|answer", re.IGNORECASE
)

# Where the gold answer is a number, the answer must have been worked out, so
# that the question's own expression is no answer.
_POWER_OF_TEN = re.compile(
  r"(?:(?:\\times|\\cdot|\*|×)\s*)?(?<!\d)10\s*\^\s*(?:\{\s*-?\d+\s*\}|\d)"
)
_OPERATION = re.compile(r"[\w})|\]]\s*(?:[-+*!×÷^]|\()|\|")
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_VALUES = frozenset(
  {"frac", "dfrac", "tfrac", "cfrac", "overline", "circ", "approx", "pm", "in"}
  | {"text", "mbox", "mathrm"}
)


class MathVerifier:
  """Judges completions of problems whose answer is a number or formula."""

  def __init__(self, *, num_workers: int, timeout_seconds: float):
    """Starts no process before one is needed.

    Args:
      num_workers: processes.
      timeout_seconds: limit of one comparison.
    """
    self._pool = WorkerPool(
      _work,
      prepare=_prepare,
      num_workers=num_workers,
      timeout_seconds=timeout_seconds,
      memory_bytes=_MEMORY_BYTES,
    )

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`."""
    found = [
      [(problem.answer, answer) for answer in final_answers(text)]
      for problem, text in zip(problems, texts)
    ]
    # Completions of one problem often agree: each pair is judged once.
    known: dict[tuple[str, str], Any] = {}
    for pairs in found:
      if len(pairs) <= _MOST_ANSWERS:
        known |= {p: at_a_glance(*p) for p in pairs if p not in known}
    hard = [pair for pair, result in known.items() if result is None]
    known.update(zip(hard, self._pool.map(hard)))
    return [_verdict([known.get(pair) for pair in pairs]) for pairs in found]

  def unparseable(self, golds: Sequence[str]) -> list[int]:
    """Returns which gold answers can be compared as text alone."""
    results = self._pool.map([(gold, None) for gold in golds])
    return [i for i, result in enumerate(results) if result is not True]

  def close(self) -> None:
    """Ends the worker processes."""
    self._pool.close()


def final_answers(text: str) -> list[str]:
  """Returns the different final answers of a completion; see `answers.given`.

  Without box and answer line it is the only formula in $ or else the only
  number of the last sentence, or of what follows its last "is" or "=". Bare
  numbers line by line are a list and no answer.
  """
  if answers.is_marked(text):
    return answers.given(text)
  sentence = answers.last_sentence(text)
  lines = without_thoughts(text).split()
  if len(lines) > 1 and all(map(numbers.read, lines)):
    return []
  formulas = _FORMULA.findall(sentence)
  if formulas:
    return ["".join(formulas[0])] if len(formulas) == 1 else []
  for part in (_SIDES.split(answers.after_is(sentence))[-1], sentence):
    if number := numbers.only_one(part):
      return [number]
  return []


def has_answer(text: str) -> bool:
  """Says whether a completion gives a final answer, or several."""
  return bool(final_answers(text))


def at_a_glance(gold: str, answer: str) -> bool | None:
  """Says whether two answers are equal; None: math-verify must be asked."""
  gold, answer = clean(gold), clean(answer)
  if not gold or not answer:
    return False
  if _plain(gold) == _plain(answer):
    return True
  if max(len(answer), len(gold)) > _LONGEST:
    return False
  bases = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
  if any(bases):
    ours, theirs = (
      (b[1], b[2]) if b else (x, None) for b, x in zip(bases, (gold, answer))
    )
    return ours[0] == theirs[0] and (not all(bases) or ours == theirs)
  number = numbers.read(gold)
  if number is None:
    return None
  *sides, last = _SIDES.split(answer)
  if any(_SEVERAL.search(side) for side in sides):
    return None
  if other := numbers.read(last.strip()):
    return number.equals(other)
  return None if _is_worked_out(last) else False


def equivalent(
  gold: str,
  answer: str,
  *,
  decimals: int | None = None,
  strict: bool = True,
  allow_set_relation_comp: bool = True,
) -> bool:
  """Says whether two answers are equal, with no limit of time.

  Args:
    gold, answer: as extracted; LaTeX or plain, with or without $.
    decimals: places that decimals are rounded to; None: compared exactly.
    strict: variables have names; False: x + 1 is y + 1.
    allow_set_relation_comp: x > 1 is (1, oo), either way round.
  """
  if decimals is None and strict:
    known = at_a_glance(gold, answer)
    if known is not None:
      return known
  answer = _with_argument_of(gold, answer)
  read, other = _parse(gold), _parse(answer)
  is_exact = decimals is None and strict and "%" not in gold + answer
  if is_exact and _differ(read, other):
    return False
  import math_verify

  return math_verify.verify(
    list(read),
    list(other),
    float_rounding=_FLOAT_PLACES if decimals is None else decimals,
    strict=strict,
    allow_set_relation_comp=allow_set_relation_comp,
    timeout_seconds=None,
  )


def clean(answer: str) -> str:
  """Returns an answer without box, delimiters, odd spaces and unit."""
  if "\\boxed" in answer or "\\fbox" in answer:
    given = answers.given(answer)
    answer = given[-1] if given else _OPEN_BOX.sub("", answer)
  if "\\begin" not in answer:  # there, two backslashes end a row
    answer = _DOUBLED.sub(r"\\", answer)
  answer = _SPACE.sub(" ", _NOTHING.sub("", _DELIMITER.sub("", answer)))
  answer = (
    _OR.sub(r" \1 ", _COMMA.sub(",", answer)).lstrip(" :,;").rstrip(" .:,;")
  )
  return numbers.without_unit(answer)


def _plain(answer: str) -> str:
  """Returns what must be equal for two cleaned answers to be equal as text."""
  answer = _WRAPPED.sub(r"\1", re.sub(r"\\[dtc]frac", r"\\frac", answer))
  answer = re.sub(r"(?<!\d)\s|\s(?!\d)", "", answer)
  answer = _LETTER.sub(r"\1", answer)
  return answer.lower() if answer.isalpha() and len(answer) > 1 else answer


def _is_worked_out(answer: str) -> bool:
  answer = _POWER_OF_TEN.sub(" 0", answer)
  return not _OPERATION.search(answer) and _VALUES.issuperset(
    _COMMAND.findall(answer)
  )


def _with_argument_of(gold: str, answer: str) -> str:
  """Renames the argument of what both define: f(x) = x is f(t) = t."""
  theirs, ours = _DEFINED.search(gold), _DEFINED.search(answer)
  if not (theirs and ours) or theirs[1] != ours[1] or theirs[2] in answer:
    return answer
  return re.sub(rf"(?<![\\A-Za-z]){ours[2]}(?![A-Za-z])", theirs[2], answer)


@functools.lru_cache(maxsize=4096)  # a gold answer is compared with many
def _parse(answer: str) -> tuple:
  """Returns the sympy object that the whole answer is, if it is one.

  math-verify searches a text for what it can read; an answer must be read
  whole, or "17 or perhaps 18" would be 18.
  """
  answer = clean(answer)
  if len(answer) > _LONGEST or _UNREADABLE.search(answer):
    return ()
  import math_verify

  return tuple(
    math_verify.parse(
      f"$${answer}$$",
      [_latex()],
      parsing_timeout=None,
      fallback_mode="no_fallback",
    )
  )


def _differ(gold: tuple, answer: tuple) -> bool:
  """Says that two formulas differ if they do, clearly, at some values.

  Nearly all wrong answers end here, before sympy tries to simplify them away.
  """
  import sympy

  both = [*gold, *answer]
  if len(both) != 2 or not all(
    isinstance(x, sympy.Expr)
    and not isinstance(x, sympy.Symbol)
    and not x.has(sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit)
    for x in both
  ):
    return False
  symbols = sorted(set.union(*(x.free_symbols for x in both)), key=str)
  at = {symbol: 0.37 + 0.11 * i for i, symbol in enumerate(symbols)}
  try:
    ours, theirs = (complex(x.evalf(15, subs=at)) for x in both)
  except (TypeError, ValueError, OverflowError, ArithmeticError):
    return False
  return abs(ours - theirs) > 1e-6 * (1 + abs(ours))


@functools.cache
def _latex():
  """Returns how math-verify is to read; units are taken off by `clean`."""
  from latex2sympy2_extended import NormalizationConfig
  from math_verify import LatexExtractionConfig

  return LatexExtractionConfig(
    boxed_match_priority=-1,
    normalization_config=NormalizationConfig(
      basic_latex=True,
      units=False,
      malformed_operators=True,
      nits=True,
      boxed="none",
    ),
  )


def _verdict(results: Sequence[Any]) -> Verdict:
  """Every answer that a completion gives must be right."""
  if results and all(result is True for result in results):
    return Verdict(1.0)
  if any(result is False or result is None for result in results):
    return Verdict(0.0)
  timed_out = any(result is TIMED_OUT for result in results)
  return Verdict(0.0, timed_out, died=bool(results) and not timed_out)


def _prepare() -> None:
  """Runs in a worker before its first job: sympy takes a second to import."""
  import math_verify  # noqa: F401

  # It warns at every call that its time-outs are off; the pool's are better.
  logging.getLogger("math_verify").setLevel(logging.ERROR)


def _work(pair: tuple[str, str | None]) -> bool:
  """Runs in a worker; without an answer: can the gold one be read at all?"""
  gold, answer = pair
  if answer is None:
    return numbers.read(clean(gold)) is not None or bool(_parse(gold))
  return equivalent(gold, answer)
