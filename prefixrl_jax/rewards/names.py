r"""Answers that are no formulas: options, clock times, names, bases.

Each rule compares a gold answer and another, both as `spelling.clean` returns
them, and returns None if it does not apply.
"""

import re

from prefixrl_jax.rewards.spelling import WRAPPED, plain

_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6"} | {
  "seven": "7",
  "eight": "8",
  "nine": "9",
  "twelve": "12",
  "sixteen": "16",
}
# Digits with a base, and no letter with an index.
_BASE = re.compile(
  r"(?=\w*\d\w*_|[A-F]{2,}_\{?(?:16|sixteen))([0-9A-Z]+)"
  rf"_\{{?([0-9]+|{'|'.join(_BASES)})\}}?"
)
_NAMED_BASES = {"2": "binary", "8": "octal", "10": "decimal", "16": "hex"}
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
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)\s*(?:([ap])\.?\s?m\.?)?", re.IGNORECASE)
_GEOMETRY = re.compile(
  r"(?:m\s*)?\\(?P<kind>(?:measured)?angle|triangle|overline|over(?:left)?right"
  r"arrow|vec)\s*\{?\s*(?P<points>[A-Z][A-Z\s]*)\}?"
)
_NAME = re.compile(r"[A-Za-z][A-Za-z']+|[A-Za-z0-9]*[A-Z]\d[A-Za-z0-9]*")
_SHORT_WORDS = frozenset({"no", "yes", "true", "false", "none"})


def same_option(gold: str, answer: str) -> bool | None:
  """An option's letter counts; what follows it does not."""
  wanted = plain(gold)
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
  return plain(answer) == wanted if plain(answer).isalpha() else None


def _option(text: str) -> str:
  for _ in range(2):
    text = WRAPPED.sub(r"\1", text)
  match = _OPTION.match(text.strip())
  if not match or _ONE_MORE.match(match["rest"]):
    return ""
  letter = match[1] or match[2] or match[3]
  if not letter.isupper() or re.match(r"\s*[-+*/^=(]", match["rest"]):
    return ""
  return letter


def same_time(gold: str, answer: str) -> bool | None:
  """2:30 is 2:30 p.m. unless stated otherwise, but not 2:30 a.m."""
  ours, theirs = (_CLOCK.fullmatch(plain(text)) for text in (gold, answer))
  if not ours:
    return None
  if not theirs:
    return False if ours[3] else None
  halves = {half.lower() for half in (ours[3], theirs[3]) if half}
  return (
    int(ours[1]) == int(theirs[1]) and ours[2] == theirs[2] and len(halves) < 2
  )


def same_name(gold: str, answer: str) -> bool | None:
  """Names are letters in order, not products of them."""
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
  name, other = plain(gold), plain(answer)
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


def same_base(gold: str, answer: str, statement: str) -> bool | None:
  """A base may be left out; one that the gold leaves out must be asked for."""
  ours, theirs = _BASE.fullmatch(plain(gold)), _BASE.fullmatch(plain(answer))
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
