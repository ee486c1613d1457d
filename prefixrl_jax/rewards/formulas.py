r"""From LaTeX to sympy objects, with math-verify's parser.

What is read keeps its form: nothing is evaluated. Letters keep their case
(\pi R^2 is not \pi r^2). Runs in a worker: sympy takes a second to import.
"""

import functools
import re
from typing import Any

_EQUALS = re.compile(r"(?<![\\<>!])=")
_MARKED_ANGLE = re.compile(
  r"(?:\\(?:measured|spherical)?angle|∠)\s*\{?\s*([A-Z])\s*([A-Z])\s*([A-Z])"
  r"(?![A-Za-z])\s*\}?"
)
# Degrees are plain numbers, except within a function of angles.
_OF_ANGLES = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(
  r"(\d+(?:\.\d+)?)\s*\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})"
)
# The parser reads these as lower case, unlike \Delta and \Omega.
_CAPITAL = re.compile(r"\\(Gamma|Lambda|Theta|Xi|Phi|Psi|Upsilon)(?![a-zA-Z])")
# One spelling of subscripts: x_{\max}, x_{max} and x_{\mathrm{max}}.
_SUBSCRIPT = re.compile(
  r"_\s*\{\s*(?:\\(?:text|mathrm|mbox)[a-z]*\s*\{\s*([A-Za-z]+)\s*\}"
  r"|\\?(max|min|sup|inf|odot|oplus)|([A-Za-z]{2,}))\s*\}"
)
_BARE_SUBSCRIPT = re.compile(r"_\s*(\\[A-Za-z]+)(?![A-Za-z]|\s*\{)")
# The parser takes it for the imaginary unit, whatever its index.
_CURRENT = re.compile(r"(?<![a-z\\])I(?![a-z])")
_EULER = re.compile(r"\\(?:mathrm|text|operatorname)\s*\{\s*e\s*\}")
# Text with a number in it; words, which would be read as products of letters.
_NUMBER_IN_TEXT = re.compile(r"\\(?:text|mbox)[a-z]*\s*\{[^{}]*\d[^{}]*\}")
_COMMAND = re.compile(
  r"\\(?:begin|end|operatorname|text|mbox|mathrm)[a-z]*\s*\{[^{}]*\}|\\[A-Za-z]+"
)
_WORD = re.compile(
  r"(?!(?:a?(?:sin|cos|tan|cot|sec|csc)h?|arc\w+|log|exp|sqrt|infty|infinity)"
  r"(?![A-Za-z]))[A-Za-z]{5,}"
  r"|(?<![A-Za-z])(?i:not|but|is|isn|if|than|then|nor|only)(?![A-Za-z])"
)
_COMPLEX = re.compile(
  r"\\mathbb\s*\{C\}|(?<![A-Za-z\\])i(?![A-Za-z])|\\(?:Re|Im)"
)


@functools.lru_cache(maxsize=4096)  # each gold answer is compared with many
def read(text: str) -> Any:
  """Returns the whole text as a sympy object; None: it is not one.

  Args:
    text: LaTeX or plain, cleaned (see `math.clean`).
  """
  text = _SUBSCRIPT.sub(_subscript, _BARE_SUBSCRIPT.sub(r"_{\1}", text))
  if not text or _NUMBER_IN_TEXT.search(text):
    return None
  if _WORD.search(_COMMAND.sub(" ", text)):
    return None
  text = _MARKED_ANGLE.sub(
    lambda m: (
      rf"\theta_{{{min(''.join(m.groups()), ''.join(m.groups())[::-1])}}}"
    ),
    _EULER.sub("e", text),
  )
  if _OF_ANGLES.search(text):
    text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
  text = _CURRENT.sub(r"\\iota ", text)
  text = _normalised(_CAPITAL.sub(r"\\theta_{\1}", text))
  try:
    return _convert(text)
  except Exception:  # whatever the parser makes of it
    sides = _EQUALS.split(text)
    if len(sides) < 3 or "," in text or ";" in text:
      return None
  try:  # of a chain of equations the last side may be readable
    return _convert(sides[-1])
  except Exception:
    return None


def _subscript(match: re.Match) -> str:
  name = next(filter(None, match.groups()))
  return f"_{{{name}}}" if len(name) == 1 else rf"_{{\text{{{name}}}}}"


def _normalised(text: str) -> str:
  from latex2sympy2_extended import NormalizationConfig, normalize_latex

  # Units are taken off by `math.clean`.
  config = NormalizationConfig(
    basic_latex=True,
    units=False,
    malformed_operators=True,
    nits=True,
    boxed="none",
  )
  return normalize_latex(text, config)


def _convert(text: str) -> Any:
  from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

  return latex2sympy(
    text,
    is_real=not _COMPLEX.search(text),
    convert_degrees=False,
    normalization_config=None,
    conversion_config=ConversionConfig(lowercase_symbols=False),
  )
