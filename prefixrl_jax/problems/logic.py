"""Deduction: premises, a conclusion, and whether it follows."""

import re

from prefixrl_jax.problems.reading import Getter, Reading, Skip

THREE = ("True", "False", "Unknown")
TWO = ("True", "False")
# FOLIO's own files say Uncertain in one version and Unknown in the other.
_NAMES = {"true": "True", "false": "False", "unknown": "Unknown"}
_NAMES |= {"uncertain": "Unknown", "a": "True", "b": "False"}
_QUERY = re.compile(
  r"\A(?:true or false|is the following statement true or false)\s*[:?]\s*",
  re.IGNORECASE,
)


def read_folio(get: Getter) -> Reading:
  """Premises (a list, or a text with one a line) and a conclusion."""
  premises = get("premises")
  if isinstance(premises, str):
    premises = premises.splitlines()
  lines = [p.strip() for p in premises if p.strip()]
  return _reading("\n".join(lines), get.text("conclusion"), get, THREE)


def read_prontoqa(get: Getter) -> Reading:
  """A text of facts and rules, and a statement that is true or false."""
  statement = _QUERY.sub("", get.text("conclusion"))
  return _reading(get.text("premises"), statement, get, TWO)


def _reading(premises, conclusion, get, labels) -> Reading:
  said = get.scalar("answer")
  answer = _NAMES.get(said.casefold(), "")
  if answer not in labels:
    raise Skip(f"answer is none of {', '.join(labels)}")
  text = f"Premises:\n{premises}\n\nConclusion: {conclusion}"
  choices = f"{', '.join(labels[:-1])} or {labels[-1]}"
  follows = " Unknown means that neither follows." if labels is THREE else ""
  return Reading(
    f"{text}\n\nGiven the premises and nothing else, is the conclusion"
    f" {choices}?{follows} End with a line"
    f' "Answer:" and one of these words.',
    answer,
    {"labels": list(labels)},
    text,
  )
