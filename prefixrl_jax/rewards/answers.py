r"""Where a completion's final answer stands: tags, boxes, an answer line.

Thoughts are ignored (see `thoughts`). If there are <answer> tags or boxes
(\boxed or \fbox), only they count; otherwise the last answer line does: what
follows "answer is", "Answer:", "A:" or "####", up to the end of the sentence,
or the last "is" in that. If there is neither, `last_sentence` remains.
Everything here takes time proportional to the text's length.
"""

import re

from prefixrl_jax.rewards import surroundings
from prefixrl_jax.text.thoughts import without_thoughts

_TOKEN = re.compile(
  r"\\{1,2}(?:boxed|fbox)\s*(?:(?P<open>\{)|(?P<bare>[-+]?\.?\d[\d.,/]*))"
  r"|\\.|(?P<brace>[{}])",
  re.DOTALL,
)
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])")
_TAG = re.compile(r"<\s*(/?)\s*answer\s*>", re.IGNORECASE)
# A box to be filled in, as questions have them.
_BLANK = re.compile(
  r"(?:\\[hv]?phantom\s*\{[^{}]*\}|\\q?quad|\\l?dots|\\[,;: ]|[\s_?.…])*"
)
_MARK = re.compile(
  r"####|\banswer\b[ \t*_]*(?::|\bis\b)[ \t*_:]*|^[ \t*_]*A:",
  re.IGNORECASE | re.MULTILINE,
)
# And no decimal point, three dots or factorial.
_SENTENCE_END = re.compile(
  r"(?:\?|(?<!\.)\.(?!\.)|(?<!\d)(?<!\b[a-z])!)(?=[\s*_]|$)"
)
_IS = re.compile(r"\b(?:is|it's)\b:?")
# What a chat template or a well-known prompt puts after an answer.
_TAIL = re.compile(
  r"\s*(?:<\|[a-z_]+\|>.*|I hope it is correct\W*)\Z", re.DOTALL
)
_DISPLAY = re.compile(r"\$\$[^$]*\$\$|\\\[.*?\\\]", re.DOTALL)
_LONGEST_SENTENCE = 2000
_REASON = re.compile(r",?\s+(?:since|because)\b")
_JOINT = re.compile(r"\b(?:and|or)\b|[,;&]")


def given(text: str) -> list[str]:
  """Returns the different final answers a completion gives, first to last.

  None: it has no answer. Several: it is undecided. Boxes of a list, close
    together and joined by a comma, "and" or "or", are one answer.
  """
  text = without_thoughts(text)
  if tags := list(_TAG.finditer(text)):
    found = tagged(text)
    if surroundings.is_taken_back(text, tags[-2:][0].start(), tags[-1].end()):
      return []
    text, answers = _TAG.sub("", text), []
    if found and found[-1] is None:
      return []
    for content in filter(None, found):
      if not _BOX.search(content):
        answers.append(_marked(content) or content)
    answers += _boxed(text)
    return list(dict.fromkeys(answers))
  if _BOX.search(text):
    return list(dict.fromkeys(_boxed(text)))
  return [answer] if (answer := _marked(text)) else []


def tagged(text: str) -> list[str | None]:
  """Returns what stands between <answer> and </answer>; None: never closed."""
  found: list[str | None] = []
  start = None
  for tag in _TAG.finditer(text):
    if not tag[1]:
      start = tag.end()
    elif start is not None:
      found.append(text[start : tag.start()].strip())
      start = None
  return found if start is None else [*found, None]


def is_marked(text: str) -> bool:
  """Whether a text has tags, a box or an answer line, even an empty one."""
  text = without_thoughts(text)
  return any(mark.search(text) for mark in (_TAG, _BOX, _MARK))


def last_sentence(text: str) -> str:
  """Returns the last sentence of the last line, displayed math included.

  A sentence too long to be examined from its beginning is no answer.
  """
  text = without_thoughts(text)
  window = text[-_LONGEST_SENTENCE:].rstrip()
  for _ in range(2):
    window = _TAIL.sub("", window)
  window = _DISPLAY.sub(_on_one_line, window.rstrip())
  _, newline, line = window.rpartition("\n")
  if line.rstrip("*_\"'` ").endswith("?"):
    return ""
  sentences = [s for s in _SENTENCE_END.split(line) if re.search(r"\w", s)]
  is_whole = newline or len(sentences) > 1 or len(text) <= _LONGEST_SENTENCE
  return sentences[-1].strip() if sentences and is_whole else ""


def _on_one_line(display: re.Match) -> str:
  """A full stop before the closing sign ends no sentence before it."""
  inside = re.sub(r"[.,;]?(\s*(?:\$\$|\\\]))$", r"\1", display.group())
  return inside.replace("\n", " ")


def after_is(sentence: str) -> str:
  """Returns what follows the last "is" of a sentence, if there is one."""
  return _IS.split(sentence)[-1].strip()


def _boxed(text: str) -> list[str]:
  """Returns the boxes' contents; those of a list are joined."""
  answers: list[list[str]] = []
  known: set[str] = set()
  end = None  # end of the previous box, while it may be in the same list
  boxes = _boxes(text)
  if boxes and (
    surroundings.is_taken_back(text, *boxes[-1][:2])
    or surroundings.is_part_of_formula(text, *boxes[-1][:2])
  ):
    return []
  for start, stop, content in boxes:
    if end is None or not _is_list(text, end, start):
      answers.append([])
      known = set()
    if content not in known:
      known.add(content)
      answers[-1].append(content)
    end = stop
  return [", ".join(parts) for parts in answers]


def _boxes(text: str) -> list[tuple[int, int, str]]:
  """Returns start, end and content of the outermost non-empty boxes.

  If the last box is never closed there is no answer at all.
  """
  found: list[tuple[int, int, int, int]] = []  # start, end; of its content
  pending: list[tuple[int, int] | None] = []  # braces; of a box: start, content
  for token in _TOKEN.finditer(text):
    if token["open"]:
      pending.append((token.start(), token.end()))
    elif token["bare"]:
      found.append((token.start(), token.end(), *token.span("bare")))
    elif token["brace"] == "{":
      pending.append(None)
    elif token["brace"] and pending and (box := pending.pop()):
      while found and found[-1][0] > box[0]:
        found.pop()  # it stands in this one
      found.append((box[0], token.end(), box[1], token.start()))
  last = found[-1][0] if found else -1
  if any(box and box[0] > last for box in pending):
    return []
  boxes = []
  for start, end, first, stop in found:
    content = _BOX.sub("", text[first:stop]).strip()
    if text[first - 1] != "{":  # a bare number, at a sentence's end perhaps
      content = content.rstrip(".,")
    if not _BLANK.fullmatch(content):
      boxes.append((start, end, content))
  return boxes


def _is_list(text: str, end: int, start: int) -> bool:
  return start - end < 10 or (
    start - end < 70 and bool(_JOINT.search(text, end, start))
  )


def _marked(text: str) -> str | None:
  marks = list(_MARK.finditer(text))
  if not marks:
    return None
  before, behind = text[: marks[-1].end()], text[marks[-1].end() :].strip()
  line, _, rest = behind.partition("\n")
  end = _SENTENCE_END.search(line)
  if end:
    if end.group() == "?":
      return None
    line, rest = line[: end.start()], behind[end.end() :]
  if surroundings.takes_back(before, rest):
    return None
  return after_is(_REASON.split(line)[0]).strip(" \t*_`:")
