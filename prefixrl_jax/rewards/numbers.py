r"""Numbers as people write them, exactly: 1,234.5, \frac{1}{2}, 12 cm, 28\%."""

import re
from fractions import Fraction
from typing import NamedTuple

_REPEATING = r"(?:\\overline\{\d+\})?"
_DECIMAL = (
  r"(?:[1-9]\d{0,2}(?:[ ,]\d{3})+(?!\d)|\d+)"
  rf"(?:\.\d*{_REPEATING})?|\.\d+{_REPEATING}|\.\\overline\{{\d+\}}"
)
_FRACTION = (
  r"\\[dtc]?frac\s*(?:\{\s*-?\d+\s*\}|\d)\s*(?:\{\s*-?\d+\s*\}|\d(?!\d))"
)
_NUMBER = re.compile(
  r"(?P<sign>[-+]?)\s*(?:[€£]\s*)?(?P<sign2>-?)(?:"
  rf"(?P<whole>\d+)\s*(?P<part>{_FRACTION})"
  r"|(?P<whole2>\d+)[ ]+(?P<over>\d+/\d+)"
  rf"|(?P<fraction>{_FRACTION})"
  r"|(?P<ratio>\d+\s*/\s*\d+)"
  rf"|(?P<decimal>{_DECIMAL})"
  r")\s*(?P<rest>.*)",
  re.DOTALL,
)
_PERCENT = re.compile(r"(?:\\text\{\s*)?(?:\\?%|percent(?:age)?|pct)\s*\}?")
_DEGREES = re.compile(r"\^?\{?(?:\\circ|°)\}?|(?:\\text\{\s*)?degrees?\s*\}?")
# Words after a number are its unit unless they change it or add another.
_UNIT = re.compile(
  r"(?:\\(?:text|mbox|mathrm)\{[^{}\d]*\}|(?<=\s)[a-zA-Z]{2,}[a-zA-Z .'-]*"
  r"|(?:[ckm]?m|[km]?g|k?mph|ft|lbs?|hrs?|mins?|secs?)(?![a-zA-Z]))"
  r"(?:\s*\^?\{?[23²³]\}?)?"
)
_TEXT_UNIT = re.compile(
  r"(?:(?<=[\d})])|(?<=\\pi))\s*\\(?:text|mbox|mathrm)\s*\{[^{}\d]*\}(?:\^\{?[23]\}?)?$"
)
_NOT_A_UNIT = re.compile(
  r"\b(?:and|or|not|to|pi|inf|infinity|sqrt|sin|cos|tan|log|ln|mod|plus|minus"
  r"|times|over|hundred|thousand|million|billion|trillion|dozens?|percent.*)\b",
  re.IGNORECASE,
)


_FIND = re.compile(
  rf"(?<![\w\\^_{{.])-?(?:{_FRACTION}|\d+/\d+|{_DECIMAL})(?:\s*\\?%)?"
  r"(?:(?:[ckm]?m|[km]?g)[²³]?)?(?![\w^_{])"
)


class Number(NamedTuple):
  """A number and whether a percent sign follows it."""

  value: Fraction
  is_percent: bool

  def equals(self, other: "Number") -> bool:
    """28% is 0.28, and 28 if percent was asked for; nothing is rounded."""
    if self.is_percent == other.is_percent:
      return self.value == other.value
    percent, plain = (self, other) if self.is_percent else (other, self)
    return plain.value in (percent.value, percent.value / 100)


def read(text: str) -> Number | None:
  """Returns the number that the whole text is; degrees and units may follow."""
  match = _NUMBER.fullmatch(text)
  if not match:
    return None
  rest, is_percent = match["rest"].strip(), False
  if rest:
    is_percent = bool(_PERCENT.fullmatch(rest))
    is_unit = _UNIT.fullmatch(text, match.start("rest")) is not None
    if _NOT_A_UNIT.search(rest):
      is_unit = False
    if not (is_percent or is_unit or _DEGREES.fullmatch(rest)):
      return None
  try:
    if match["decimal"]:
      value = _decimal(match["decimal"])
    elif match["whole"]:
      value = int(match["whole"]) + _fraction(match["part"])
    elif match["whole2"]:
      value = int(match["whole2"]) + Fraction(match["over"])
    else:
      value = _fraction(match["fraction"] or match["ratio"])
  except (ZeroDivisionError, ValueError):  # nor more digits than int takes
    return None
  is_negative = (match["sign"] == "-") != (match["sign2"] == "-")
  return Number(-value if is_negative else value, is_percent)


def only_one(text: str) -> str | None:
  """Returns the number in a text that has one, and no other digit."""
  found = _FIND.findall(text)
  rest = _FIND.sub("", text)
  return found[0] if len(found) == 1 and not re.search(r"\d", rest) else None


def without_unit(text: str) -> str:
  r"""Returns a formula without the \text{unit} that may end it."""
  match = _TEXT_UNIT.search(text)
  if not match or _NOT_A_UNIT.search(match.group()):
    return text
  return text[: match.start()]


def _fraction(text: str) -> Fraction:
  if "/" in text:
    return Fraction(re.sub(r"\s", "", text))
  arguments = re.findall(r"\{\s*(-?\d+)\s*\}|(\d)", text)
  return Fraction(*(int(braced or bare) for braced, bare in arguments))


def _decimal(text: str) -> Fraction:
  whole, _, places = re.sub(r"[ ,]", "", text).partition(".")
  fixed, _, repeated = places.partition("\\overline")
  value = Fraction(f"{whole or 0}.{fixed or 0}")
  if repeated:
    period = repeated.strip("{}")
    value += Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
  return value
