"""Where a model's thoughts end and its answer begins: one table for all.

Every verifier removes thoughts with it, and imported traces are read with it.
"""

import re
from collections.abc import Collection
from typing import NamedTuple


class Delimiters(NamedTuple):
  """How one family of models marks its thoughts; regular expressions.

  `wrapping` is what may surround the answer after them.
  """

  begin: str
  end: str
  wrapping: str = ""

  @property
  def literal(self) -> tuple[str, str]:
    """Their begin and end as written, if each has only one spelling."""
    begin, end = (re.sub(r"\\(.)", r"\1", x) for x in (self.begin, self.end))
    return begin, end


_TAGS = ("think", "thinking", "thought", "thoughts", "reasoning", "seed:think")
DELIMITERS: tuple[Delimiters, ...] = (
  *(Delimiters(f"<{tag}>", f"</{tag}>") for tag in _TAGS),
  Delimiters(r"\[THINK\]", r"\[/THINK\]"),  # Magistral
  Delimiters("◁think▷", "◁/think▷"),  # Kimi
  Delimiters(  # OpenThoughts, Sky-T1
    r"<\|begin_of_thought\|>",
    r"<\|end_of_thought\|>",
    r"<\|(?:begin|end)_of_solution\|>",
  ),
  Delimiters(  # Command A
    r"<\|START_THINKING\|>",
    r"<\|END_THINKING\|>",
    r"<\|(?:START|END)_RESPONSE\|>",
  ),
  Delimiters(  # gpt-oss: all channels but the final one are thoughts
    r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)"
    r"[^<>|]{0,100}<\|message\|>",
    r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final"
    r"[^<>|]{0,100}<\|message\|>",
    r"<\|(?:return|end)\|>",
  ),
)

_EITHER = "|".join(
  f"(?P<begin{i}>{d.begin})|(?P<end{i}>{d.end})"
  for i, d in enumerate(DELIMITERS)
)
# Checking one character first makes it ten times as fast.
_MARK = re.compile(rf"(?=[<\[◁])(?:{_EITHER})", re.IGNORECASE)


class Split(NamedTuple):
  """A text's thoughts, None where it marks none, and its spoken part."""

  thoughts: str | None
  answer: str
  is_open: bool = False  # thoughts were begun and never closed


def split(text: str) -> Split:
  """Returns a text's thoughts and its answer, without their delimiters.

  Everything before the last end of thoughts is thoughts: the prompt may have
    opened them. So is what follows a beginning that is never closed. Takes time
    proportional to the text's length.
  """
  marks = list(_MARK.finditer(text))
  if not marks:
    return Split(None, text)
  kinds = [str(mark.lastgroup) for mark in marks]
  last = max(
    (i for i, k in enumerate(kinds) if k.startswith("end")), default=-1
  )
  start, stop, thoughts, wrapping = 0, len(text), [], ""
  if last >= 0:
    first = marks[0].end() if kinds[0].startswith("begin") else 0
    thoughts.append(text[first : marks[last].start()])
    start = marks[last].end()
    wrapping = DELIMITERS[int(kinds[last].removeprefix("end"))].wrapping
  is_open = last + 1 < len(marks)
  if is_open:
    stop = marks[last + 1].start()
    thoughts.append(text[marks[last + 1].end() :])
  answer = text[start:stop]
  return Split("\n".join(thoughts), _unwrapped(answer, wrapping), is_open)


def without_thoughts(text: str) -> str:
  """Returns a text without its thoughts and the drafts in them."""
  return split(text).answer


def marks_of_model(controls: Collection[str], template: str) -> tuple[str, str]:
  """Returns a model's marks of thoughts; the most common ones by default.

  Args:
    controls: its control tokens.
    template: its chat template's source.
  """
  known = [d.literal for d in DELIMITERS]
  is_token = lambda marks: all(mark in controls for mark in marks)
  is_shown = lambda marks: all(mark in template for mark in marks)
  return max(known, key=lambda marks: (is_token(marks), is_shown(marks)))


def respelled(
  text: str, marks: tuple[str, str], *, begun: bool = False
) -> list[str]:
  """Returns a reply with other marks, as its texts and marks in turn.

  White space stays as it is.

  Args:
    text: with delimiters of any row of the table.
    marks: those with which thoughts begin and end in the result.
    begun: whether the prompt has begun the thoughts: the reply then does not
      begin them again, and ends them at once if it has none.
  """
  parts = [""]
  end = 0  # of the mark before
  wrapping = ""
  is_open = begun
  for mark in _MARK.finditer(text):
    kind = str(mark.lastgroup)
    delimiters = DELIMITERS[int(re.sub(r"\D", "", kind))]
    parts[-1] += _unwrapped(text[end : mark.start()], wrapping)
    if kind.startswith("end"):
      if not is_open and len(parts) == 1:  # another prompt had begun them
        parts = ["", marks[0], "\n" + parts[0].lstrip("\n")]
      parts += [marks[1], ""]
    elif not is_open:
      parts += [marks[0], ""]
    elif len(parts) > 1:
      parts[-1] += "\n"  # a channel of thoughts after another one
    is_open = kind.startswith("begin")
    wrapping = "" if delimiters.literal == marks else delimiters.wrapping
    end = mark.end()
  rest = _unwrapped(text[end:], wrapping)
  if begun:
    if len(parts) == 1 and not end:
      return ["", marks[1], "\n\n" + rest.lstrip()]
    parts[0] = parts[0].lstrip()
  parts[-1] += rest
  return parts


def _unwrapped(text: str, wrapping: str) -> str:
  return re.sub(wrapping, "", text, flags=re.IGNORECASE) if wrapping else text
