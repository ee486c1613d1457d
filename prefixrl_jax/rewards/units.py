r"""Units that may follow a number, and words that change it instead."""

import re
from collections import Counter
from collections.abc import Collection
from fractions import Fraction

# Rows of synonyms, with their size, grouped by kind, since 5 cents are not 5
# dollars but 500 are. A row without a size equals only itself.
_KINDS: tuple[tuple[tuple[str, str], ...], ...] = (
  (
    ("1/1000", "mm millimeter millimetre"),
    ("1/100", "cm centimeter centimetre"),
    ("1/10", "dm decimeter decimetre"),
    ("1", "m meter metre"),
    ("1000", "km kilometer kilometre"),
    ("254/10000", "inch inches in."),
    ("3048/10000", "ft foot feet"),
    ("9144/10000", "yd yard"),
    ("1609344/1000", "mi mile"),
  ),
  (
    ("1/1000", "mg milligram"),
    ("1", "g gram gm"),
    ("1000", "kg kilogram kilo"),
    ("", "t ton tonne"),
    ("", "oz ounce"),
    ("", "lb pound"),
  ),
  (
    ("1/1000", "ms millisecond"),
    ("1", "s sec second"),
    ("60", "min minute"),
    ("3600", "h hr hour"),
    ("86400", "day"),
    ("604800", "week wk"),
    ("", "month"),
    ("", "year yr"),
    ("", "decade"),
    ("", "century centuries"),
  ),
  (
    ("1/100", "cent ¢ penny pennies"),
    ("1", "dollar $ usd buck"),
    ("", "euro € eur"),
    ("", "£ gbp"),
    ("", "yen ¥ jpy"),
    ("", "rupee ₹ rs inr"),
    ("", "yuan cny rmb"),
    ("", "peso"),
    ("", "franc"),
    ("", "won ₩"),
  ),
  (
    ("1/1000", "ml milliliter millilitre"),
    ("1/100", "cl"),
    ("1", "l liter litre"),
  ),
  (
    ("768", "gal gallon"),
    ("192", "quart qt"),
    ("96", "pint pt"),
    ("48", "cup"),
    ("3", "tablespoon"),
    ("1", "teaspoon"),
  ),
  (("", "knot"),),
  (("", "acre"), ("", "hectare ha")),
  (("", "degree deg ° \\circ"), ("", "radian rad")),
  (("", "am"), ("", "pm")),
)
_OF_DAY = len(_KINDS) - 1
# Units without a known size, and words that accompany units.
_OTHERS = (
  "w v a n j c f k hz khz mhz pa kpa watt kw volt amp ampere ohm newton joule"
  " kj cal calorie kcal hertz pascal kelvin celsius fahrenheit mol mole bit"
  " byte kb mb gb tb mph kmph kph pixel point percent pct kohm kwh rpm mpg db"
  " µ µm µs"
  " people person student child children boy girl man men woman women way piece"
  " item object member solution root"
)
_GLUE = (
  "a an the of per each every and sq square cubic cu in total all altogether"
  " old exactly about only unit units"
)
_SYMBOL = r"[$€£¥₹₩¢°]"
# Words that change a number, or leave none.
_CHANGES = re.compile(
  r"\b(?:or|not|no|nor|to|pi|inf|infinity|sqrt|root|sin|cos|tan|log|ln|mod|modulo"
  r"|plus|minus|negative|times|(?<!left )over|divided|multiplied"
  r"|choose|factorial|squared"
  r"|cubed|reciprocal|below|under|above|half|halves|thirds?|quarters?|fourths?"
  r"|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|hundredths?"
  r"|thousandths?|twice|thrice|double|triple|zero|one|two|three|four|five|six"
  r"|seven|eight|nine|ten|eleven|twelve|hundreds?|thousands?|millions?|billions?"
  r"|trillions?|dozens?|score|base|percent\w*|less|fewer|but|if|maybe"
  r"|perhaps|rather|instead|except|without|remainder|radix|power|powers"
  r"|divisor|th|st|nd|rd|mill?e|basis|ppm|lakhs?|crores?|gross|mil|multiples?"
  r"|inverse|subtracted|raised|bc|bce)\b"
  r"|\btoo (?:many|much|few|little|large|small|high|low)\b"
  r"|\badded to\b|\b(?:past|before) (?:noon|midnight)\b"
  r"|\b(?:increased|decreased|reduced) by\b|\bshort of\b"
  r"|\b(?:more|greater|larger|smaller|higher|lower) than\b"
  r"|\band (?:an?\b|half|third|quarter|one)",
  re.IGNORECASE,
)
_LATEX_TEXT = re.compile(
  r"\\(?:text|mbox|math|operatorname)[a-z]*\s*\{([^{}]*)\}"
)
_FRACTION = re.compile(r"\\[dtc]?frac(?![a-zA-Z])")
_OHM = re.compile(r"\\Omega(?![a-zA-Z])|[ΩΩ]")
_MICRO = re.compile(r"\\mu(?![a-zA-Z])\s*|μ")
_POWER = re.compile(r"\^\s*\{?\s*-?\d\s*\}?|[²³⁻¹]|\*\*\d")
_TOKEN = re.compile(rf"[A-Za-zµ]+(?:\.[a-z]\.|\.)?|{_SYMBOL}|\\circ|\\cdot")
_JOINTS = re.compile(r"[\s/·*(){{}}~\-,'’^]|\\[,;: ]")


def _stem(word: str) -> str:
  word = word.rstrip(".")
  if len(word) > 3 and word.endswith("es"):
    word = word[:-2] if word[-3] in "sxzho" else word[:-1]
  elif len(word) > 2 and word.endswith("s") and not word.endswith("ss"):
    word = word[:-1]
  return word


_UNIT_OF = {
  _stem(name): (kind, row)
  for kind, rows in enumerate(_KINDS)
  for row, (_, names) in enumerate(rows)
  for name in names.split()
}
_KNOWN = frozenset(
  _stem(word) for word in (*_UNIT_OF, *_OTHERS.split(), *_GLUE.split())
)
_SPEED = (
  (re.compile(r"\bmph\b", re.IGNORECASE), "mile/hour"),
  (re.compile(r"\bkm?ph\b", re.IGNORECASE), "km/hour"),
)
_PART = re.compile(
  rf"[A-Za-zµ]+\.?|{_SYMBOL}|\\circ|/|(?P<power>\^\s*\{{?\s*-?\d|[²³])"
)
_RAISED = {"²": 2, "³": 3}
_OFTEN_NO_UNIT = frozenset({"in", "second"})
_PREFIXES = {"sq": 2, "square": 2, "cu": 3, "cubic": 3}


def words_of(text: str) -> frozenset[str]:
  """Returns the words of a problem: it may count by any of them."""
  return frozenset(_stem(w) for w in re.findall(r"[a-z]{2,}", text.lower()))


def are_units(text: str, more: Collection[str] = frozenset()) -> bool:
  """Whether a text is only units, which leave a number unchanged.

  Args:
    text: what follows a number, LaTeX or plain.
    more: further words to count by (see `words_of`).
  """
  if changes(text):
    return False
  plain = _POWER.sub("", _without_commands(text))
  words = _words(plain)
  rest = _JOINTS.sub("", _TOKEN.sub("", plain)).strip(".")
  return (
    bool(words) and not rest and all(w in _KNOWN or w in more for w in words)
  )


def of_day(text: str) -> bool:
  """Whether a text is a.m. or p.m., which are part of a time."""
  return bool({"am", "pm"} & set(_words(_without_commands(text))))


def changes(text: str) -> bool:
  """Whether a text has a word that changes a number."""
  return bool(_CHANGES.search(_without_commands(text)))


def ratio(one: str, other: str) -> Fraction | None:
  """Returns how many of another unit one is; None: they cannot be compared.

  It is 1 if either text has no unit of the table, if the kinds differ (a pound
  may be money), or if one only omits the end of a rate.
  """
  ours, theirs = _measure(one), _measure(other)
  if not ours or not theirs or ours[0][0][0] != theirs[0][0][0]:
    return Fraction(1)
  (dimensions, size), (dimensions2, size2) = map(_size, (ours, theirs))
  if dimensions == dimensions2:
    return size / size2
  return Fraction(1) if ours[0][0] == theirs[0][0] else None


def asked_for(unit: str, statement: str) -> str | None:
  """Returns the unit that a statement asks for, if it is not the given one.

  A statement that mentions dollars and not cents is answered in dollars. The
  result is "" if the statement has the unit, or none of its kind; None if it
  has several others.
  """
  measure = _measure(unit)
  if not measure or measure[0][0][0] == _OF_DAY:
    return ""
  (kind, row), _ = measure[0]
  words = re.findall(rf"[a-zµ]{{2,}}|{_SYMBOL}", statement.lower())
  found = {
    _UNIT_OF[stem]
    for word in words
    if (stem := _stem(word)) in _UNIT_OF and stem not in _OFTEN_NO_UNIT
  }
  rows = {r for k, r in found if k == kind}
  if not rows or row in rows:
    return ""
  return _KINDS[kind][rows.pop()][1].split()[0] if len(rows) == 1 else None


def _measure(text: str) -> list[tuple[tuple[int, int], int]]:
  """Returns the (kind, row) of each unit in a text, and its power."""
  text = _without_commands(text)
  for speed, rate in _SPEED:
    text = speed.sub(rate, text)
  text = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", text.lower())
  text = re.sub(r"\bin\b(?=\s*[a-z])", "", text)  # in all
  found: list[tuple[tuple[int, int], int]] = []
  sign, prefix = 1, 1
  for part in _PART.finditer(text):
    word = _stem(part.group())
    if part["power"]:
      if found:
        last, power = found[-1]
        digit = re.search(r"-?\d", word)
        raised = int(digit[0]) if digit else _RAISED[word]
        found[-1] = last, power * raised
    elif word in ("/", "per"):
      sign = -1
    elif word in _PREFIXES:
      prefix = _PREFIXES[word]
    elif unit := _UNIT_OF.get(word):
      found.append((unit, sign * prefix))
      sign, prefix = 1, 1
  return found


def _size(measure) -> tuple[dict, Fraction]:
  """Returns the power of each dimension, and the size in its first units."""
  dimensions: Counter = Counter()
  size = Fraction(1)
  for (kind, row), power in measure:
    factor = _KINDS[kind][row][0]
    dimensions[kind if factor else (kind, row)] += power
    size *= Fraction(factor or 1) ** power
  return {k: v for k, v in dimensions.items() if v}, size


def _without_commands(text: str) -> str:
  text = _MICRO.sub("µ", _OHM.sub("ohm", text))
  return _FRACTION.sub(" ", _LATEX_TEXT.sub(r" \1 ", text))


def _words(text: str) -> list[str]:
  text = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", text.lower())
  return [_stem(word) for word in _TOKEN.findall(text) if word != "\\cdot"]
