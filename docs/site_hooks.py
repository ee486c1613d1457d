"""What mkdocs fills in as it builds the site, so that nothing is there twice.

A page has a comment where it goes: `<!-- fields -->` for the configuration
reference, from the tables that check a config; `<!-- flags -->` and
`<!-- arguments -->` for what else a command line takes; and
`<!-- README: HEADING -->` for a section of the README.
"""

import collections
import html
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from prefixrl_jax import command_line, main
from prefixrl_jax.embedded import tasks
from prefixrl_jax.settings import fields, validation
from prefixrl_jax.settings.schema import ANY, EACH, Field

_README = pathlib.Path(__file__).parents[1] / "README.md"
_MARK = re.compile(r"^<!-- (\w+)(?:: (.+))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
  """Fills in a page's comments; called by mkdocs.

  Args:
    markdown: the page, as it is in docs/.
  """
  makers: dict[str, Callable[[Any], str]] = {
    "fields": _fields,
    "flags": _flags,
    "arguments": _arguments,
    "README": _section,
  }
  markdown = _MARK.sub(lambda match: makers[match[1]](match[2]), markdown)
  # The site does not have them: they are opened in Jupyter.
  return re.sub(r"\[([^]]+)\]\(\.\./notebooks/[^)]*\)", r"\1", markdown)


def _section(heading: str) -> str:
  """Returns what the README has below a heading, its links as of docs/."""
  text = re.split(r"^## ", _README.read_text(), flags=re.MULTILINE)
  [body] = [part for part in text if part.startswith(f"{heading}\n")]
  # Other files of the repository, as its license, are not on the site.
  link = r"\[([^]]+)\]\((?!docs/|https?:|#)[^)]*\)"
  body = re.sub(link, r"\1", body.partition("\n")[2])
  return body.replace("](docs/", "](").strip()


def _flags(_: None) -> str:
  own = flags.FLAGS.get_key_flags_for_module(main.__name__)
  rows = [(f"`--{flag.name}`", _text(flag.help)) for flag in own]
  return _table(("flag", "meaning"), rows)


def _arguments(_: None) -> str:
  defaults: dict[str, dict[str, list[str]]] = collections.defaultdict(dict)
  for name in command_line.NAMES:
    command_line.read(command_line.OWN / f"{name}.py", None)
    for key, value in validation.arguments.items():
      defaults[key].setdefault(_code(value), []).append(name)
  rows = [
    (
      f"`{key}`",
      _text(validation.describe(key)),
      ", ".join(name for names in configs.values() for name in names),
      _in_words(configs),
    )
    for key, configs in defaults.items()
  ]
  return _table(("argument", "meaning", "of", "default"), rows)


def _fields(_: None) -> str:
  """Returns a section of the page for each section of the config."""
  defaults = _defaults()
  sections: dict[str, list] = collections.defaultdict(list)
  for path, (field, where) in _known().items():
    section = path.partition(".")[0] if "." in path else ""
    meaning = _text(field.help) + (f" ({where})" if where else "")
    star = " \\*" if field.execution else ""
    sections[section].append(
      (f"`{path}`{star}", meaning, _text(field.rule.words), defaults[path])
    )
  return "\n\n".join(
    f"### {f'config.{name}' if name else 'config'}\n\n"
    + _table(("field", "meaning", "values", "default"), rows)
    for name, rows in sections.items()
  )


def _known() -> dict[str, tuple[Field, str]]:
  """Returns every field, and which tasks have it; empty: all of them."""
  trees = {name: dict(fields.leaves(fields.tree_of(name))) for name in _kinds()}
  known: dict[str, tuple[Field, str]] = {}
  for tree in trees.values():
    for path, field in tree.items():
      having = [name for name in trees if path in trees[name]]
      where = ", ".join(name or "tasks of text" for name in having)
      if having == [*tasks.TASKS]:
        where = "embedded tasks"
      known[path] = (field, where if len(having) < len(trees) else "")
  return known


def _kinds() -> tuple[str, ...]:
  return ("", *tasks.TASKS)


def _defaults() -> dict[str, str]:
  """Returns what the package's configs have for each field, in words.

  Of a field that many rows have (arms, sets, phases) it is what most of them
  have.
  """
  there: dict[str, dict[str, list[str]]] = collections.defaultdict(dict)
  for name in command_line.NAMES:
    config = command_line.read(command_line.OWN / f"{name}.py", None)
    rows: dict[str, list[str]] = collections.defaultdict(list)
    for path, value in command_line.leaves(config):
      rows[_general(path)].append(_code(value))
    for path, values in rows.items():
      ((most, number),) = collections.Counter(values).most_common(1)
      words = most if number == len(values) else f"{most}, by row"
      there[path].setdefault(words, []).append(name)
  return {path: _in_words(values) for path, values in there.items()}


def _in_words(configs: dict[str, list[str]]) -> str:
  """Returns the value of most configs, then the others with their configs."""
  most, *others = sorted(configs, key=lambda value: -len(configs[value]))
  return "; ".join(
    [most, *(f"{value} ({', '.join(configs[value])})" for value in others)]
  )


def _general(path: str) -> str:
  """Returns a field's path as it is in the tables: arms.NAME.loss.name."""
  path = re.sub(r"^(arms|evals\.sets)\.[^.]+", rf"\1.{ANY}", path)
  return re.sub(r"^(pretrain\.phases)\.\d+", rf"\1.{EACH}", path)


def _code(value: Any) -> str:
  return f"`{value!r}`" if isinstance(value, str) else f"`{value}`"


def _text(words: str) -> str:
  """Returns plain text as Markdown that shows it."""
  return re.sub(r"([*_\[\]])", r"\\\1", html.escape(words, quote=False))


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
  return "\n".join(_lines([head, ("---",) * len(head), *rows]))


def _lines(rows: list[tuple]) -> Iterator[str]:
  for row in rows:
    cells = (" ".join(str(cell).split()).replace("|", "\\|") for cell in row)
    yield f"| {' | '.join(cells)} |"
