r"""Numbers as people write them, exactly: 1,234.5, \frac{1}{2}, 2e-3, 28\%."""

import re
from collections.abc import Collection
from fractions import Fraction
from typing import NamedTuple

from prefixrl_jax.rewards import units

_REPEATING = r"(?:\\overline\{\d+\})?"
_DECIMAL = (
  r"(?:[1-9]\d{0,2}(?:[ ,]\d{3})+(?!\d)|\d+)"
  rf"(?:\.\d*{_REPEATING})?|\.\d+{_REPEATING}|\.\\overline\{{\d+\}}"
)
_FRACTION = (
  r"\\[dtc]?frac\s*(?:\{\s*-?\d+\s*\}|\d)\s*(?:\{\s*-?\d+\s*\}|\d(?!\d))"
)
_EXPONENT = r"(?:\{\s*[-+]?\d{1,4}\s*\}|-?\d{1,4})"
_TIMES = r"(?:\\times(?![a-zA-Z])|\\cdot(?![a-zA-Z])|[*×·])"
_NUMBER = re.compile(
  r"(?P<sign>[-+]?)\s*(?P<money>(?:USD?|EUR|GBP|Rs\.?|[$€£¥₹])?)\s*"
  r"(?P<sign2>-?)(?:"
  rf"(?P<whole>\d+)\s*(?P<part>{_FRACTION})"
  r"|(?P<whole2>[1-9]\d{0,2}(?: \d{3})+|\d+)[ ]+(?P<over>\d+/\d+)"
  rf"|(?P<fraction>{_FRACTION})"
  r"|(?P<ratio>\d+\s*/\s*\d+)"
  rf"|(?:(?P<mantissa>{_DECIMAL})\s*{_TIMES}\s*)?(?<!\d)"
  rf"10\s*\^\s*(?P<exponent>{_EXPONENT})"
  rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent2>[-+]?\d{{1,4}})(?!\d))?"
  r")\s*(?P<rest>.*)",
  re.DOTALL,
)
_PERCENT = re.compile(
  r"(?:\\text[a-z]*\{\s*)?(?:\\?%|percent(?:age)?|pct)\s*\}?"
)
# Single letters are variables, except these and those in \text.
_BARE_UNIT = re.compile(r"(?:[ckm]?m|[km]?g)(?![a-zA-Z])")
_BARE_LETTER = re.compile(r"(?<![a-zA-Z\\{])[a-zA-Z](?![a-zA-Z.])")
_BARE_RATE = re.compile(
  r"(?:[ckm]?m|mi|ft|in|[km]?g|mol|rad|[JNWL])(?:\^?\{?[23]\}?)?\s*/\s*"
  r"(?:s|h|hr|min|sec|[ckm]?m|k?g|mol|L)(?:\^?\{?[23]\}?)?"
)
_TEMPERATURE = re.compile(r"(?:\\circ\s*\}?|°)\s*[CFK](?![a-zA-Z])")
_TEXT_UNIT = re.compile(
  r"(?:(?<=[\d})])|(?<=\\pi))\s*(?:\\(?:text|mbox|mathrm)[a-z]*\s*\{[^{}\d]*\}"
  r"(?:\s*/\s*|\^\{?-?[123]\}?)*)+$"
)
_WORDS = re.compile(
  r"(?=.*[a-zA-Z]\.?[a-zA-Z])(?:[a-zA-Z\s.,'/-]|\\[a-z]+\s*\{[^{}\d]*\}"
  r"|\^\{?-?[1-9]\}?)+"
)
_FIND = re.compile(
  rf"\d+\s+\d+/\d+|\d*{_FRACTION}|\d+/\d+|(?<![(\[{{])\b\d+,\d\d?(?![\d,.)])"
  rf"|(?:{_DECIMAL})(?:[eE][-+]?\d+)?"
)
_OPENING = " $€£¥₹([*_`\"'=:≈"
_OPERATOR = "+-*/^×÷·<>≤≥≠±∓~|\\{}_="
_ATTACHED = re.compile(r"\s*\\?[%°$€£]|[a-zA-Zµ]+[²³]?")
# Words that change the number after them, or leave none.
_CHANGES_NEXT = re.compile(
  r"\b(?:minus|negative|negation|opposite|inverse|reciprocal|complement|all but"
  r"|half|twice|thrice|double|triple|root|square|cube|log|ln"
  r"|sin|cos|tan|than|least|most|over|under|above|below|plus|times|divisible"
  r"|divided|multiples?|multiplied|powers?|factors?|modulo|mod|base|up|between"
  r"|nearly|almost|around|sqrt|cubed?|squared?|choose|degree|exceeds?)\b",
  re.IGNORECASE,
)
_NEXT_CLAUSE = re.compile(r"[,;:](?:\s(?!but (?:it|that|this|the|s?he)\b)|\Z)")
# What is numbered, as in "step 7".
_NUMBERED = re.compile(
  r"\b(?:step|problem|question|exercise|example|equation|eq\.?|theorem|lemma"
  r"|corollary|figure|fig\.?|table|part|section|chapter|claim|note)\s*\Z",
  re.IGNORECASE,
)
# Ordinals: 5th or 5^{\text{th}} counts as five.
_ORDINAL = re.compile(
  r"\^?\s*\{?\s*(?:\\(?:text|mathrm)[a-z]*\s*\{)?\s*(?:st|nd|rd|th)[\s}]*"
)
_LONGEST = 1000
DASHES = str.maketrans(dict.fromkeys("−‐‑‒–—―﹣－⁻˗➖∸⁃", "-"))


class Number(NamedTuple):
  """A number, what follows it, and how it is written.

  `form` is the same for numbers that differ only in zeros, commas and units.
  """

  value: Fraction
  is_percent: bool = False
  unit: str = ""
  form: str = ""

  def equals(self, other: "Number") -> bool:
    """28% is 0.28, and 28 if percent was asked for; nothing is rounded."""
    size = units.ratio(self.unit, other.unit)
    if size is None:
      return False
    if self.is_percent == other.is_percent:
      return self.value * size == other.value
    percent, plain = (self, other) if self.is_percent else (other, self)
    return plain.value in (percent.value, percent.value / 100)


def read(
  text: str, words: Collection[str] | None = frozenset()
) -> Number | None:
  """Returns the whole text as a number; percent and units may follow.

  Args:
    text: LaTeX or plain.
    words: words that the problem may count by, besides units; None: any.
  """
  if len(text) > _LONGEST:
    return None
  match = _NUMBER.fullmatch(text)
  if not match:
    return None
  rest = match["rest"].strip()
  is_percent = bool(_PERCENT.fullmatch(rest))
  if rest and not is_percent and not _is_unit(text, match, words):
    return None
  try:
    value, form = _value(match)
  except (ZeroDivisionError, ValueError):  # nor more digits than int accepts
    return None
  if (match["sign"] == "-") != (match["sign2"] == "-"):
    value = -value
  if is_percent:
    form += "%"
  return Number(value, is_percent, match["money"] + rest, form)


def in_prose(text: str) -> str | None:
  """Returns the number in a text that has one, and no other digit.

  It must be a separate word: neither part of a formula, as in n+7, nor changed
    by the words around it, as in "5 factorial" or "less than 5".
  """
  text = text.translate(DASHES)
  found = list(_FIND.finditer(text))
  if len(found) != 1:
    return None
  (match,) = found
  left, number, right = (
    text[: match.start()],
    match.group(),
    text[match.end() :],
  )
  if re.search(r"\d", left + right):
    return None
  if left.endswith("-"):
    left, number = left[:-1], f"-{number}"
  if attached := _ATTACHED.match(right):
    unit = attached.group().strip()
    if unit[0].isalpha() and not _is_bare_unit(unit):
      return None
    number, right = number + attached.group(), right[attached.end() :]
  return number if stands_alone(left, right) else None


def stands_alone(left: str, right: str) -> bool:
  """Whether the number between two texts is unchanged by them.

  No sign may make it part of a formula ("n+7", "f(7)", -$7$), no word may
  change it ("7 factorial", "less than $7$") or make it a label ("step 7").
  """
  before = left.translate(DASHES).rstrip(_OPENING)
  if (left and left[-1] not in _OPENING) or before.endswith(tuple(_OPERATOR)):
    return False
  if before[-1:].isalnum() and left[len(before) :].startswith("("):  # f(7)
    return False
  if before.endswith("!") and left[len(before) :].startswith("="):  # != 7
    return False
  after = right.translate(DASHES).lstrip(" *_`\"')]")
  if (right and right[0].isalnum()) or after.startswith(
    tuple("+-*/^×÷·<>≤≥±|=!_{²³√")
  ):
    return False
  said = " ".join(re.split(r"[,;:](?:\s|\Z)", before)[-1].split()[-3:])
  after = _NEXT_CLAUSE.split(after)[0]
  return not (
    _CHANGES_NEXT.search(said)
    or _NUMBERED.search(said)
    or units.changes(" ".join(after.split()[:2]))
  )


def without_unit(text: str) -> str:
  r"""Returns a formula without the \text{unit} that may end it."""
  return text[: len(text) - len(_text_unit(text))]


def unit_of(text: str) -> str:
  r"""Returns the units of a number, or the \text{unit} that ends a formula."""
  number = read(text, words=None)
  return number.unit if number else _text_unit(text)


def _text_unit(text: str) -> str:
  match = _TEXT_UNIT.search(text[-200:])
  if not match or not units.are_units(match.group()):
    return ""
  return "" if units.of_day(match.group()) else match.group()


def _is_bare_unit(unit: str) -> bool:
  if len(unit.rstrip("²³")) == 1:
    return bool(_BARE_UNIT.match(unit))
  return units.are_units(unit)


def _is_unit(text: str, match: re.Match, words) -> bool:
  rest = match["rest"]
  if _ORDINAL.fullmatch(rest):
    return bool(match["decimal"]) and "." not in match["decimal"]
  if _BARE_RATE.fullmatch(rest.strip()):
    return True
  if rest.startswith("^") and "\\circ" not in rest:  # of the number
    return False
  # What is attached to a number must be a unit; a separate word may be counted.
  is_glued = rest[:1].isalpha() and text[match.start("rest") - 1] not in " \t\n"
  bare = _TEMPERATURE.sub("", re.sub(r"\\[a-z]+\s*\{[^{}]*\}", "", rest))
  if any(not _BARE_UNIT.match(m.group()) for m in _BARE_LETTER.finditer(bare)):
    return False
  if words is None and not is_glued:
    return units.are_units(rest) or (
      bool(_WORDS.fullmatch(rest)) and not units.changes(rest)
    )
  return units.are_units(
    rest, frozenset() if is_glued else words or frozenset()
  )


def _value(match: re.Match) -> tuple[Fraction, str]:
  """Returns the value without its sign, and the form.

  Raises:
    ZeroDivisionError, ValueError: there is no such number.
  """
  if whole := match["whole"] or match["whole2"]:
    part = _fraction(match["part"] or match["over"])
    if not 0 <= part < 1:
      raise ValueError("no mixed number")
    return int(whole.replace(" ", "")) + part, f"{whole} {part}"
  if match["fraction"] or match["ratio"]:
    return _fraction(match["fraction"] or match["ratio"]), "/".join(
      re.findall(r"-?\d+", match["fraction"] or match["ratio"])
      if match["ratio"]
      else _arguments(match["fraction"])
    )
  if match["exponent"]:
    exponent = int(match["exponent"].strip("{} "))
    mantissa = _decimal(match["mantissa"] or "1")
    return mantissa * Fraction(10) ** exponent, f"{mantissa}e{exponent}"
  value = _decimal(match["decimal"])
  form = str(value)
  if "overline" in match["decimal"]:
    form = match["decimal"]
  elif "/" in form:
    form = f"decimal {form}"
  if match["exponent2"]:
    exponent = int(match["exponent2"])
    return value * Fraction(10) ** exponent, f"{value}e{exponent}"
  return value, form


def _arguments(fraction: str) -> list[str]:
  found = re.findall(r"\{\s*(-?\d+)\s*\}|(\d)", fraction)
  return [braced or bare for braced, bare in found]


def _fraction(text: str) -> Fraction:
  if "/" in text:
    return Fraction(re.sub(r"\s", "", text))
  return Fraction(*map(int, _arguments(text)))


def _decimal(text: str) -> Fraction:
  whole, _, places = re.sub(r"[ ,]", "", text).partition(".")
  fixed, _, repeated = places.partition("\\overline")
  value = Fraction(f"{whole or 0}.{fixed or 0}")
  if repeated:
    period = repeated.strip("{}")
    value += Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
  return value
