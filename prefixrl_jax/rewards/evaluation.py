"""Whether two expressions have the same value: exactly, with no tolerance.

They do if they agree to some fifty digits, relatively, at every point tried.
Runs in a worker; may take forever.
"""

from collections.abc import Sequence

import sympy
from sympy.core.function import AppliedUndef

_DIGITS = 50
_MOST_DIGITS = 2500  # of a constant; an answer has at most 1,000
_MOST_DIGITS_OF_FORMULA = 150
# Points to try: values of the first symbol, and steps to the next.
_POINTS = (
  (sympy.Rational(37, 101), sympy.Rational(11, 103)),
  (sympy.Rational(-131, 97), sympy.Rational(-17, 89)),
  (sympy.Rational(577, 211), sympy.Rational(61, 113)),
)
_HARD = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit)


def same_value(gold: sympy.Expr, answer: sympy.Expr) -> bool:
  """Whether two expressions have the same value; see the module's docstring.

  Args:
    gold, answer: as `formulas.read` returns them.
  """
  percents = [_percent(x) for x in (gold, answer)]
  if (percents[0] is None) != (percents[1] is None):
    bare = [x if p is None else p for x, p in zip((gold, answer), percents)]
    if same_value(*bare):
      return True
  gold, answer = _values(gold, answer)
  if gold == answer:
    return gold not in (sympy.nan, sympy.zoo)
  tried = False
  if gold.has(*_HARD) or answer.has(*_HARD):
    gold, answer = gold.doit(), answer.doit()
  symbols = _symbols(gold, answer)
  is_complex = not symbols or gold.has(sympy.I) or answer.has(sympy.I)
  for point in _points(symbols):
    ours, theirs = _at(gold, point), _at(answer, point)
    if ours is None or theirs is None:
      continue
    if not is_complex and not (ours.is_real and theirs.is_real):
      continue  # for roots of negative numbers some mean the real one
    if not _close(ours, theirs) or not _vanishes(gold - answer, point):
      return False
    tried = True
  return tried or bool(sympy.simplify(gold - answer).is_zero)


def ratio(a: sympy.Expr, b: sympy.Expr) -> sympy.Rational | None:
  """Returns a / b if that is a rational constant, else None.

  Args:
    a, b: as `formulas.read` returns them.
  """
  a, b = _values(a, b)
  names = _symbols(a, b)
  ratios = []
  for point in _points(names):
    ours, theirs = _at(a, point), _at(b, point)
    if ours is None or theirs is None or theirs == 0:
      return None
    ratios.append(
      sympy.nsimplify(ours / theirs, rational=True, tolerance=1e-30)
    )
  if not all(_close(other, ratios[0]) for other in ratios):
    return None
  return ratios[0] if ratios[0].is_real and ratios[0] != 0 else None


def _percent(x):
  """Returns what precedes a percent sign, else None."""
  hundredth = sympy.UnevaluatedExpr(sympy.Rational(1, 100))
  if isinstance(x, sympy.Mul) and len(x.args) == 2 and hundredth in x.args:
    return x.args[0] if x.args[1] == hundredth else x.args[1]
  return None


def _values(*expressions) -> list:
  """Returns expressions with exact decimals and plain symbols.

  A function of something becomes a symbol, i and e become the numbers.
  """
  values = []
  for x in expressions:
    x = x.xreplace(
      {f: exact(f) for f in x.atoms(sympy.Float)}
      | {u: u.args[0] for u in x.atoms(sympy.UnevaluatedExpr)}  # of percent
    )
    x = x.xreplace({f: sympy.Symbol(str(f)) for f in x.atoms(AppliedUndef)})
    numbers = {} if x.has(*_HARD) else {"i": sympy.I, "e": sympy.E}
    values.append(
      x.xreplace(
        {
          s: numbers.get(s.name, sympy.Symbol(s.name))
          for s in x.atoms(sympy.Symbol)
        }
      )
    )
  return values


def exact(number: sympy.Float) -> sympy.Rational:
  """Returns a Float as the exact decimal that was written."""
  return sympy.Rational(str(number))


def _symbols(*expressions) -> list:
  return sorted(set().union(*(x.free_symbols for x in expressions)), key=str)


def _points(symbols: Sequence) -> list[dict]:
  if not symbols:
    return [{}]
  return [
    {symbol: start + i * step for i, symbol in enumerate(symbols)}
    for start, step in _POINTS
  ]


def _at(x, point):
  """Returns a value to `_DIGITS` digits; None: it has none, or fewer."""
  try:
    value = x.evalf(_DIGITS, subs=point, maxn=_MOST_DIGITS_OF_FORMULA)
  except (
    TypeError,
    ValueError,
    OverflowError,
    ArithmeticError,
    AttributeError,
  ):
    return None
  parts = value.as_real_imag()
  if not all(part.is_Float or part.is_Rational for part in parts):
    return None
  if any(part.is_Float and part._prec < 3 * _DIGITS for part in parts if part):
    return None
  return value


def _vanishes(difference, point) -> bool:
  """Whether no digit of a difference can be found, however small it is.

  It may be many digits beyond those of the operands, as between 1 + 1/52! and 1
  + 1/51!, or a root and its first hundred decimals.
  """
  most = _MOST_DIGITS_OF_FORMULA if point else _MOST_DIGITS
  value = difference.evalf(15, subs=point, maxn=most)
  return not any(
    part and not (part.is_Float and part._prec < _DIGITS)
    for part in value.as_real_imag()
  )


def _close(a, b) -> bool:
  """Relatively: 10^-20 is not 10^-30, and neither is 0."""
  most = max(abs(a), abs(b))
  return bool(
    most == 0 or abs(a - b) <= most * sympy.Float(10) ** (8 - _DIGITS)
  )
