r"""Values assigned to names: x = 7, y = 6; (x, y) = (7, 6).

They are compared with a pair by their names: of the pair (x, y), y = 6 and
x = 7 are (7, 6), and y = 7 and x = 6 are not.
"""

import re

_NAME = r"(?:[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+)(?![A-Za-z])"
_AND = r"(?:\\text[a-z]*\s*\{\s*,?\s*and\s*\}|\band\b)"
_GIVEN = re.compile(rf"(?:\A|[,;&\s]|{_AND})\s*({_NAME})\s*=(?!=)")
_TUPLE = re.compile(rf"\(\s*({_NAME}(?:\s*,\s*{_NAME})+)\s*\)")
_SEVERAL = re.compile(r"=|\bor\b")
_JOINT = re.compile(rf"(?:[\s,;&]|{_AND})+\Z")
_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


def in_order(gold: str, answer: str, statement: str) -> tuple[str, str] | None:
  """Returns two answers with values in one order of their names.

  Args:
    gold, answer: cleaned (see `spelling.clean`).
    statement: the problem's; a pair in it gives the order of its names.

  Returns: Both as tuples, or unchanged if there are no names; None: the names
    differ, or their order is unknown.
  """
  ours, theirs = _named(gold), _named(answer)
  if theirs == {} and (ours or _is_tuple(gold)):
    return None
  if ours and theirs:
    if ours.keys() != theirs.keys():
      are_tuples = _TUPLE.match(gold) and _TUPLE.match(answer)
      return (gold, answer) if are_tuples else None
    return _tuple(ours, list(ours)), _tuple(theirs, list(ours))
  if not (ours or theirs) or (theirs and not _is_tuple(gold)):
    return gold, answer
  names = _order(ours or theirs or {}, statement)
  if names is None:
    return None
  return (
    _tuple(ours, names) if ours else gold,
    _tuple(theirs, names) if theirs else answer,
  )


def _named(text: str) -> dict[str, str] | None:
  """Returns the values of several names; None: the text has anything else.

  It is empty if a name has no value or several.
  """
  if head := _TUPLE.match(text):
    names = re.split(r"\s*,\s*", head[1])
    tail = re.fullmatch(r"\s*=\s*(\(.*\))\s*", text[head.end() :], re.DOTALL)
    if not tail or not _is_tuple(tail[1]):
      return None
    values = _parts(tail[1][1:-1])
  else:
    given = list(_GIVEN.finditer(text))
    if len(given) < 2 or given[0].start() or text[given[0].start()] in ",;&":
      return None
    names = [match[1] for match in given]
    ends = [*(match.start() for match in given[1:]), len(text)]
    values = [
      _JOINT.sub("", text[match.end() : end]).strip()
      for match, end in zip(given, ends)
    ]
  if len(names) != len(values):
    return None
  is_one_each = len(set(names)) == len(names) and all(values)
  if not is_one_each or any(_SEVERAL.search(value) for value in values):
    return {}
  return dict(zip(names, values))


def _order(named: dict[str, str], statement: str) -> list[str] | None:
  """Returns the names in the statement's order, else in the alphabet's."""
  names = list(named)
  statement = re.sub(r"\\(?:left|right)(?![a-zA-Z])|\\[,;: ]", "", statement)
  orders = {
    tuple(re.split(r"\s*,\s*", match[1]))
    for match in _TUPLE.finditer(statement)
  }
  orders = {order for order in orders if sorted(order) == sorted(names)}
  if len(orders) == 1:
    return list(orders.pop())
  return None if orders or names != sorted(names, key=str.lower) else names


def _tuple(named: dict[str, str], names: list[str]) -> str:
  return f"({', '.join(named[name] for name in names)})"


def _is_tuple(text: str) -> bool:
  return text[:1] + text[-1:] == "()" and len(_parts(text[1:-1])) > 1


def _parts(text: str) -> list[str]:
  """Splits at the commas outside brackets."""
  parts, depth, start = [], 0, 0
  for i, character in enumerate(text):
    depth += _BRACKETS.get(character, 0)
    if character == "," and not depth:
      parts.append(text[start:i].strip())
      start = i + 1
  return [*parts, text[start:].strip()]
