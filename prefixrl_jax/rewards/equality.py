"""Whether two mathematical objects are equal: exactly, with no tolerance.

Expressions are compared by value (see `evaluation`); everything else is taken
apart until expressions are left. Nothing is solved on an answer's behalf: a
relation is a set of numbers only if it is solved. Runs in a worker; may never
end.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import sympy
from latex2sympy2_extended import is_expr_of_only_symbols
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from prefixrl_jax.rewards import evaluation

_LARGEST_SET = 50
_LESS = (sympy.StrictLessThan, sympy.LessThan)
_GREATER = (sympy.StrictGreaterThan, sympy.GreaterThan)


def equal(gold: Any, answer: Any) -> bool:
  """Whether an answer equals the gold one.

  Args:
    gold, answer: sympy objects as `formulas.read` returns them.
  """
  gold, answer = _sides_to_compare(gold, answer)
  if is_relation(gold) and is_relation(answer):
    return _same_relation(gold, answer)
  if _is_set(gold) or _is_set(answer):
    return _same_set(gold, answer)
  if is_relation(gold) or is_relation(answer):
    return False
  if isinstance(gold, sympy.Tuple) or isinstance(answer, sympy.Tuple):
    return (
      isinstance(gold, sympy.Tuple)
      and isinstance(answer, sympy.Tuple)
      and _in_order(gold.args, answer.args)
    )
  if _is_matrix(gold) or _is_matrix(answer):
    return _same_matrix(gold, answer)
  if isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr):
    return evaluation.same_value(gold, answer)
  return bool(gold == answer)


def is_relation(x) -> bool:
  """Whether x is a relation, or a chain of them."""
  return isinstance(x, (Relational, sympy.And)) and all(
    isinstance(part, Relational) for part in _parts(x)
  )


def is_solved(x: Any) -> bool:
  """Whether x is a relation with a symbol alone on one side."""
  return is_relation(x) and all(_solved(r) is not None for r in _parts(x))


def is_unsolved(x: Any) -> bool:
  """Whether x is a relation without a symbol alone on one side."""
  return is_relation(x) and not is_solved(x)


def _sides_to_compare(gold, answer):
  """Takes the last side of an equation if the other answer is not one.

  x = 18 is 18; of a chain of equations the first and last side count.
  """
  if _is_assignment(gold):
    gold = _ends(gold)
  if _is_assignment(answer):
    answer = _ends(answer)
  if _is_equation(answer) and not _is_equation(gold):
    answer = _last_side(answer)
  elif _is_assignment(gold) and not _is_equation(answer):
    gold = gold.rhs
  return gold, answer


def _last_side(equation):
  """Returns the last side; nan if another side is a different number."""
  *others, last = [*(p.lhs for p in _parts(equation)), _parts(equation)[-1].rhs]
  for side in others:
    is_constant = isinstance(side, sympy.Expr) and not side.free_symbols
    if is_constant and not side.has(AppliedUndef) and not equal(last, side):
      return sympy.nan
  return last


def _parts(relation) -> tuple:
  """Returns the relations of a chain, in their order."""
  if isinstance(relation, sympy.And):
    return tuple(getattr(relation, "_unsorted_args", relation.args))
  return (relation,)


def _ends(relation):
  parts = _parts(relation)
  return sympy.Eq(parts[0].lhs, parts[-1].rhs, evaluate=False)


def _is_equation(x) -> bool:
  return is_relation(x) and all(isinstance(p, sympy.Eq) for p in _parts(x))


def _is_assignment(x) -> bool:
  return _is_equation(x) and is_expr_of_only_symbols(_parts(x)[0].lhs)


def _is_set(x) -> bool:
  return isinstance(x, sympy.Set)


def _is_matrix(x) -> bool:
  return isinstance(x, (sympy.MatrixBase, sympy.MatrixExpr))


def _in_order(gold: Sequence, answer: Sequence) -> bool:
  return len(gold) == len(answer) and all(map(equal, gold, answer))


# Relations.


def _solved(relation):
  """Returns the symbol that stands alone on one side; None: none does."""
  for side, other in (
    (relation.lhs, relation.rhs),
    (relation.rhs, relation.lhs),
  ):
    if isinstance(side, (sympy.Symbol, AppliedUndef)) and not (
      side.free_symbols & getattr(other, "free_symbols", set())
    ):
      return side
  return None


def _as_less(relation) -> tuple[type, Any, Any]:
  """Returns the kind of a relation and its sides, the smaller one first."""
  if isinstance(relation, _GREATER):
    kind = _LESS[_GREATER.index(type(relation))]
    return kind, relation.rhs, relation.lhs
  return type(relation), relation.lhs, relation.rhs


def _same_relation(gold, answer) -> bool:
  golds, answers = _parts(gold), _parts(answer)
  if len(golds) != len(answers):
    return False
  if len(golds) > 1:
    return any(
      all(map(_same_relation, golds, order))
      for order in (answers, answers[::-1])
    )
  (kind, less, more), (kind2, less2, more2) = map(_as_less, (gold, answer))
  if kind is not kind2:
    return False
  is_symmetric = kind in (sympy.Eq, sympy.Ne)
  if equal(less, less2) and equal(more, more2):
    return True
  if is_symmetric and equal(less, more2) and equal(more, less2):
    return True
  sides = (less, more, less2, more2)
  if not all(isinstance(side, sympy.Expr) for side in sides):
    return False
  factor = evaluation.ratio(more - less, more2 - less2)
  if factor is None:
    return kind is sympy.Eq and _same_solutions(gold, answer)
  if len(gold.free_symbols) == 1 and _solved(gold) and not _solved(answer):
    return abs(factor) == 1 and (is_symmetric or factor == 1)
  return bool(is_symmetric or factor > 0)


def _same_solutions(gold, answer) -> bool:
  """For equations of several symbols, which may be written in many ways."""
  symbols = sorted(gold.free_symbols, key=str)
  if len(symbols) < 2 or gold.free_symbols != answer.free_symbols:
    return False
  ours, theirs = (sympy.solve(x, symbols[0]) for x in (gold, answer))
  return 0 < len(ours) == len(theirs) and _each_in_other(ours, theirs)


# Sets.


def _same_set(gold, answer) -> bool:
  gold, answer = _as_set(gold), _as_set(answer)
  if gold is None or answer is None:
    return False
  pair = _as_pair(gold, answer)
  if pair is not None:
    return pair
  kinds = (sympy.FiniteSet, sympy.Interval, sympy.Union)
  if isinstance(gold, sympy.FiniteSet) and isinstance(answer, sympy.FiniteSet):
    return _each_in_other(gold.args, answer.args)
  if isinstance(gold, sympy.Interval) and isinstance(answer, sympy.Interval):
    return (
      (gold.left_open, gold.right_open) == (answer.left_open, answer.right_open)
      and equal(gold.start, answer.start)
      and equal(gold.end, answer.end)
    )
  if isinstance(gold, sympy.Union) and isinstance(answer, sympy.Union):
    return _each_in_other(gold.args, answer.args)
  if gold == answer:
    return True
  if isinstance(gold, kinds) and isinstance(answer, kinds):
    # Adjacent pieces, or an interval and a point at its end.
    return bool(gold.symmetric_difference(answer).is_empty)
  try:
    return bool(gold.symmetric_difference(answer).is_empty)
  except (NotImplementedError, TypeError, ValueError):
    return False


def _as_set(x):
  """Returns a set; a solved inequality or a single value counts as one."""
  if isinstance(x, sympy.FiniteSet) and x.args:
    if all(is_relation(arg) and not _is_equation(arg) for arg in x.args):
      return _joined([_as_set(arg) for arg in x.args])
    return x
  if _is_set(x) or isinstance(x, sympy.Tuple):
    return x
  if not is_relation(x):
    return sympy.FiniteSet(x)
  intervals = [_interval(part) for part in _parts(x)]
  if None in intervals or len({_solved(part) for part in _parts(x)}) > 1:
    return None
  return sympy.Intersection(*intervals)


def _interval(relation):
  symbol = _solved(relation)
  kind, less, more = _as_less(relation)
  if symbol is None:
    return None
  if kind is sympy.Ne:
    other = more if less == symbol else less
    return sympy.Complement(sympy.S.Reals, sympy.FiniteSet(other))
  if kind not in _LESS:
    return None
  is_open = kind is sympy.StrictLessThan
  if less == symbol:
    return sympy.Interval(-sympy.oo, more, True, is_open)
  return sympy.Interval(less, sympy.oo, is_open, True)


def _joined(sets):
  """Returns "x < 1 or x > 2", or "x > 1 and x < 2", which read the same.

  If both readings make sense it is not known which was meant.
  """
  if None in sets:
    return None
  union, common = sympy.Union(*sets), sympy.Intersection(*sets)
  if common.is_empty:
    return union
  return common if union == sympy.S.Reals else None


def _as_pair(gold, answer) -> bool | None:
  """(1, 2) is read as an open interval; 1, 2 as a set that has no order."""
  tuples = [
    sympy.Tuple(x.start, x.end)
    if isinstance(x, sympy.Interval) and x.left_open and x.right_open
    else x
    for x in (gold, answer)
  ]
  is_tuple = [isinstance(x, sympy.Tuple) for x in tuples]
  is_list = [isinstance(x, sympy.FiniteSet) for x in tuples]
  if is_tuple[0] and is_list[1]:
    # In the answer's order.
    return _in_order(
      tuples[0].args, getattr(answer, "_unsorted_args", answer.args)
    )
  if is_list[0] and is_tuple[1]:
    return len(gold.args) == len(tuples[1].args) and _each_in_other(
      gold.args, tuples[1].args
    )
  if isinstance(gold, sympy.Tuple) or isinstance(answer, sympy.Tuple):
    return all(is_tuple) and _in_order(tuples[0].args, tuples[1].args)
  return None


def _each_in_other(gold: Sequence, answer: Sequence) -> bool:
  if max(len(gold), len(answer)) > _LARGEST_SET:
    return False
  pairs = {
    (i, j)
    for i, j in itertools.product(range(len(gold)), range(len(answer)))
    if equal(gold[i], answer[j])
  }
  return {i for i, _ in pairs} == set(range(len(gold))) and {
    j for _, j in pairs
  } == set(range(len(answer)))


def _same_matrix(gold, answer) -> bool:
  gold, answer = (x.doit() if _is_matrix(x) else x for x in (gold, answer))
  return (
    isinstance(gold, sympy.MatrixBase)
    and isinstance(answer, sympy.MatrixBase)
    and gold.shape == answer.shape
    and _in_order(gold.flat(), answer.flat())
  )
