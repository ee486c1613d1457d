"""Compares a config with the table of its fields, one field at a time.

A value that its rule does not allow is refused, and so is a missing or unknown
field.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from prefixrl_jax.embedded import tasks
from prefixrl_jax.settings import fields, schema
from prefixrl_jax.types import UserError


def check(config: Any) -> None:
  """Refuses values that break their rule, and missing and unknown fields.

  Args:
    config: the whole config, a ConfigDict or a dict.

  Raises:
    UserError: names the first such field and its possible values.
  """
  problems = config.get("problems")
  if not hasattr(problems, "items"):
    raise UserError("config.problems is missing or not a section.")
  task = problems.get("task")
  is_own = isinstance(task, str) and task in tasks.TASKS
  if ("size" if is_own else "file") not in problems:
    raise UserError(
      f"config.problems.task = {_shown(task)} needs a config of another kind:"
      f" that of configs/demo.py for {', '.join(tasks.TASKS)}; for all"
      " others that of configs/math.py:task=NAME."
    )
  _check(config, fields.tree_of(task if is_own else ""), "config")


def _check(value: Any, node: Any, path: str) -> None:
  if isinstance(node, fields.Field):
    if not node.rule.allows(value):
      raise UserError(
        f"{path} = {_shown(value)} is not {node.rule.words} ({node.help})."
      )
    return
  if isinstance(node, fields.Choice) and hasattr(value, "items"):
    name = {k: v for k, v in value.items() if k == "name"}
    node = node.tree(name.get("name"))
    # Before the fields that depend on it.
    _check(name, {"name": node["name"]}, path)
  elif isinstance(node, fields.Choice):
    node = node.whole()
  known = None
  if isinstance(node, schema.Some) and hasattr(value, "items"):
    known, node = node.fields, node.named(value)
  elif isinstance(node, schema.Some):
    node = node.fields
  if fields.EACH in node and isinstance(value, (list, tuple)) and value:
    value = {str(i): each for i, each in enumerate(value)}
  elif fields.EACH in node or not hasattr(value, "items"):
    what = "a list of sections" if fields.EACH in node else "a section"
    raise UserError(f"{path} = {_shown(value)} is not {what}.")
  if fields.ANY in node or fields.EACH in node:
    node = {name: fields.child_of(node, name) for name in value}
  for name in value:
    if name not in node:
      now = fields.new_name(f"{path}.{name}".removeprefix("config."))
      near = _nearest(name, known or node)
      hint = f"; it is config.{now} now." if now else near
      raise UserError(f"there is no field {path}.{name}{hint}")
  for name, child in node.items():
    if name not in value:
      what = f" ({child.help})" if isinstance(child, fields.Field) else ""
      raise UserError(
        f"{path}.{name}{what} is missing; the files in configs/ have all"
        " fields."
      )
    _check(value[name], child, f"{path}.{name}")


def _nearest(name: Any, known: Mapping) -> str:
  near = difflib.get_close_matches(str(name), known, n=1)
  if near:
    return f"; did you mean {near[0]}?"
  return f"; known: {', '.join(known)}." if known else "."


def _shown(value: Any) -> str:
  text = " ".join(repr(value).split())  # a section has several lines
  return text if len(text) <= 80 else f"{text[:77]}..."
