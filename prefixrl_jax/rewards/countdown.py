r"""The verifier of countdown and the game of 24: exact rational arithmetic.

The answer is where `answers.given` finds it, else it is the last sentence. It
is an expression of whole numbers, + - * / and parentheses, in which a minus may
also be a sign; × ÷ − · and LaTeX's \times \cdot \div \frac are read too. "= 24"
may follow and must then be true. Only sums, differences, products and quotients
of Fractions are evaluated.
"""

import ast
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from prefixrl_jax.rewards import answers
from prefixrl_jax.types import Problem, Verdict

_LONGEST = 300  # characters of an expression
_SIGNS = (
  (
    re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\?\$|\\[()\[\]!,]"),
    "",
  ),
  (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])|[×·∗⋅]"), "*"),
  (re.compile(r"(?<=[\d)\s])[xX](?=[\d(\s])"), "*"),
  (re.compile(r"\\div(?![a-zA-Z])|[÷∕]"), "/"),
  (re.compile(r"[−–]"), "-"),
  (re.compile(r"(\\[dtc]?frac)\s*(\d)"), r"\1{\2}"),
  (re.compile(r"(\\[dtc]?frac\s*\{[^{}]{1,300}\})\s*(\d)"), r"\1{\2}"),
  (re.compile(r"\A\s*(\*\*|`)(.*)\1\s*\Z", re.DOTALL), r"\2"),
)
_BLANK = re.compile(r"(?:[^\S\n]|\\[,!;: ]|\\q?quad(?![a-zA-Z]))+")
_BRACE = re.compile(r"(\\[dtc]?frac\s*\{|\}\s*\{|[{}])")
_EXPRESSION = re.compile(r"[\d\s+\-*/()]+")


class CountdownVerifier:
  """Checks value and numbers of the expression that a completion ends with.

  A problem's metadata has `numbers` (list of int), `target` (int) and
  `use_all`: whether each number must be used (game of 24) or may be
  (countdown); in both, at most as often as it is given.
  """

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`."""
    return [
      Verdict(float(_is_right(text, **_puzzle(problem))))
      for problem, text in zip(problems, texts)
    ]

  def close(self) -> None:
    """Nothing to free."""


def is_solution(
  answer: str, *, numbers: Sequence[int], target: int, use_all: bool
) -> bool:
  """Whether an expression makes the target from the numbers.

  Args:
    answer: expression; "= number" may follow.
    numbers: the numbers to use, each as often as it is listed.
    target: the value to make.
    use_all: whether every number must be used.
  """
  expression, *claims = _plain(answer).split("=")
  if len(expression) > _LONGEST or not _EXPRESSION.fullmatch(expression):
    return False
  if claims and [claim.strip() for claim in claims] != [str(target)]:
    return False
  used: Counter[int] = Counter()
  try:
    tree = ast.parse(expression.strip(), mode="eval")
    value = _value(tree.body, used)
  except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
    return False
  allowed = Counter(numbers)
  return value == target and (used == allowed if use_all else used <= allowed)


def _puzzle(problem: Problem) -> dict:
  return {k: problem.metadata[k] for k in ("numbers", "target", "use_all")}


def _is_right(text: str, **puzzle) -> bool:
  if answers.is_marked(text):
    given = answers.given(text)
  else:
    # White space, however long, must not hide the beginning of a sentence.
    given = [answers.last_sentence(_BLANK.sub(" ", text))]
  return len(given) == 1 and is_solution(given[0], **puzzle)


def _plain(answer: str) -> str:
  """Returns the whole answer with Python's operators, in linear time."""
  for sign, plain in _SIGNS:
    answer = sign.sub(plain, answer)
  return _without_braces(" ".join(answer.split())).rstrip(". ")


def _without_braces(answer: str) -> str:
  r"""Returns \frac{a}{b} as ((a)/(b)), and any other brace as a bracket."""
  said: list[str] = []
  closed: list[str] = []  # what the open braces must be closed with
  for part in _BRACE.split(answer):
    if part.startswith("\\"):
      said.append("((")
      closed.append(")/")  # an operand is missing unless another brace follows
    elif part == "{":
      said.append("(")
      closed.append(")")
    elif part.startswith("}"):
      end = closed.pop() if closed else ")"
      said.append(end)
      if part != "}":
        said.append("(")
        closed.append("))" if end == ")/" else ")")
    else:
      said.append(part)
  return "".join(said)


def _value(node: ast.AST, used: Counter[int]) -> Fraction:
  """Returns a tree's value and counts its numbers.

  Raises:
    ValueError: a part is neither a whole number nor one of + - * /.
    ZeroDivisionError: a divisor is 0.
  """
  if isinstance(node, ast.Constant) and type(node.value) is int:
    used[node.value] += 1
    return Fraction(node.value)
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    return -_value(node.operand, used)
  if not isinstance(node, ast.BinOp):
    raise ValueError(f"{type(node).__name__} is not arithmetic")
  left, right = _value(node.left, used), _value(node.right, used)
  if isinstance(node.op, ast.Add):
    return left + right
  if isinstance(node.op, ast.Sub):
    return left - right
  if isinstance(node.op, ast.Mult):
    return left * right
  if isinstance(node.op, ast.Div):
    return left / right
  raise ValueError(f"{type(node.op).__name__} is not allowed")
