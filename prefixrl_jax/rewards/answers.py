r"""Where a completion's final answer stands: in a box or on an answer line.

Thoughts are not looked at (see `thoughts`). Where there is a box
(\boxed or \fbox), boxes alone count; else the last answer line does: what
follows "answer is", "Answer:", "A:" or "####", up to the end of the sentence,
or the last "is" in that. Where there is neither, `last_sentence` is left.
All of it takes time in proportion to the text's length.
"""

import re

from prefixrl_jax.thoughts import without_thoughts

_TOKEN = re.compile(
  r"\\{1,2}(?:boxed|fbox)\s*(?:(?P<open>\{)|(?P<bare>[-+]?\.?\d[\d.,/]*))"
  r"|\\.|(?P<brace>[{}])",
  re.DOTALL,
)
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])")
# A box to be filled in, as questions have them.
_BLANK = re.compile(
  r"(?:\\[hv]?phantom\s*\{[^{}]*\}|\\q?quad|\\l?dots|\\[,;: ]|[\s_?.…])*"
)
_MARK = re.compile(
  r"####|\banswer\b[ \t*_]*(?::|\bis\b)[ \t*_:]*|^[ \t*_]*A:",
  re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"[.!?](?=[\s*_]|$)")  # and no decimal point
_IS = re.compile(r"\b(?:is|it's)\b:?")
# What a chat template or a well-known prompt puts after an answer.
_TAIL = re.compile(
  r"\s*(?:<\|[a-z_]+\|>.*|I hope it is correct\W*)\Z", re.DOTALL
)
_DISPLAY = re.compile(r"\$\$[^$]*\$\$|\\\[.*?\\\]", re.DOTALL)
_LONGEST_SENTENCE = 2000
_JOINT = re.compile(r"\b(?:and|or)\b|[,;&]")


def given(text: str) -> list[str]:
  """Returns the different final answers a completion gives, first to last.

  None: it has no answer. Several: it has not made up its mind. Boxes of a
  list, close together and joined by a comma, "and" or "or", are one answer.
  """
  text = without_thoughts(text)
  if not _BOX.search(text):
    return [answer] if (answer := _marked(text)) else []
  answers: list[str] = []
  end = None  # of the box before, while it may be of the same list
  for start, stop, content in _boxes(text):
    if end is not None and _is_list(text[end:start]):
      if content not in answers[-1].split(", "):
        answers[-1] += f", {content}"
    else:
      answers.append(content)
    end = stop
  return list(dict.fromkeys(answers))


def is_marked(text: str) -> bool:
  """Says whether a text has a box or an answer line, be it empty."""
  text = without_thoughts(text)
  return bool(_BOX.search(text) or _MARK.search(text))


def last_sentence(text: str) -> str:
  """Returns the last sentence of the last line; displayed math is in a line."""
  text = without_thoughts(text)[-_LONGEST_SENTENCE:]
  for _ in range(2):
    text = _TAIL.sub("", text)
  text = _DISPLAY.sub(lambda m: m.group().replace("\n", " "), text.rstrip())
  line = text.rpartition("\n")[2].rstrip(".!? ")
  return _SENTENCE_END.split(line)[-1].strip()


def after_is(sentence: str) -> str:
  """Returns what follows the last "is" of a sentence, if there is one."""
  return _IS.split(sentence)[-1].strip()


def _boxes(text: str) -> list[tuple[int, int, str]]:
  """Returns start, end and content of the outermost boxes that say something.

  If the last box is never closed there is no answer at all.
  """
  found: list[tuple[int, int, str]] = []
  pending: list[tuple[int, int] | None] = []  # braces; of a box: start, content
  for token in _TOKEN.finditer(text):
    if token["open"]:
      pending.append((token.start(), token.end()))
    elif token["bare"]:
      found.append((token.start(), token.end(), token["bare"].rstrip(".,")))
    elif token["brace"] == "{":
      pending.append(None)
    elif token["brace"] and pending and (box := pending.pop()):
      start, content = box
      while found and found[-1][0] > start:
        found.pop()
      inside = _BOX.sub("", text[content : token.start()])
      found.append((start, token.end(), inside.strip()))
  last = found[-1][0] if found else -1
  if any(box and box[0] > last for box in pending):
    return []
  return [box for box in found if not _BLANK.fullmatch(box[2])]


def _is_list(between: str) -> bool:
  return len(between) < 10 or (
    len(between) < 70 and bool(_JOINT.search(between))
  )


def _marked(text: str) -> str | None:
  marks = list(_MARK.finditer(text))
  if not marks:
    return None
  line = text[marks[-1].end() :].strip().partition("\n")[0]
  return after_is(_SENTENCE_END.split(line)[0]).strip(" \t*_`:")
