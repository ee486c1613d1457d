"""When two texts are one problem."""

import re
import unicodedata

# A sentence with an empty box asks for a format; it is no part of the problem.
_INSTRUCTION = re.compile(r"[^.!?\n]*\\boxed\s*\{\s*\}[^.!?\n]*[.!?]?")
_LAYOUT = re.compile(
  r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[,;:! ()\[\]]|\\?\$|[\s~]"
)
# Quotation marks, dashes and the minus sign, to those of a keyboard.
_QUOTES = str.maketrans(
  "\u2018\u2019\u201c\u201d\u2013\u2014\u2212", "''\"\"---"
)
# A full stop between digits is part of a number; what computes is kept.
_PUNCTUATION = re.compile(r"[,;:!?'\"`]|(?<!\d)\.|\.(?!\d)")


def normalise(problem: str) -> str:
  """Returns what two spellings of one problem have in common.

  Left out are white space, the ways to mark and space formulas, case, and
  sentences that ask for an answer in a box.
  """
  text = _INSTRUCTION.sub("", unicodedata.normalize("NFKC", problem))
  text = _LAYOUT.sub("", text.translate(_QUOTES))
  text = re.sub(r"\\[dt]frac", r"\\frac", text).replace("\\%", "%")
  return re.sub(r"\{(\w)\}", r"\1", text).casefold().rstrip(".")


def fingerprint(problem: str) -> str:
  """Returns `normalise` without punctuation: equal for copies of a problem.

  Coarser, since a training problem dropped for nothing is cheaper than one
  that the evaluation has too.
  """
  return _PUNCTUATION.sub("", normalise(problem))
