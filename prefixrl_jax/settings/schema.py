"""What the tables of fields are made of: fields, and sections with a choice."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from prefixrl_jax.settings.rules import RATE, SHARE, Rule, one_of, real


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of the config.

  Attributes:
    rule: what its value may be.
    help: its purpose, in a line.
    execution: whether it changes only how results are computed, in what order,
      with how much memory, or where they are shown; and at most their rounding.
  """

  rule: Rule
  help: str
  execution: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
  """A section whose field `name` determines its other fields.

  Attributes:
    options: {name: its fields}.
    help: what is chosen, in a few words.
  """

  options: Mapping[str, Mapping[str, Field]]
  help: str

  def tree(self, name: Any) -> "Section":
    """Returns the section's fields where `name` is chosen."""
    chosen = self.options.get(name, {}) if isinstance(name, str) else {}
    return {"name": Field(one_of(*self.options), self.help), **chosen}

  def whole(self) -> "Section":
    """Returns the fields of all choices."""
    return {k: v for name in self.options for k, v in self.tree(name).items()}


@dataclasses.dataclass(frozen=True)
class Some:
  """A section that has some of another section's fields.

  Attributes:
    fields: the other section's, of which it may have any.
  """

  fields: Mapping[str, Any]

  def named(self, names: Collection[str]) -> "Section":
    """Returns those of the fields that it has."""
    wrap = lambda node: Some(node) if isinstance(node, Mapping) else node
    return {k: wrap(v) for k, v in self.fields.items() if k in names}


# Of sections (Section, Choice, Some) and fields (Field).
Section = Mapping[str, Any]
ANY, EACH = "NAME", "N"  # in a path: any name, any index of a list


def how(rule: Rule, words: str) -> Field:
  """Returns a field that changes only how results are computed."""
  return Field(rule, words, execution=True)


OPTIMIZER = {
  "b1": Field(
    real(0, 1, open_high=True), "AdamW: decay rate of the first moment"
  ),
  "b2": Field(
    real(0, 1, open_high=True), "AdamW: decay rate of the second moment"
  ),
  "eps": Field(RATE, "AdamW: added to the denominator"),
  "weight_decay": Field(SHARE, "AdamW: multiplied by the learning rate"),
  "clip_norm": Field(
    real(0, 1e30), "maximum global norm of the gradient; 0: none"
  ),
}
