r"""Whether an answer only repeats a formula of the problem's statement.

"Factor x^2 - 9" is not answered by x^2 - 9, though it is equal to the gold
answer. A formula of the statement, or a part of one, also counts as repeated
with other spaces, with other signs of the same meaning, in another order, or
with factors of 1 and summands of 0.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any

_FORMULA = re.compile(
  r"\$\$(.+?)\$\$|(?<!\\)\$([^$]+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)"
  r"|\\begin\{(align|equation|gather)\*?\}(.+?)\\end\{\5\*?\}",
  re.DOTALL,
)
_DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
# If a statement has no delimiters, its formulas are whatever is not words.
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?![A-Za-z(])|[?!.](?=\s|$)")
_PARTS = re.compile(r"\\\\|&|,\s|;|\\q?quad|\\text\s*\{[^{}]*\}")
_SIDES = re.compile(r"(?<![<>!:\\])=")
_SAME = (
  (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![a-zA-Z])"), ""),
  (re.compile(r"\\[dtc]frac"), r"\\frac"),
  (re.compile(r"\\(?:cdot|times)(?![a-zA-Z])|[*·×]"), ""),
  (re.compile(r"\\[,;:! ]|~|\s|\\q?quad|[.,]$"), ""),
  (re.compile(r"\{([A-Za-z0-9])\}"), r"\1"),
)
_NUMBER = re.compile(
  r"\\[dtc]?frac\s*(?:\{\s*-?\d+\s*\}|\d)\s*(?:\{\s*-?\d+\s*\}|\d)"
  r"|\d(?:[\d.,/^{}%eE]|\\overline)*(?:\\?%|\s*percent)?"
)
_LONGEST_STATEMENT = 20_000
_LONGEST = 300  # maximum characters of a formula that is taken apart
_MOST = 40  # formulas of a statement


@functools.lru_cache(maxsize=1024)
def formulas_of(statement: str) -> tuple[str, ...]:
  """Returns the formulas of a statement, their sides and listed parts."""
  statement = _DRAWING.sub(" ", statement[:_LONGEST_STATEMENT])
  found = [
    next(filter(None, (*m.groups()[:4], m[6])), "")
    for m in _FORMULA.finditer(statement)
  ]
  rest = _FORMULA.sub("\n", statement)
  found += [
    piece.strip(" \n,:")
    for line in rest.splitlines()
    for piece in _WORD.split(line)
    if re.search(r"[-+*/^=<>≤≥]", piece)
  ]
  parts = []
  for formula in found:
    parts.append(formula)
    for part in _PARTS.split(formula):
      parts += [part, *_SIDES.split(part)]
  kept = (part.strip(" .,:\n") for part in parts)
  return tuple(dict.fromkeys(filter(None, kept)))


@functools.lru_cache(maxsize=1024)
def numbers_of(statement: str) -> tuple[str, ...]:
  """Returns the numbers of a statement, as written there."""
  statement = statement[:_LONGEST_STATEMENT]
  found = (m.group().rstrip(".,") for m in _NUMBER.finditer(statement))
  return tuple(dict.fromkeys(found))


def repeats(
  statement: str, gold: str, answer: str, read: Callable[[str], Any]
) -> bool:
  """Whether an answer repeats the statement, and not the gold answer.

  Args:
    statement: the problem's.
    gold, answer: equal in value; cleaned.
    read: text -> its sympy object or None.
  """
  own, golds = _squeezed(answer), _squeezed(gold)
  if own == golds:
    return False
  known = formulas_of(statement)
  sides = [_squeezed(side) for side in _SIDES.split(answer)]
  links = map("=".join, itertools.pairwise(sides))
  for candidate in {own, sides[-1], *links} - {golds}:
    if len(candidate) > 1 and any(candidate in _whole(f) for f in known):
      return True
  ours, theirs = read(answer), read(gold)
  if ours is None:
    return False
  for is_collected in (False, True):
    shape = functools.partial(_shape, is_collected=is_collected)
    gold_shapes = (
      ()
      if theirs is None
      else (shape(theirs), shape(getattr(theirs, "rhs", theirs)))
    )
    shown = _shapes_of(statement, read, is_collected)
    for side in (ours, getattr(ours, "rhs", ours)):
      own_shape = shape(side)
      if _is_atom(own_shape) or own_shape in gold_shapes:
        continue
      if any(_holds(other, own_shape) for other in shown):
        return True
  return False


def _squeezed(text: str) -> str:
  for pattern, plain in _SAME:
    text = pattern.sub(plain, text)
  return text


@functools.lru_cache(maxsize=4096)
def _whole(formula: str) -> frozenset[str]:
  """Returns a formula's text and the texts inside its brackets."""
  text = _squeezed(formula)
  found, opened = {text}, []
  for i, character in enumerate(text):
    if character in "({[":
      opened.append(i + 1)
    elif character in ")}]" and opened:
      found.add(text[opened.pop() : i])
  return frozenset(found)


_shown: dict[tuple[str, bool], tuple[Hashable, ...]] = {}


def _shapes_of(statement, read, is_collected) -> tuple[Hashable, ...]:
  """Returns the shapes of a statement's formulas and of all parts of them."""
  key = statement, is_collected
  if key not in _shown:
    if len(_shown) > 1024:
      _shown.clear()
    shapes: dict[Hashable, None] = {}
    for formula in formulas_of(statement)[:_MOST]:
      if len(formula) <= _LONGEST and (tree := read(formula)) is not None:
        for part in _parts_of(tree):
          shapes[_shape(part, is_collected=is_collected)] = None
    _shown[key] = tuple(s for s in shapes if not _is_atom(s))
  return _shown[key]


def _parts_of(tree) -> Iterator[Any]:
  yield tree
  for part in getattr(tree, "args", ()):
    yield from _parts_of(part)


def _is_atom(shape) -> bool:
  return shape[0] in ("symbol", "number")


def _holds(shown, own) -> bool:
  """Whether a shape equals another, or some of its summands or factors."""
  shown, own = _without_number(shown), _without_number(own)
  if shown == own:
    return True
  if shown[0] != own[0] or own[0] not in ("sum", "product"):
    return False
  return own[1] <= shown[1]


def _without_number(shape):
  """Drops a number before a sum: the values are known to be equal."""
  if shape[0] == "product":
    rest = [(k, v) for k, v in shape[1] if k[0] != "number"]
    if len(rest) == 1 and rest[0][1] == 1 and rest[0][0][0] == "sum":
      return rest[0][0]
  return shape


# Shapes: the same for two ways of writing that differ only in order, in neutral
# elements and, if collected, in combined numbers and like terms.


def _shape(x, *, is_collected: bool) -> tuple:
  import sympy

  shape = functools.partial(_shape, is_collected=is_collected)
  if isinstance(x, (sympy.Float, sympy.Rational)):
    return "number", sympy.Rational(str(x))
  if isinstance(x, sympy.Symbol):
    return "symbol", x.name
  if isinstance(x, (sympy.Add, sympy.Mul, sympy.Pow)):
    return _product(*_factors(x, 1, is_collected))
  if isinstance(x, (sympy.FiniteSet, sympy.Or)):
    return "set", frozenset(map(shape, x.args))
  if isinstance(x, (sympy.Eq, sympy.Ne)):
    return type(x).__name__, frozenset((shape(x.lhs), shape(x.rhs)))
  if isinstance(x, (sympy.StrictGreaterThan, sympy.StrictLessThan)):
    return "<", shape(x.lts), shape(x.gts)
  if isinstance(x, (sympy.GreaterThan, sympy.LessThan)):
    return "<=", shape(x.lts), shape(x.gts)
  if isinstance(x, sympy.MatrixBase):
    return "matrix", x.shape, tuple(map(shape, x.flat()))
  if getattr(x, "args", ()):
    return str(x.func), *map(shape, x.args)
  return "symbol", str(x)


def _summands(x, is_collected) -> Counter:
  """Returns (factors, coefficient) -> how often; collected: factors -> sum."""
  import sympy

  found: Counter = Counter()
  for arg in x.args:
    if isinstance(arg, sympy.Add):
      found.update(_summands(arg, is_collected))
      continue
    coefficient, factors = _factors(arg, 1, is_collected)
    kept = frozenset((k, v) for k, v in factors.items() if v)
    ((inner, power),) = kept if len(kept) == 1 else ((("", ()), 0),)
    if inner[0] == "sum" and power == 1:  # a sum in brackets
      for key, number in inner[1]:
        if is_collected:
          found[key] += coefficient * number
        else:
          found[key[0], key[1] * coefficient] += number
    elif is_collected:
      found[kept] += coefficient
    elif coefficient:
      found[kept, coefficient] += 1
  return found


def _sum(summands: Counter) -> tuple:
  kept = [(k, v) for k, v in summands.items() if v]
  if not kept:
    return "number", 0
  if len(kept) > 1:
    return "sum", frozenset(kept)
  ((key, number),) = kept
  if len(key) == 2 and not isinstance(key, frozenset):
    factors, coefficient = key
    if number > 1:
      return "sum", frozenset(kept)
    return _product(coefficient, Counter(dict(factors)))
  return _product(number, Counter(dict(key)))


def _product(coefficient, factors: Counter) -> tuple:
  kept = {k: v for k, v in factors.items() if v}
  if not kept or not coefficient:
    return "number", coefficient
  if coefficient == 1 and list(kept.values()) == [1]:
    return next(iter(kept))
  if coefficient != 1:
    kept["number", coefficient] = 1
  return "product", frozenset(kept.items())


def _factors(x, exponent, is_collected) -> tuple[Any, Counter]:
  """Returns coefficient and factor -> exponent of a product to a power."""
  import sympy

  one = sympy.Integer(1)
  if isinstance(x, sympy.Mul):
    coefficient, factors = one, Counter[Any]()
    for arg in x.args:
      number, inner = _factors(arg, exponent, is_collected)
      coefficient *= number
      factors.update(inner)
    return coefficient, factors
  if isinstance(x, sympy.Pow) and x.exp.is_Integer:
    return _factors(x.base, exponent * int(x.exp), is_collected)
  if isinstance(x, (sympy.Rational, sympy.Float)):
    number = sympy.Rational(str(x))
    if not number and exponent > 0:
      return number, Counter()
    if abs(number) == 1 or (is_collected and number and abs(exponent) <= 64):
      return number**exponent, Counter()
    sign = -1 if number < 0 else 1
    return one * sign ** (exponent % 2), Counter(
      {("number", abs(number)): exponent}
    )
  if isinstance(x, sympy.Add):
    summands = [arg for arg in x.args if arg != 0]
    if len(summands) == 1:
      return _factors(summands[0], exponent, is_collected)
    shape, content = _primitive(_summands(x, is_collected), is_collected)
    if content is not None:
      return content**exponent, Counter({shape: exponent})
  else:
    shape = (
      ("power", *(_shape(arg, is_collected=is_collected) for arg in x.args))
      if isinstance(x, sympy.Pow)
      else _shape(x, is_collected=is_collected)
    )
  return one, Counter({shape: exponent})


def _primitive(summands: Counter, is_collected) -> tuple[tuple, Any]:
  """Returns a sum without its sign (collected: its content), and the latter."""
  import sympy

  if not is_collected:
    summands = Counter({k: v for k, v in summands.items() if v})
    # Ordered by the summands, since the sign itself must not decide.
    first = min(summands, key=lambda k: str(k[0]), default=None)
    if first is None or first[1] > 0:
      return _sum(summands), sympy.Integer(1)
    return _sum(Counter({(k, -c): n for (k, c), n in summands.items()})), -(
      sympy.Integer(1)
    )
  kept = {k: v for k, v in summands.items() if v}
  if not kept:
    return ("number", 0), None
  numbers = [sympy.Rational(v) for v in kept.values()]
  content = sympy.Rational(
    sympy.igcd(*(n.p for n in numbers), 0),
    sympy.ilcm(*(n.q for n in numbers), 1),
  )
  if kept[min(kept, key=str)] < 0:
    content = -content
  return _sum(Counter({k: v / content for k, v in kept.items()})), content
