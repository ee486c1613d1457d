"""Tasks with their own alphabet, for small models that are pretrained here.

Each is a module with SYMBOLS, PAD and STOP, or with the FOLDER, in data/, of a
tokenizer; the SIZES that problems have, in UNITS, `make_problems`, and `Phase`
and `make_document` for pretraining; also `write_traces` if traces can be
written by rule, `hinted` (prompt, hint) -> prompt if its alphabet can say where
a hint in a prompt begins and ends, and MARKER (label, text -> 0 to 1) if a
completion shows what strategy it follows.
"""

from typing import Any

from prefixrl_jax.embedded import (
  checksum,
  countdown_steps,
  skills,
  stories,
)

TASKS: dict[str, Any] = {
  "checksum": checksum,
  "countdown_steps": countdown_steps,
  "skills": skills,
  "stories": stories,
}
