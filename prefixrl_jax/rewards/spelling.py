"""Answers in one spelling: signs, spaces, typesetting, units."""

import re
import unicodedata

from prefixrl_jax.rewards import answers, number_words, quantities

_SIGNS = quantities.DASHES | str.maketrans(
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
# How an answer is typeset, and marks beside it.
_STYLE = re.compile(
  r"\\(?:(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it|sf|tt"
  r"|textstyle|scriptstyle|checkmark)(?![a-zA-Z])"
  r"|(?:boldsymbol|pmb|bm|underline|texttt|mathtt)\s*(?=\{)"
  r"|(?:text)?color\s*\{[\w!.-]*\})|[✓✔✅☑]"
)
_MARKDOWN = re.compile(r"^\s*(\*\*|__|`)(.+)\1\s*$", re.DOTALL)
_LOWERED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_DELIMITER = re.compile(
  r"(?<!\\)\$|(?<!\\)\\[()\[\]]|\\displaystyle(?![a-zA-Z])"
)
_DOLLAR = re.compile(  # a $ that is not one of a pair
  r"(?P<left>[^$]*)(?<!\\)\$(?P<right>\s*[\d.][^$]*|(?<=[\d ]\$)[^$]*)"
)
_SPELLINGS = (
  (re.compile(r"\\(?:math|text)dollar(?![a-zA-Z])"), r"\\$"),
  (re.compile(r"\\(?:pounds|textsterling)(?![a-zA-Z])"), "£"),
  (re.compile(r"\\(?:text)?euro(?![a-zA-Z])"), "€"),
  (re.compile(r"\\(?:text|mbox)[a-z]*\s*\{\s*\}"), " "),
  (re.compile(r"\\(?:text|mbox)\s*\{\s*([€£¥₹]|Rs\.?)\s*\}"), r"\1"),
  (_ROOT_OF_ONE, r"\1{\2}"),
  (_OVER, r"\\frac{\1\3}{\2\4}"),
  (_PERIOD, r"\1\\overline{\2\3}"),
  (_TIMES_TEN, r"\\times "),
  (_NEGATED, r"\\ne "),
  (re.compile(r"\\ne\s*="), r"\\ne "),
  (re.compile(r"\\([lgn]e)q(?![a-zA-Z])"), r"\\\1 "),
  (re.compile(r"^\s*\\langle(?![a-zA-Z])(.*)\\rangle\s*$"), r"(\1)"),
  (  # all of it, and not only its unit
    re.compile(
      r"^\s*\\(?:text|mbox|mathrm)[a-z]*\s*\{\s*([-$\d.][^{}]*)\}\s*$"
    ),
    r"\1",
  ),
  (re.compile(r"^\s*[~∼](?=\s*[\d.])"), r"\\approx "),
  (re.compile(r"\\div(?![a-zA-Z])"), "/"),
  (re.compile(r"\\colon(?![a-zA-Z])"), ":"),
  (re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset"),
  (re.compile(r"(?<![A-Za-z\\{])pi(?![A-Za-z])"), r"\\pi"),
  # As programs write them.
  (re.compile(r"(?<=[\w)}])\s*\*\*\s*(?=[\w({+-])"), "^"),
  (re.compile(r"\^\s*([-+]?\d{2,}|[-+]\w)"), r"^{\1}"),
  (re.compile(r"(?<![A-Za-z\\])exp(?=\s*\()"), r"\\exp"),
)
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_NOTHING = re.compile(
  r"\\!\s*|(?<=\d)(?:\\,|\s?\{\s?,\s?\})(?=\d{3}(?!\d))|\\(?:left|right)(?![a-zA-Z])"
)
_SPACE = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\s+")
_COMMA = re.compile(r" ?\{ ?, ?\} ?")
WRAPPED = re.compile(
  r"\\(?:text(?:bf|it|rm|sf|normal)?|math(?:rm|bf|sf|it)|mbox|textnormal)\s*"
  r"\{([^{}]*)\}"
)
_OR = re.compile(r"(?<=[\d)])(and|or)(?=[\d(A-Z])")
_OPEN_BOX = re.compile(r"^.*\\{1,2}(?:boxed|fbox)\s*\{", re.DOTALL)
_LETTER = re.compile(r"^\(([A-Za-z])\)$")


def clean(answer: str) -> str:
  """Returns an answer without box, delimiters, odd spaces and unit."""
  return quantities.without_unit(read(answer)).replace("$", "").strip()


def read(answer: str) -> str:
  """Returns an answer in one spelling, with its unit; a $ is money."""
  if "\\boxed" in answer or "\\fbox" in answer:
    given = answers.given(answer)
    answer = given[-1] if given else _OPEN_BOX.sub("", answer)
  answer = _STYLE.sub("", _MARKDOWN.sub(r"\2", answer))
  answer = number_words.in_figures(answer)
  answer = _HALF.sub(_in_figures, answer)
  answer = _RAISED.sub(_lowered, answer).translate(_SIGNS)
  answer = _ROOT.sub(_root, answer)
  for spelling, usual in _SPELLINGS:
    answer = spelling.sub(usual, answer)
  if "\\begin" not in answer:  # there, two backslashes end a row
    answer = _DOUBLED.sub(r"\\", answer)
  if lone := _DOLLAR.fullmatch(answer):
    answer = rf"{lone['left']}\${lone['right']}"
  answer = _DELIMITER.sub("", answer).replace(r"\$", "$")
  answer = _SPACE.sub(" ", _NOTHING.sub("", answer))
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


def plain(answer: str) -> str:
  """Returns the text by which two cleaned answers are equal as text."""
  answer = re.sub(r"\\[dtc]frac", r"\\frac", answer)
  for _ in range(2):  # \textbf{\text{(A)}}
    answer = WRAPPED.sub(r"\1", answer)
  answer = re.sub(r"(?<!\d)\s|\s(?!\d)", "", answer)
  return _LETTER.sub(r"\1", answer)
