r"""What text beside an answer takes it back.

A sentence may deny its answer or only guess it, the next one may take it back,
and a box may be part of a longer formula: -\boxed{7} is not 7.
"""

import re

_NEAR = 200  # characters beside an answer that are checked
# Words that deny what a sentence says.
_DENIAL = re.compile(
  r"\b(?:not|no|nor|neither|never|none|nobody|nothing|cannot|can't|without|unlike|except"
  r"|rather than|instead of|other than|anything but|far from|hardly|scarcely"
  r"|barely|wrong|incorrect|false|untrue|impossible|unlikely|ruled out|excluded"
  r"|fails?|den(?:y|ies|ied)|reject(?:s|ed)?|refute[sd]?|contradict\w*|doubt\w*)\b"
  r"|n['’]t\b|[¬]",
  re.IGNORECASE,
)
# What denies a box or a pair of tags, or asks whether they are right.
_DENIED = re.compile(
  r"(?:\b(?:not|never|cannot|nor|neither|doubt(?:s|ed)?)|n['’]t)"
  r"(?:\s+(?:equal(?: to)?|that|it|is|be|the|a|an|my|our|final"
  r"|correct|right|answer))*"
  r"[\s:$*_({\[\\]*\Z"
)
# "It is not the case that the answer is"
_DENIED_CLAUSE = re.compile(
  r"(?:(?:\b(?:not|never|cannot)|n['’]t)\s+(?:the case|true|correct|right|think"
  r"|believe|say|claim|possible|certain|sure)|\b(?:false|wrong|untrue|incorrect"
  r"|impossible|doubt\w*|den(?:y|ies)))(?:\s+to say)?\s+(?:that\s+)?"
  r"(?:\w+\s+){0,4}(?:is|be|equals)\b[\s:$*_({\[\\]*\Z",
  re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
  r"[\s$*_)}\]\\]*(?:\?|(?:is|was|are|would be)\s+"
  r"(?:(?:clearly|certainly|surely|definitely|also)\s+)?"
  r"(?:not|never|wrong|incorrect|false|untrue|impossible)\b"
  r"|(?:isn|wasn)['’]t\b|can(?:not|['’]t) be\b"
  r"|\((?:wrong|incorrect|false|not)\b)"
)
# Guesses, or what others would say.
_GUESS = re.compile(
  r"\b(?:maybe|perhaps|possibly|probably|presumably|apparently|supposedly"
  r"|allegedly|seem(?:s|ed|ingly)?|appear(?:s|ed)? to|looks? like|looked like"
  r"|guess(?:es|ed|ing)?|suppos(?:e|ing)|imagine|pretend|assum(?:e|es|ed)"
  r"|tempt\w*|careless\w*|naive(?:ly)?|mistak\w*|at first (?:glance|sight|look)"
  r"|unsure|if\b[^,]{0,60}\bwere)\b"
  r"|\b(?:may|might|could)(?: well| also| just)? be[\s:$*({\[\\]*\Z",
  re.IGNORECASE,
)
_OTHERS = re.compile(
  r"\b(?:you|one|some(?:one|body)?|any(?:one|body)|many|most|people|students?"
  r"|persons?|they|he|she|who|computers?|fools?)\s+(?:\w+\s+){0,3}?"
  r"(?:would|might|may|could|will)\s+(?:\w+\s+)?"
  r"(?:think|guess|say|believe|conclude|claim|assume|suppose)\b",
  re.IGNORECASE,
)
_BUT = re.compile(r"\b(?:but|however|yet)\b", re.IGNORECASE)
# The next sentence.
RETRACTION = re.compile(
  r"\W*(?:(?:no|nope|not|wrong|incorrect)\s*(?:[,.!;:?]|$)|(?:no,? )?wait\b"
  r"|actually\b|just kidding\b"
  r"|that(?:['’]s| is| was) (?:not|wrong|incorrect))",
  re.IGNORECASE,
)
_NEXT_SENTENCE = re.compile(r"(?<=[.!?])[\s$*_)}\]\\]+(?=\S)|\n\s*")
# The rest of a formula before and after a box. Signs with spaces around them
# belong to it if it is set as a formula; in prose they are dashes.
_GLUED_BEFORE = re.compile(
  r"(?:\d|(?:\A|[^\w*)–−-]|\b[A-Za-z]|[\d)}])[-−–]|\b[a-zA-Z]\(|[_^]\{)[$({\[]*\Z"
  r"|\\(?:cdot|times|div|pm|mp|sqrt(?:\[[^\[\]]*\])?|neq?|not|neg|lnot|bar|overline"
  r"|cancel|sout|[dtc]?frac(?:\s*\{[^{}]*\})?|ln|log|sin|cos|tan)\s*[$({\[]*\Z"
  r"|(?:≠|[\w)}] [<>])\s*[$({\[]*\Z|\b(?:minus|negative)\s+[$({\[]*\Z"
  r"|(?<![\\A-Za-z])(?i:un|in|im|non|dis|not)-?\Z"
)
_SIGN_BEFORE = re.compile(r"(?<![-+*/])[-−+*/^·×÷±]\s*[({]*\Z")
_GLUED_BEHIND = re.compile(
  r"[$)}]*(?:\d|-?ish\b|[.,]\d|\^(?!\s*\{?\s*\\circ)|[a-zA-Z](?<![mgshLNJWVCKF])(?![a-zA-Z])"
  r"|!(?=\s*(?:\$|\\[\])])))"
  r"|[)}]*[-+*/](?:[\d\\({]|[a-zA-Z](?![a-zA-Z]))"
  r"|[)}]*\s*\\(?:cdot|times|div|pm|mp|sqrt|[dtc]?frac|pi|sin|cos|tan|ln|log)"
  r"(?![a-zA-Z])"
)
_SIGN_BEHIND = re.compile(r"[)}]*\s*(?:[-−+/·×÷]|\*(?!\*))\s*[\d\\({a-zA-Z]")
_DISPLAY = re.compile(r"\\([\[(])|\\[\])]")


def is_denied(sentence: str, answer: str) -> bool:
  """Whether a sentence denies its answer, or only guesses it.

  If another number stands between, that is what is denied: "not 10 but 12".
  """
  left, _, right = sentence.rpartition(answer)
  denials = list(_DENIAL.finditer(left))
  if denials and not re.search(r"\d", left[denials[-1].end() :]):
    return True
  return bool(_DENIAL.search(right)) or is_guess(left, right)


def is_guess(left: str, right: str) -> bool:
  """Whether a sentence presents its answer as a guess or another's view."""
  left = _BUT.split(left)[-1]
  return any(
    pattern.search(part)
    for pattern in (_GUESS, _OTHERS)
    for part in (left, right)
  )


def is_taken_back(text: str, start: int, end: int) -> bool:
  """Whether the text beside an answer takes it back.

  Args:
    text: a completion's.
    start, end: bounds of the answer, with its box or tags.
  """
  before = text[max(0, start - _NEAR) : start]
  behind = text[end : end + _NEAR]
  next_one = _NEXT_SENTENCE.split(behind, maxsplit=1)
  sentence = _NEXT_SENTENCE.split(before)[-1]
  return bool(
    _DENIED.search(before)
    or denies_clause(before)
    or _DENIED_BEHIND.match(behind)
    or _OTHERS.search(_BUT.split(sentence)[-1])
    or _OTHERS.search(next_one[0])
    or any(RETRACTION.match(part) for part in (behind, *next_one[1:]))
  )


def takes_back(before: str, behind: str) -> bool:
  """Whether an answer line is denied before it, or in the next sentence.

  Args:
    before, behind: the text up to the answer, and after its sentence.
  """
  sentence = _NEXT_SENTENCE.split(before[-_NEAR:])[-1]
  return bool(
    denies_clause(before)
    or _OTHERS.search(_BUT.split(sentence)[-1])
    or RETRACTION.match(behind[:_NEAR])
  )


def denies_clause(before: str) -> bool:
  """Whether a text ends with what denies the clause after it."""
  return bool(_DENIED_CLAUSE.search(before[-_NEAR:]))


def is_part_of_formula(text: str, start: int, end: int) -> bool:
  """Whether a box is part of a longer formula.

  Args:
    text, start, end: see `is_taken_back`.
  """
  before, behind = text[max(0, start - _NEAR) : start], text[end : end + _NEAR]
  if _GLUED_BEFORE.search(before) or _GLUED_BEHIND.match(behind):
    return True
  line = before.rpartition("\n")[2]
  displays = list(_DISPLAY.finditer(before))
  is_set = line.count("$") % 2 == 1 or bool(displays and displays[-1][1])
  return is_set and bool(
    _SIGN_BEFORE.search(before) or _SIGN_BEHIND.match(behind)
  )
