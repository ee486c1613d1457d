"""Math problems: a question and a final answer."""

import re

from prefixrl_jax.problems.reading import Getter, Reading, Skip

# DAPO's rows come with these words around the problem.
_WRAPPED = re.compile(
  r"\ASolve the following math problem step by step\.[^\n]*\n\n(.*?)"
  r"(?:\n\nRemember to put your answer on its own line[^\n]*)?\Z",
  re.DOTALL,
)
# A few of MATH's boxes have no braces or use another command.
_BARE = re.compile(r"\\(?:boxed|fbox)\s+([^\s${}]+)")


def read(get: Getter) -> Reading:
  """Takes the answer from its field, or else from the solution's box.

  Raises:
    Skip: there is no answer.
  """
  problem = get.text("problem")
  if wrapped := _WRAPPED.match(problem):
    problem = wrapped[1].strip()
  if get.maybe("answer") is None:
    answer = _boxed(str(get.maybe("solution") or ""))
  else:
    # GSM8K's answers are solutions that end with #### and the number.
    answer = get.scalar("answer").rpartition("####")[2].strip()
  if not answer:
    raise Skip("no answer")
  return Reading(problem, answer, {})


def _boxed(solution: str) -> str:
  """Returns what is in a solution's last box; empty if there is none."""
  text = _BARE.sub(r"\\boxed{\1}", solution).replace("\\fbox{", "\\boxed{")
  content = text.rpartition("\\boxed{")[2] if "\\boxed{" in text else ""
  depth = 1
  for end, character in enumerate(content):
    depth += {"{": 1, "}": -1}.get(character, 0)
    if not depth:
      return content[:end].strip()
  return ""
