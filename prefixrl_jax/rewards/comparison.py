r"""One answer against the gold one: the rules of docs/verifiers.md.

`at_a_glance` decides what needs no algebra (text, names, options, clock times,
numbers), quickly; `equivalent` decides the rest, and may take for ever.
"""

import re
import unicodedata
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
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|([\d.]+|[A-Za-z])|(?={))")
_ROOT_OF_ONE = re.compile(r"(\\sqrt\s*\[[^\[\]{}]*\])\s*([\dA-Za-z])")
_HALF = re.compile(r"[¼-¾⅐-⅞]")  # and what else is one sign
_OVER = re.compile(
  r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}"
  r"|^([^{}]*)\\over(?![a-zA-Z])([^{}]*)$"
)
_PERIOD = re.compile(
  r"(\.\d*)\\(?:bar|dot|overline)\s*(?:\{\s*(\d+)\s*\}|(\d))"
)
_TIMES_TEN = re.compile(r"(?<=\d)\s*(?:[xX]|\\text\{\s*x\s*\})\s*(?=10\s*\^)")
_NEGATED = re.compile(r"\\not\s*(?==)|(?<==)\\?/(?==)|\\not\s*(?=\\equal)")
# How an answer is set, and marks beside it.
_STYLE = re.compile(
  r"\\(?:(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it|sf|tt"
  r"|textstyle|scriptstyle|checkmark)(?![a-zA-Z])"
  r"|(?:boldsymbol|pmb|bm|underline|texttt|mathtt)\s*(?=\{)"
  r"|(?:text)?color\s*\{[\w!.-]*\})|[✓✔✅☑]"
)
_MARKDOWN = re.compile(r"^\s*(\*\*|__|`)(.+)\1\s*$", re.DOTALL)
_LOWERED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_DELIMITER = re.compile(r"\\?\$|(?<!\\)\\[()\[\]]|\\displaystyle(?![a-zA-Z])")
_SPELLINGS = (
  (re.compile(r"\\(?:math|text)dollar(?![a-zA-Z])"), ""),
  (re.compile(r"\\(?:pounds|textsterling)(?![a-zA-Z])"), "£"),
  (re.compile(r"\\(?:text)?euro(?![a-zA-Z])"), "€"),
  (re.compile(r"\\(?:text|mbox)\s*\{\s*([€£¥₹]|Rs\.?)\s*\}"), r"\1"),
  (_ROOT_OF_ONE, r"\1{\2}"),
  (_OVER, r"\\frac{\1\3}{\2\4}"),
  (_PERIOD, r"\1\\overline{\2\3}"),
  (_TIMES_TEN, r"\\times "),
  (_NEGATED, r"\\ne "),
  (re.compile(r"\\ne\s*="), r"\\ne "),
  (re.compile(r"\\div(?![a-zA-Z])"), "/"),
  (re.compile(r"\\colon(?![a-zA-Z])"), ":"),
  (re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset"),
  (re.compile(r"(?<=[\d* ])pi(?![A-Za-z])"), r"\\pi"),
)
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
_BASE = re.compile(r"(\w+)_\{?([0-9]+|[a-z]{3,})\}?")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6"} | {
  "seven": "7",
  "eight": "8",
  "nine": "9",
  "twelve": "12",
  "sixteen": "16",
}
_NAMED_BASES = {"2": "binary", "8": "octal", "10": "decimal", "16": "hex"}
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
  r"(?:(?:option|choice|answer)\s+([A-Z])(?!\w)"
  r"|(?:(?:option|choice|answer)\s+)?"
  r"(?:\(\s*([A-Z])\s*\)|([A-Z])(?=[).:]|\s-\s)))"
  r"[).:]*(?P<rest>.*)",
  re.DOTALL | re.IGNORECASE,
)
_ONE_MORE = re.compile(
  r"\s*(?:and|or|,|;|/|&)\s*\(?[A-Z](?![a-z])", re.IGNORECASE
)
_LABELLED = re.compile(r"\([A-Z]\)\s+[\w\\]|[A-Z][.)]\s")  # "(C) 12"
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
  wanted, given = _plain(_read(gold)), _plain(_read(answer))
  gold, answer = clean(gold), clean(answer)
  if not gold or not answer:
    return False
  if _plain(gold) == _plain(answer) or given == wanted:
    return True
  if max(len(answer), len(gold)) > _LONGEST:
    return False
  for rule in (_same_option, _same_time, _same_name):
    if (result := rule(gold, answer)) is not None:
      return result
  if (result := _same_base(gold, answer, statement)) is not None:
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
  if any(
    (n := numbers.read(side)) and not n.unit and not number.equals(n)
    for side in sides
  ):
    return False  # 2 = 3
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
  return numbers.without_unit(_read(answer))


def _read(answer: str) -> str:
  """Returns an answer in one spelling, its unit with it."""
  if "\\boxed" in answer or "\\fbox" in answer:
    given = answers.given(answer)
    answer = given[-1] if given else _OPEN_BOX.sub("", answer)
  answer = _STYLE.sub("", _MARKDOWN.sub(r"\2", answer))
  answer = _HALF.sub(_in_figures, answer)
  answer = _RAISED.sub(_lowered, answer).translate(_SIGNS)
  answer = _ROOT.sub(_root, answer)
  for spelling, plain in _SPELLINGS:
    answer = spelling.sub(plain, answer)
  if "\\begin" not in answer:  # there, two backslashes end a row
    answer = _DOUBLED.sub(r"\\", answer)
  answer = _SPACE.sub(" ", _NOTHING.sub("", _DELIMITER.sub("", answer)))
  answer = _OR.sub(r" \1 ", _COMMA.sub(",", answer)).lstrip(" :,;")
  if not answer.rstrip().endswith("..."):
    answer = answer.rstrip(" .:,;")
  return re.sub(r"(?<!\\)\\$", "", answer)


def _root(match: re.Match) -> str:
  inside = match[1] or match[2]
  return rf"\sqrt{{{inside}}}" if inside else r"\sqrt"


def _in_figures(match: re.Match) -> str:
  over, under = unicodedata.normalize("NFKC", match.group()).split("⁄")
  return rf"\frac{{{over}}}{{{under}}}"


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
    is_labelled = _LABELLED.match(gold) or (
      "(" in gold[:12] and "{" in gold[:12]
    )
    wanted = _option(gold) if is_labelled else ""
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
  letter = match[1] or match[2] or match[3]
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


def _same_base(gold: str, answer: str, statement: str) -> bool | None:
  """A base may be left out; one that the gold leaves out must be asked for."""
  ours, theirs = _BASE.fullmatch(_plain(gold)), _BASE.fullmatch(_plain(answer))
  bases = [_BASES.get(b[2], b[2]) if b else "" for b in (ours, theirs)]
  if ours and theirs:
    return ours[1] == theirs[1] and bases[0] == bases[1]
  if ours:
    return ours[1] == answer
  if not theirs:
    return None
  if theirs[1] != gold:
    return False
  if not gold[0].isdigit():
    return None
  names = (bases[1], *(w for w, n in _BASES.items() if n == bases[1]))
  asked = rf"(?:_|base)[\s{{-]*(?:\\text\{{)?(?:{'|'.join(names)})(?![0-9a-z])"
  return bool(re.search(asked, statement, re.IGNORECASE)) or (
    bases[1] in _NAMED_BASES and _NAMED_BASES[bases[1]] in statement.lower()
  )


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
