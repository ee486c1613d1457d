r"""One answer against the gold one: the rules of docs/verifiers.md.

`at_a_glance` quickly decides what needs no algebra (text, names, options, clock
times, numbers); `equivalent` decides the rest, and may take forever.
"""

import re
from collections.abc import Callable

from prefixrl_jax.rewards import (
  assignments,
  names,
  quantities,
  statements,
  units,
)
from prefixrl_jax.rewards.spelling import clean, plain, read

# Longer answers are wrong unless equal as text.
_LONGEST = 1000

_SIDES = re.compile(r"(?<![<>!:\\])=")
_IMPROPER = re.compile(
  r"[-+]?[\d ]*\d\s*(?:\s\d+/\d+|\\[dtc]?frac\s*\{\d+\}\s*\{\d+\})"
)
_DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d{1,2}|\d{4,})(?!\d)([^\d,]*)")
# What an answer may assign its value to: x, f(3), \angle A, "the area".
_LEFT_SIDE = re.compile(
  r"(?:[A-Za-z' ]|\\(?!frac|sqrt|cdot|times|sum|int)[a-zA-Z]+|_\{?\w+\}?"
  r"|\{[A-Za-z' ]*\}|\([A-Za-z0-9, ]*\))*"
)
_DEFINED = re.compile(r"(?<![\\A-Za-z])([A-Za-z])\(([A-Za-z])\)\s*=")
_TO = re.compile(  # 3 to 4
  r"(?<=\d)\s*(?:to|\\text[a-z]*\s*\{\s*to\s*\})\s*(?=\d)"
)
_CONSTANT = re.compile(r"[+-]\s*([CcKk])\Z")
_LABEL = re.compile(
  r"(?:\\(?:text|math)[a-z]*\s*\{\s*\([A-Z]\)\s*\}|\([A-Z]\)\s)\s*(?=[^\s+*/^=-])"
)
_SEVERAL = re.compile(r"[,;<>|]|\\[lg]eq?(?![a-zA-Z])|\b(?:and|or)\b")

# If the gold answer is a number, the answer must be worked out, so that the
# question's own expression is no answer.
_POWER_OF_TEN = re.compile(
  r"(?:(?:\\times|\\cdot|\*|×)\s*)?(?<!\d)10\s*\^\s*(?:\{\s*-?\d+\s*\}|\d)"
  r"(?!\s*[\d.])"
)
_OPERATION = re.compile(r"[\w})|\]]\s*(?:[-+*!×÷^]|\()|\||\d\s+[\d.]")
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_NAMED = re.compile(r"^\s*[A-Za-z]\s*\\(?:in|approx)(?![a-zA-Z])")  # x \in {7}
_VARIABLE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z](?![A-Za-z])")
_VALUES = frozenset(
  {"frac", "dfrac", "tfrac", "cfrac", "overline", "circ", "approx", "in"}
  | {"text", "textbf", "mbox", "mathrm"}
)


def at_a_glance(gold: str, answer: str, statement: str = "") -> bool | None:
  """Whether an answer is right; None: only `equivalent` can decide.

  Args:
    gold, answer: as extracted; LaTeX or plain, with or without $.
    statement: the problem's; what only repeats it is no answer.
  """
  if len(answer) > 4 * max(_LONGEST, len(gold)):
    return False
  gold, answer = _with_colons(gold, answer)
  wanted, given = read(gold), read(answer)
  gold, answer = clean(gold), clean(answer)
  if not gold or not answer:
    return False
  if plain(wanted) == plain(given):
    return True
  size = units.ratio(quantities.unit_of(wanted), quantities.unit_of(given))
  if plain(gold) == plain(answer) and size == 1:
    return True
  if max(len(answer), len(gold)) > _LONGEST:
    return False
  for rule in (names.same_option, names.same_time, names.same_name):
    if (result := rule(gold, answer)) is not None:
      return result
  if (result := names.same_base(gold, answer, statement)) is not None:
    return result
  wanted, answer = _with_point(wanted, given), _with_point(given, wanted)
  number = quantities.read(wanted, words=None)
  if number is None:
    return None if size == 1 else False
  if label := _LABEL.match(answer):
    answer = answer[label.end() :]
  *sides, last = (side.strip() for side in _SIDES.split(answer))
  if any(_SEVERAL.search(side) for side in sides):
    return None
  known = units.words_of(gold) | units.words_of(statement)
  other = quantities.read(_without_brackets(last), known)
  if any(
    (n := quantities.read(side)) and not n.equals(other or number)
    for side in sides
  ):
    return False  # 2 = 3
  if other and not _is_variable(other.unit, statement):
    asked = "" if number.unit else units.asked_for(other.unit, statement)
    if asked is None:
      return False
    number = number._replace(unit=number.unit + asked)
    if not number.equals(other) or _repeats_number(statement, number, other):
      return False
    # An equation may be the question's own.
    is_named = all(_LEFT_SIDE.fullmatch(side) for side in sides)
    return True if is_named or not statement else None
  is_value = _is_worked_out(last) and not _IMPROPER.fullmatch(last)
  return None if is_value else False


def equivalent(gold: str, answer: str, statement: str = "") -> bool:
  """Whether an answer is right, with no time limit.

  Args:
    gold, answer, statement: see `at_a_glance`.
  """
  known = at_a_glance(gold, answer, statement)
  if known is not None:
    return known
  from prefixrl_jax.rewards import equality, formulas

  gold, answer = map(clean, _with_colons(gold, answer))
  ordered = assignments.in_order(gold, answer, statement)
  if ordered is None:
    return False
  gold, answer = ordered
  answer = _with_constant_of(gold, _with_argument_of(gold, answer))
  ours, theirs = formulas.read(gold), formulas.read(answer)
  if ours is None or theirs is None or not equality.equal(ours, theirs):
    return False
  if equality.is_unsolved(theirs) and not equality.is_unsolved(ours):
    # The relation that was to be solved is not right either, in any form.
    shown = map(_reader(), statements.formulas_of(statement))
    if any(
      equality.is_relation(x) and equality.equal(x, theirs) for x in shown
    ):
      return False
  return not statements.repeats(statement, gold, answer, _reader())


def is_readable(gold: str) -> bool:
  """Whether a gold answer can be compared as more than text."""
  from prefixrl_jax.rewards import formulas

  gold = clean(gold)
  return (
    quantities.read(gold, words=None) is not None
    or formulas.read(gold) is not None
    or any(
      rule(gold, gold)
      for rule in (names.same_option, names.same_time, names.same_name)
    )
  )


# Numbers.


def _without_brackets(text: str) -> str:
  while text[:1] + text[-1:] in ("()", "{}"):
    text = text[1:-1].strip()
  return text


def _is_variable(unit: str, statement: str) -> bool:
  """Whether 3m is three times the statement's m rather than a length."""
  letter = re.match(r"[a-zA-Z](?![a-zA-Z])", unit)
  if not letter:
    return False
  alone = rf"(?<![a-zA-Z\\]){letter[0]}(?![a-zA-Z])"
  return bool(re.search(alone, statement))


def _repeats_number(
  statement: str, gold: quantities.Number, answer: quantities.Number
) -> bool:
  """Whether a number is written as in the statement, unlike the gold one."""
  if answer.form == gold.form or not statement:
    return False
  shown = (
    quantities.read(clean(part), words=None)
    for part in statements.numbers_of(statement)
  )
  return any(number and number.form == answer.form for number in shown)


def _with_colons(gold: str, answer: str) -> tuple[str, str]:
  """Reads "3 to 4" as a ratio if the other side is one."""
  if ":" not in gold + answer:
    return gold, answer
  return _TO.sub(":", gold), _TO.sub(":", answer)


def _with_point(text: str, other: str) -> str:
  """Reads a comma as a decimal one if the other side has a point."""
  match = _DECIMAL_COMMA.fullmatch(text)
  return f"{match[1]}.{match[2]}{match[3]}" if match and "." in other else text


def _is_worked_out(answer: str) -> bool:
  answer = _NAMED.sub("", _POWER_OF_TEN.sub(" 0", answer))
  return (
    not _OPERATION.search(answer)
    and _VALUES.issuperset(_COMMAND.findall(answer))
    and not _VARIABLE.search(answer)
  )


# Formulas.


def _with_argument_of(gold: str, answer: str) -> str:
  """Renames the argument of a function both define: f(x) = x is f(t) = t."""
  theirs, ours = _DEFINED.search(gold), _DEFINED.search(answer)
  if not (theirs and ours) or theirs[1] != ours[1] or theirs[2] in answer:
    return answer
  return re.sub(rf"(?<![\\A-Za-z]){ours[2]}(?![A-Za-z])", theirs[2], answer)


def _with_constant_of(gold: str, answer: str) -> str:
  """Renames the constant of an integral: x + c is x + C."""
  ours, theirs = _CONSTANT.search(answer), _CONSTANT.search(gold)
  if not (ours and theirs) or theirs[1] in answer or ours[1] in answer[:-1]:
    return answer
  return answer[:-1] + theirs[1]


def _reader() -> Callable:
  from prefixrl_jax.rewards import formulas

  return lambda text: formulas.read(clean(text))
