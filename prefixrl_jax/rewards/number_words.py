r"""Numbers in words to numbers in digits: "twenty-one apples" is 21 apples."""

import re

_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen"]
_TEENS += ["sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy"]
_TENS += ["eighty", "ninety"]
_PARTS = {
  **{"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5},
  **{"sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10},
}
_VALUES = {
  "zero": 0,
  **{word: i + 1 for i, word in enumerate([*_ONES, *_TEENS])},
  **{word: 10 * (i + 2) for i, word in enumerate(_TENS)},
}
_SCALES = {"thousand": 10**3, "million": 10**6}

_ONE = "|".join(_ONES)
_SMALL = (
  rf"(?:(?:{'|'.join(_TENS)})(?:[ -](?:{_ONE}))?|{'|'.join(_TEENS)}|{_ONE})"
)
_GROUP = rf"(?:(?:{_ONE}) hundred(?:(?: and)? {_SMALL})?|{_SMALL})"
_NEXT = r"(?:,? (?:and )?|(?![\w-]))"
_CARDINAL = (
  rf"(?:zero|(?={_GROUP})(?:{_GROUP} million{_NEXT})?"
  rf"(?:{_GROUP} thousand{_NEXT})?{_GROUP}?)"
)
_NUMBER = re.compile(
  r"\s*(?P<open>\\(?:text|mbox|mathrm)[a-z]*\s*\{\s*)?"
  r"(?:(?P<sign>negative|minus)\s+)?(?:"
  rf"(?P<over>an?|{_SMALL})[ -](?P<under>{'|'.join(_PARTS)})s?"
  rf"|(?P<half>half)|(?P<whole>{_CARDINAL}))(?<=[a-z])(?![\w-])"
  r"(?P<rest>.*)",
  re.IGNORECASE | re.DOTALL,
)
_SIGN = re.compile(
  r"\s*(?:\\text\s*\{\s*)?(?:negative|minus)\s*\}?\s*(?=[\d.$\\])",
  re.IGNORECASE,
)


def in_figures(text: str) -> str:
  r"""Returns a text with its initial number in digits instead of words.

  Args:
    text: an answer: "seven", \text{two thirds}, "minus one hundred and five".
  """
  match = _NUMBER.fullmatch(text)
  if not match:
    return _SIGN.sub("-", text, count=1) if _SIGN.match(text) else text
  sign = "-" if match["sign"] else ""
  if match["whole"]:
    number = str(_value(match["whole"]))
  elif match["half"]:
    number = r"\frac{1}{2}"
  else:
    over = 1 if match["over"][0] in "aA" else _value(match["over"])
    number = rf"\frac{{{over}}}{{{_PARTS[match['under'].lower()]}}}"
  rest = match["rest"]
  if match["open"] and rest.startswith("}"):
    return f"{sign}{number}{rest[1:]}"
  return f"{match['open'] or ''}{sign}{number}{rest}"


def _value(words: str) -> int:
  total = group = 0
  for word in re.findall("[a-z]+", words.lower()):
    if word == "hundred":
      group *= 100
    elif word in _SCALES:
      total, group = total + group * _SCALES[word], 0
    elif word != "and":
      group += _VALUES[word]
  return total + group
