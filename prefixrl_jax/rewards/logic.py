r"""The verifier of labels: True, False, Unknown; or the letters of a choice.

The answer is where `answers.given` finds it, else in the last sentence. It is
one label as a separate word, surrounded only by words that do not change it
("the conclusion is True", \text{True}): anything else might reverse it, be it a
sign (¬True), a command (\lnot) or a word (hardly True). If the answer is
marked, the sentence around it must not deny it either.
"""

import re
from collections.abc import Collection, Sequence

from prefixrl_jax.rewards import answers, surroundings
from prefixrl_jax.text.thoughts import without_thoughts
from prefixrl_jax.types import Problem, UserError, Verdict

_SAME = {"uncertain": "unknown"}  # FOLIO's word and the usual one
_LONGEST = 500  # characters; a longer text is not a label
_LONGEST_SENTENCE = 2000  # longer ones are not checked for denials
# The only ways to set an answer: bold, in quotes, in brackets.
_COMMAND = re.compile(
  r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:bf|it|rm|sf|tt|normal)|mbox"
  r"|boxed|fbox|operatorname|bf|rm|it|left|right|q?quad"
  r"|[lL]arge|LARGE|[hH]uge|checkmark)(?![a-zA-Z])"
  r"|\\[\[\](), ;:!$]"
)
# Of these, those that take no space, and those that do.
_GLUE = re.compile(
  r"\\(?:text[a-z]*|math[a-z]+|mbox|boxed|fbox|operatorname)\s*(?=\{)|[*_`{}$]"
)
_SPACING = re.compile(r"\\(?:q?quad|bf|rm|it)(?![a-zA-Z])\s*|\\[\[\](), ;:!]")
_BRACKET = re.compile(r"[✓✔✅☑$*_`{}()\[\]\"“”«»]|(?<=[^\W_])['’](?=[^\W_])")
_QUOTES = re.compile(r"(?<![^\W_])['‘]([^'‘’]*)['’](?![^\W_])")
_QUOTED = re.compile(r"\"[^\"\n]*\s[^\"\n]*\"|“[^”\n]*\s[^”\n]*”")
_WORD = r"[^\W_]+"
# What counts in an answer: words, and signs except punctuation.
_PART = re.compile(rf"{_WORD}|[^\s.,;:/!-]|[-!](?=\w)")
_NEUTRAL = frozenset(
  re.findall(
    _WORD,
    "a above all am an answer based be certain certainly claim clearly"
    " conclude conclusion correct definitely final finally follows for from"
    " given hence hypothesis i in indeed is it its label logically must my"
    " necessarily of on option our premises proposition s so statement sure"
    " that the then therefore this thus to truth value we",
  )
)
_DENIAL = re.compile(
  r"\b(?:not|no|nor|neither|never|none|nobody|nothing|cannot|without|unlike"
  r"|anything but|far from|other than|instead of|rather than|opposite|contrary"
  r"|hardly|scarcely|barely|rarely|seldom|wrong(?:ly)?|incorrect(?:ly)?|untrue"
  r"|mistaken(?:ly)?|impossible|unlikely|doubt\w*|den(?:y|ies|ied)|reject\w*"
  r"|refut\w*|contradict\w*|fails?|kidding|joking|false(?=\s+that\b))\b"
  r"|n['’]t\b|\\(?:l?not|neg|sim|bar|overline|cancel|sout)\b|[¬~∼≠]",
  re.IGNORECASE,
)
_HEDGE = re.compile(
  r"\b(?:or|if|unless|but|however|maybe|perhaps|possibly|probably|might|may"
  r"|could|would)\b|[?]",
  re.IGNORECASE,
)
# "Since no cat barks, it is …", "No cat barks, so it is …": the denial is in
# the reason.
_REASON = re.compile(
  r"\b(?:since|because|as|given that|although|though|while)\b[^,;]*[,;]"
  r"|\A.*[,;:.—–]\s*(?:so|thus|hence|therefore|then|which means)\b(?!\s*,)",
  re.IGNORECASE | re.DOTALL,
)
_REASON_BEHIND = re.compile(r"\b(?:since|because|as|given)\b", re.IGNORECASE)
# A line ends a sentence, unless displayed math on the next completes it.
_SENTENCE_END = re.compile(r"[.!?]\s|\n(?!\s*(?:\\\[|\$|\\boxed|\\fbox))")
_ASKED = re.compile(r"[^\w\s.]*\?")


class LogicVerifier:
  """Compares the one label that a completion ends with to the gold one.

  A problem's metadata has `labels`, the possible answers (list of str). Words
  match in upper and lower case, single letters only as written.
  """

  def judge(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> list[Verdict]:
    """See `Verifier`."""
    return [
      Verdict(float(_is_right(problem, text)))
      for problem, text in zip(problems, texts)
    ]

  def close(self) -> None:
    """Nothing to free."""


def extract_label(text: str, labels: Sequence[str]) -> str | None:
  """Returns the label that a completion answers with, None if there is none.

  Args:
    text: completion.
    labels: the possible answers.
  """
  found = answers.given(text)
  if not answers.is_marked(text):
    sentence = _QUOTED.sub("", answers.last_sentence(text))
    found = [_REASON.sub(" ", sentence)]
  named = {_label_in(answer, labels) for answer in found}
  label = named.pop() if len(named) == 1 else None
  if label is None or _is_denied(without_thoughts(text), label):
    return None
  return label


def _is_right(problem: Problem, text: str) -> bool:
  labels = problem.metadata["labels"]
  gold = _label_in(problem.answer, labels)
  if gold is None:
    raise UserError(
      f"Problem {problem.id} has the answer {problem.answer!r}, which is none"
      f" of its labels: {', '.join(labels)}. Fix its answer or its labels."
    )
  return extract_label(text, labels) == gold


def _label_in(answer: str, labels: Sequence[str]) -> str | None:
  """Returns the label that an answer is; see the module's docstring."""
  if len(answer) > _LONGEST:
    return None
  spoken = {_key(label): label for label in labels}
  spoken |= {
    word: spoken[same] for word, same in _SAME.items() if same in spoken
  }
  if not _stands_alone(answer, spoken):
    return None
  bare = _COMMAND.sub(" ", answer)
  plain = _BRACKET.sub(" ", _QUOTES.sub(r"\1", bare))
  said = [w for w in re.finditer(_WORD, plain) if _key(w[0]) in spoken]
  named = {spoken[_key(word[0])] for word in said}
  if len(named) != 1:
    return None
  (label,) = named
  # After a letter comes its option's text, after a comma or dash a remark.
  around, remark = plain, ""
  behind = plain[said[-1].end() :]
  if re.match(r"\s*[,;:.—–]|\s+(?:-\s|because\b|since\b)", behind) or (
    len(label) == 1 and re.match(rf"\W*{re.escape(label)}\s*[).:\]]", bare)
  ):
    around, remark = plain[: said[-1].end()], behind
  if _DENIAL.search(remark) or _HEDGE.search(remark):
    return None
  neutral = _NEUTRAL | ({"or", "and"} if len(said) > 1 else set())
  others = [p for p in _PART.findall(around) if _key(p) not in spoken]
  return label if all(part.lower() in neutral for part in others) else None


def _stands_alone(answer: str, spoken: Collection[str]) -> bool:
  r"""Whether a label is a word when typeset: in\text{}True is not True."""
  shown = _GLUE.sub("", _SPACING.sub(" ", answer))
  return any(_key(word) in spoken for word in re.findall(_WORD, shown))


def _is_denied(text: str, label: str) -> bool:
  """Whether the sentence with a text's last label denies it."""
  names = [label, *(w for w, same in _SAME.items() if same == label.lower())]
  either = "|".join(map(re.escape, names))
  flags = re.IGNORECASE if len(label) > 1 else re.NOFLAG
  end = 0
  for said in re.finditer(rf"(?<![^\W_])(?:{either})(?![^\W_])", text, flags):
    start, end = said.span()
  if not end:
    return True
  before = _SENTENCE_END.split(text[:start])[-1]
  behind = text[end : end + _LONGEST_SENTENCE]
  stop = _SENTENCE_END.search(behind)
  rest = behind[stop.end() :] if stop else ""
  behind = behind[: stop.start() + 1] if stop else behind
  if len(before) > _LONGEST_SENTENCE or _ASKED.match(behind):
    return True
  before = _COMMAND.sub(" ", _QUOTED.sub("", before))
  return bool(
    _DENIAL.search(_REASON.sub(" ", before))
    or _DENIAL.search(_REASON_BEHIND.split(behind)[0])
    or surroundings.RETRACTION.match(rest)
  )


def _key(word: str) -> str:
  return word if len(word) == 1 else word.lower()
