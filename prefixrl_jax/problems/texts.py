"""When two texts are the same problem."""

import hashlib
import re
import unicodedata

_EMPTY_BOX = re.compile(r"\\boxed\s*\{\s*\}")
_BRACED = re.compile(r"\{(\w)\}")
_SENTENCE_END = re.compile(r"[.!?\n]")
# Spacing and delimiters of formulas, except white space, ~ and $.
_LAYOUT = re.compile(
  r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[,;:! ()\[\]$]"
)
# Quotation marks, dashes and the minus sign, to those on a keyboard.
_QUOTES = str.maketrans(
  "\u2018\u2019\u201c\u201d\u2013\u2014\u2212", "''\"\"---"
)
_PUNCTUATION = ",;:!?'\"`"


def normalise(problem: str) -> str:
  """Returns what two spellings of one problem have in common.

  Left out are white space, the ways to mark and space formulas, case, and
  sentences that ask for an answer in a box. Takes time in proportion to the
  text's length.
  """
  text = problem
  if not text.isascii():
    text = unicodedata.normalize("NFKC", text)
  if "\\boxed" in text:
    text = _without_instructions(text)
  if not text.isascii():
    text = text.translate(_QUOTES)
  # Regular expressions are slow: used only where something could match.
  if "\\" in text:
    text = _LAYOUT.sub("", text).replace("\\%", "%")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
  text = "".join(text.split()).replace("~", "").replace("$", "")
  if "{" in text:
    text = _BRACED.sub(r"\1", text)
  return text.casefold().rstrip(".")


def fingerprint(problem: str) -> bytes:
  """Returns a digest of the normalised text without punctuation.

  Copies of a problem have the same one. It is coarse, since a training problem
  dropped needlessly costs less than one that is also in the evaluation.
  """
  text = _without_full_stops(normalise(problem))
  for mark in _PUNCTUATION:
    text = text.replace(mark, "")
  return hashlib.blake2b(
    text.encode(errors="surrogatepass"), digest_size=16
  ).digest()


def _without_instructions(text: str) -> str:
  """Leaves out sentences with an empty box.

  Such a sentence asks for a format; it is not part of the problem.
  """
  kept = []
  end = 0  # of what has been looked at
  for box in _EMPTY_BOX.finditer(text):
    if box.start() >= end:  # else it is a further one of the same sentence
      start = max(text.rfind(mark, end, box.start()) for mark in ".!?\n") + 1
      kept.append(text[end : max(start, end)])
    if box.end() >= end:
      stop = _SENTENCE_END.search(text, box.end())
      end = len(text) if stop is None else stop.end() - (stop[0] == "\n")
  return "".join([*kept, text[end:]])


def _without_full_stops(text: str) -> str:
  """Leaves out all but those between digits, which belong to a number."""
  first, *rest = text.split(".")
  kept = [first]
  for left, right in zip([first, *rest], rest):
    between = left[-1:].isdecimal() and right[:1].isdecimal()
    kept.append(f".{right}" if between else right)
  return "".join(kept)
