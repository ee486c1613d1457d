r"""Units that may stand behind a number, and words that change it instead."""

import re
from collections.abc import Collection

# Synonyms a row; rows of one kind together, since 5 cents are not 5 dollars.
_KINDS: tuple[tuple[str, ...], ...] = (
  (
    "mm millimeter millimetre",
    "cm centimeter centimetre",
    "dm decimeter decimetre",
    "meter metre",
    "km kilometer kilometre",
    "inch inches in.",
    "ft foot feet",
    "yd yard",
    "mi mile",
  ),
  (
    "mg milligram",
    "g gram gm",
    "kg kilogram kilo",
    "t ton tonne",
    "oz ounce",
    "lb pound",
  ),
  (
    "ms millisecond",
    "s sec second",
    "min minute",
    "h hr hour",
    "day",
    "week wk",
    "month",
    "year yr",
    "decade",
    "century centuries",
  ),
  (
    "cent ¢ penny pennies",
    "dollar $ usd buck",
    "euro € eur",
    "£ gbp",
    "yen ¥ jpy",
    "rupee ₹ rs inr",
    "yuan cny rmb",
    "peso",
    "franc",
    "won ₩",
  ),
  ("ml milliliter millilitre", "cl", "l liter litre"),
  ("gal gallon", "quart qt", "pint pt", "cup", "tablespoon", "teaspoon"),
  ("mph kmph kph knot",),
  ("acre", "hectare ha"),
  ("degree deg ° \\circ", "radian rad"),
  ("am", "pm"),
)
# Units of which nothing else is known, and words that go with units.
_OTHERS = (
  "m w v a n j c f k hz khz mhz pa kpa watt kw volt amp ampere ohm newton joule"
  " kj cal calorie kcal hertz pascal kelvin celsius fahrenheit mol mole bit"
  " byte kb mb gb tb unit units pixel point percent pct ohm kohm kwh rpm mpg db"
  " µ µm µs"
  " people person student child children boy girl man men woman women way piece"
  " item object member solution root"
)
_GLUE = (
  "a an the of per each every and sq square cubic cu in total all altogether"
  " old exactly about only unit units"
)
_SYMBOL = r"[$€£¥₹₩¢°]"
# Words with which a number is another number, or none.
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
  for row, names in enumerate(rows)
  for name in names.split()
} | {_stem(name): None for name in _OTHERS.split()}
_KNOWN = frozenset(_UNIT_OF) | {_stem(word) for word in _GLUE.split()}


def words_of(text: str) -> frozenset[str]:
  """Returns the words of a problem, any of which it may count by."""
  return frozenset(_stem(w) for w in re.findall(r"[a-z]{2,}", text.lower()))


def are_units(text: str, more: Collection[str] = frozenset()) -> bool:
  """Says whether a text is units alone, which leave a number as it is.

  Args:
    text: what follows a number, LaTeX or plain.
    more: further words that are counted by (see `words_of`).
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
  """Says whether a text is a.m. or p.m., which 5 o'clock cannot do without."""
  return bool({"am", "pm"} & set(_words(_without_commands(text))))


def changes(text: str) -> bool:
  """Says whether a text has a word that makes another number of one."""
  return bool(_CHANGES.search(_without_commands(text)))


def agree(one: str, other: str) -> bool:
  """Says whether two texts may be the same units: one is none, say."""
  units = [
    [u for w in _words(_without_commands(text)) if (u := _UNIT_OF.get(w))]
    for text in (one, other)
  ]
  if not all(units):
    return True
  (kind, row), (kind2, row2) = units[0][0], units[1][0]
  return kind != kind2 or row == row2


def _without_commands(text: str) -> str:
  text = _MICRO.sub("µ", _OHM.sub("ohm", text))
  return _FRACTION.sub(" ", _LATEX_TEXT.sub(r" \1 ", text))


def _words(text: str) -> list[str]:
  text = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", text.lower())
  return [_stem(word) for word in _TOKEN.findall(text) if word != "\\cdot"]
