r"""One answer against the gold one: the rules of docs/verifiers.md.

`at_a_glance` decides what needs no algebra (text, names, options, clock times,
numbers), quickly; `equivalent` decides the rest, and may take for ever.
"""

import re
from collections.abc import Callable

from prefixrl_jax.rewards import answers, numbers, statements, units

# Longer answers are wrong unless equal as text.
_LONGEST = 1000

_SIGNS = numbers.DASHES | str.maketrans(
  {"×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "/", "π": "\\pi "}
  | {"∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne "}
  | {"∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∠": "\\angle "}
  | {"△": "\\triangle ", "°": "^\\circ ", "\u202f": " ", "\xa0": " "}
)
_RAISED = re.compile(r"[⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_LOWERED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_DELIMITER = re.compile(r"\\?\$|(?<!\\)\\[()\[\]]|\\displaystyle(?![a-zA-Z])")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_NOTHING = re.compile(
  r"\\!\s*|(?<=\d)\\,(?=\d{3})|\\(?:left|right)(?![a-zA-Z])"
)
_SPACE = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\s+")
_COMMA = re.compile(r" ?\{ ?, ?\} ?")
_WRAPPED = re.compile(
  r"\\(?:text(?:bf|it|rm|sf|normal)?|math(?:rm|bf|sf|it)|mbox|textnormal)\s*"
  r"\{([^{}]*)\}"
)
_OR = re.compile(r"(?<=[\d)])(and|or)(?=[\d(A-Z])")
_DEFINED = re.compile(r"(?<![\\A-Za-z])([A-Za-z])\(([A-Za-z])\)\s*=")
_OPEN_BOX = re.compile(r"^.*\\{1,2}(?:boxed|fbox)\s*\{", re.DOTALL)
_LETTER = re.compile(r"^\(([A-Za-z])\)$")
_BASE = re.compile(r"(\w+)_\{?(\d+)\}?")
_SIDES = re.compile(r"(?<![<>!:\\])=")
_IMPROPER = re.compile(
  r"[-+]?[\d ]*\d\s*(?:\s\d+/\d+|\\[dtc]?frac\s*\{\d+\}\s*\{\d+\})"
)
_DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d{1,2}|\d{4,})")
# What an answer may give its value to: x, f(3), \angle A, "the area".
_LEFT_SIDE = re.compile(
  r"(?:[A-Za-z' ]|\\(?!frac|sqrt|cdot|times|sum|int)[a-zA-Z]+|_\{?\w+\}?"
  r"|\{[A-Za-z' ]*\}|\([A-Za-z0-9, ]*\))*"
)
_SEVERAL = re.compile(r"[,;<>|]|\\[lg]eq?(?![a-zA-Z])|\b(?:and|or)\b")

# "(A) 5", "A: the first", "option A".
_OPTION = re.compile(
  r"(?:(?:option|choice|answer)\s+)?(?:\(\s*([A-Z])\s*\)|([A-Z])(?=[).:]|\s-\s))"
  r"[).:]*(?P<rest>.*)",
  re.DOTALL | re.IGNORECASE,
)
_ONE_MORE = re.compile(
  r"\s*(?:and|or|,|;|/|&)\s*\(?[A-Z](?![a-z])", re.IGNORECASE
)
_LABEL = re.compile(
  r"(?:\\(?:text|math)[a-z]*\s*\{\s*\([A-Z]\)\s*\}|\([A-Z]\)\s)\s*(?=[^\s+*/^=-])"
)
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)\s*(?:([ap])\.?\s?m\.?)?", re.IGNORECASE)
_GEOMETRY = re.compile(
  r"(?:m\s*)?\\(?P<kind>(?:measured)?angle|triangle|overline|over(?:left)?right"
  r"arrow|vec)\s*\{?\s*(?P<points>[A-Z][A-Z\s]*)\}?"
)
_NAME = re.compile(r"[A-Za-z][A-Za-z']+|[A-Za-z0-9]*[A-Z]\d[A-Za-z0-9]*")
_SHORT_WORDS = frozenset({"no", "yes", "true", "false", "none"})

# Where the gold answer is a number, the answer must have been worked out, so
# that the question's own expression is no answer.
_POWER_OF_TEN = re.compile(
  r"(?:(?:\\times|\\cdot|\*|×)\s*)?(?<!\d)10\s*\^\s*(?:\{\s*-?\d+\s*\}|\d)"
)
_OPERATION = re.compile(r"[\w})|\]]\s*(?:[-+*!×÷^]|\()|\|")
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_VALUES = frozenset(
  {"frac", "dfrac", "tfrac", "cfrac", "overline", "circ", "approx", "pm", "in"}
  | {"text", "textbf", "mbox", "mathrm"}
)


def at_a_glance(gold: str, answer: str, statement: str = "") -> bool | None:
  """Says whether an answer is right; None: `equivalent` must be asked.

  Args:
    gold, answer: as extracted; LaTeX or plain, with or without $.
    statement: of the problem; what only repeats it is no answer.
  """
  if len(answer) > 4 * max(_LONGEST, len(gold)):
    return False
  gold, answer = clean(gold), clean(answer)
  if not gold or not answer:
    return False
  if _plain(gold) == _plain(answer):
    return True
  if max(len(answer), len(gold)) > _LONGEST:
    return False
  for rule in (_same_option, _same_time, _same_name, _same_base):
    if (result := rule(gold, answer)) is not None:
      return result
  gold, answer = _with_point(gold, answer), _with_point(answer, gold)
  number = numbers.read(gold, words=None)
  if number is None:
    return None
  if label := _LABEL.match(answer):
    answer = answer[label.end() :]
  *sides, last = (side.strip() for side in _SIDES.split(answer))
  if any(_SEVERAL.search(side) for side in sides):
    return None
  known = units.words_of(gold) | units.words_of(statement)
  other = numbers.read(_without_brackets(last), known)
  if other and not _is_variable(other.unit, statement):
    if not number.equals(other) or _repeats_number(statement, number, other):
      return False
    # An equation may be the question's own.
    is_named = all(_LEFT_SIDE.fullmatch(side) for side in sides)
    return True if is_named or not statement else None
  is_value = _is_worked_out(last) and not _IMPROPER.fullmatch(last)
  return None if is_value else False


def equivalent(gold: str, answer: str, statement: str = "") -> bool:
  """Says whether an answer is right, with no limit of time.

  Args:
    gold, answer, statement: see `at_a_glance`.
  """
  known = at_a_glance(gold, answer, statement)
  if known is not None:
    return known
  from prefixrl_jax.rewards import equality, formulas

  gold, answer = clean(gold), clean(answer)
  answer = _with_argument_of(gold, answer)
  ours, theirs = formulas.read(gold), formulas.read(answer)
  if ours is None or theirs is None or not equality.equal(ours, theirs):
    return False
  if equality.is_unsolved(theirs) and not equality.is_unsolved(ours):
    # Nor is the relation that was to be solved right, in any form.
    shown = map(_reader(), statements.formulas_of(statement))
    if any(
      equality.is_relation(x) and equality.equal(x, theirs) for x in shown
    ):
      return False
  return not statements.repeats(statement, gold, answer, _reader())


def is_readable(gold: str) -> bool:
  """Says whether a gold answer can be compared as more than text."""
  from prefixrl_jax.rewards import formulas

  gold = clean(gold)
  return (
    numbers.read(gold, words=None) is not None
    or formulas.read(gold) is not None
    or any(rule(gold, gold) for rule in (_same_option, _same_time, _same_name))
  )


def clean(answer: str) -> str:
  """Returns an answer without box, delimiters, odd spaces and unit."""
  if "\\boxed" in answer or "\\fbox" in answer:
    given = answers.given(answer)
    answer = given[-1] if given else _OPEN_BOX.sub("", answer)
  answer = _RAISED.sub(_lowered, answer).translate(_SIGNS)
  if "\\begin" not in answer:  # there, two backslashes end a row
    answer = _DOUBLED.sub(r"\\", answer)
  answer = _SPACE.sub(" ", _NOTHING.sub("", _DELIMITER.sub("", answer)))
  answer = _OR.sub(r" \1 ", _COMMA.sub(",", answer)).lstrip(" :,;")
  if not answer.rstrip().endswith("..."):
    answer = answer.rstrip(" .:,;")
  return numbers.without_unit(answer)


def _lowered(match: re.Match) -> str:
  return f"^{{{match.group().translate(_LOWERED)}}}"


def _plain(answer: str) -> str:
  """Returns what must be equal for two cleaned answers to be equal as text."""
  answer = re.sub(r"\\[dtc]frac", r"\\frac", answer)
  for _ in range(2):  # \textbf{\text{(A)}}
    answer = _WRAPPED.sub(r"\1", answer)
  answer = re.sub(r"(?<!\d)\s|\s(?!\d)", "", answer)
  return _LETTER.sub(r"\1", answer)


# Rules for what is no formula. Each says None where it does not apply.


def _same_option(gold: str, answer: str) -> bool | None:
  """Of options the letter counts; what stands behind it does not."""
  wanted = _plain(gold)
  if not re.fullmatch(r"[A-Z]", wanted):
    wanted = _option(gold) if "(" in gold[:12] and "{" in gold[:12] else ""
  if not wanted:
    return None
  found = _option(answer)
  if found:
    return found == wanted
  return _plain(answer) == wanted if _plain(answer).isalpha() else None


def _option(text: str) -> str:
  for _ in range(2):
    text = _WRAPPED.sub(r"\1", text)
  match = _OPTION.match(text.strip())
  if not match or _ONE_MORE.match(match["rest"]):
    return ""
  letter = match[1] or match[2]
  if not letter.isupper() or re.match(r"\s*[-+*/^=(]", match["rest"]):
    return ""
  return letter


def _same_time(gold: str, answer: str) -> bool | None:
  """2:30 is 2:30 p.m., since nothing else is said, but not 2:30 a.m."""
  ours, theirs = (_CLOCK.fullmatch(_plain(text)) for text in (gold, answer))
  if not ours:
    return None
  if not theirs:
    return False if ours[3] else None
  halves = {half.lower() for half in (ours[3], theirs[3]) if half}
  return (
    int(ours[1]) == int(theirs[1]) and ours[2] == theirs[2] and len(halves) < 2
  )


def _same_name(gold: str, answer: str) -> bool | None:
  """Names are letters in their order, and no products of them."""
  shapes = [_GEOMETRY.fullmatch(text) for text in (gold, answer)]
  if shapes[0]:
    kind, points = shapes[0]["kind"], _letters(shapes[0]["points"])
    if shapes[1]:
      if shapes[1]["kind"] != kind:
        return False
      other = _letters(shapes[1]["points"])
    else:
      other = _letters(answer)
    if kind == "triangle":
      return sorted(points) == sorted(other)
    is_directed = kind in ("overrightarrow", "vec")
    return other == points or (not is_directed and other == points[::-1])
  name, other = _plain(gold), _plain(answer)
  if not _NAME.fullmatch(name):
    return None
  if not other.isalnum():
    return None if len(name) <= 3 and name.islower() else False
  is_product = len(name) == 2 and name.islower() and name not in _SHORT_WORDS
  if is_product:  # xy is yx
    return sorted(name) == sorted(other)
  is_word = name.lower() in _SHORT_WORDS or (
    len(name) > 2 and not (name.isupper() and len(name) < 5)
  )
  return is_word and name.lower() == other.lower()


def _letters(text: str) -> str:
  return re.sub(r"[\s{}]", "", text)


def _same_base(gold: str, answer: str) -> bool | None:
  ours, theirs = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
  if ours and theirs:
    return ours.groups() == theirs.groups()
  if ours:
    return ours[1] == answer
  return theirs[1] == gold if theirs else None


# Numbers.


def _without_brackets(text: str) -> str:
  while text[:1] + text[-1:] in ("()", "{}"):
    text = text[1:-1].strip()
  return text


def _is_variable(unit: str, statement: str) -> bool:
  """Says whether 3m is three times the m of the statement, and no length."""
  letter = re.match(r"[a-zA-Z](?![a-zA-Z])", unit)
  if not letter:
    return False
  alone = rf"(?<![a-zA-Z\\]){letter[0]}(?![a-zA-Z])"
  return bool(re.search(alone, statement))


def _repeats_number(
  statement: str, gold: numbers.Number, answer: numbers.Number
) -> bool:
  """Says that a number is as the statement writes it, and the gold not so."""
  if answer.form == gold.form or not statement:
    return False
  shown = (
    numbers.read(clean(part), words=None)
    for part in statements.numbers_of(statement)
  )
  return any(number and number.form == answer.form for number in shown)


def _with_point(text: str, other: str) -> str:
  """Reads a comma as a decimal one where the other side has a point."""
  match = _DECIMAL_COMMA.fullmatch(text)
  return f"{match[1]}.{match[2]}" if match and "." in other else text


def _is_worked_out(answer: str) -> bool:
  answer = _POWER_OF_TEN.sub(" 0", answer)
  return not _OPERATION.search(answer) and _VALUES.issuperset(
    _COMMAND.findall(answer)
  )


# Formulas.


def _with_argument_of(gold: str, answer: str) -> str:
  """Renames the argument of what both define: f(x) = x is f(t) = t."""
  theirs, ours = _DEFINED.search(gold), _DEFINED.search(answer)
  if not (theirs and ours) or theirs[1] != ours[1] or theirs[2] in answer:
    return answer
  return re.sub(rf"(?<![\\A-Za-z]){ours[2]}(?![A-Za-z])", theirs[2], answer)


def _reader() -> Callable:
  from prefixrl_jax.rewards import formulas

  return lambda text: formulas.read(clean(text))
