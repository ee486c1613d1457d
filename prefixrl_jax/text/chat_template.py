"""A model folder's chat template, rendered as transformers renders it."""

import datetime
import functools
import json
from collections.abc import Mapping
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from etils import epath

from prefixrl_jax.types import UserError

# No problem's text contains it, and no template has a reason to change it.
_MARKER = "\ufffcuser\ufffc"
_MAX_LENGTH = 1_000_000
# Templates that show the date are given this one, so that a run resumed
# tomorrow has the same prompts as today. Llama 3 falls back to it too.
_TODAY = datetime.datetime(2024, 7, 26)


class ChatTemplate:
  """Renders the prompt around one user's text.

  Attributes:
    source: in Jinja's language.
  """

  def __init__(
    self, source: str, variables: Mapping[str, Any], folder: epath.Path
  ):
    """Compiles the template.

    Args:
      source: in Jinja's language.
      variables: those that the template can use, such as bos_token.
      folder: where it comes from, for messages.

    Raises:
      UserError: the template is not Jinja.
    """
    self.source = source
    self._variables = dict(variables)
    self._folder = folder
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True,
      lstrip_blocks=True,
      extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _TODAY.strftime
    environment.filters["tojson"] = _to_json
    try:
      self._template = environment.from_string(source)
    except jinja2.TemplateError as e:
      raise self._error(f"is not Jinja: {e}") from None

  def around(self, text: str) -> tuple[str, str, str]:
    """Returns what precedes the user's text, the text, and what follows it.

    The text itself is not rendered, so that it cannot be mistaken for the
    template's own words. White space at its ends is, since many templates trim
    it; the text is returned as the template leaves it.

    Args:
      text: the user's turn, the only one.

    Raises:
      UserError: the template fails, or does not show the text exactly once.
    """
    before, after = self._bare
    core = text.strip()
    start = len(text) - len(text.lstrip()) if core else len(text)
    lead, trail = text[:start], text[start + len(core) :]
    if not lead and not trail:
      return before, core, after
    padded_before, padded_after = self._render(lead, trail)
    for padded, kept in (
      (padded_before, before + lead),
      (padded_after, trail + after),
    ):
      if padded not in (kept, before, after):
        raise self._error("changes white space around the user's text")
    left = lead if padded_before == before + lead else ""
    right = trail if padded_after == trail + after else ""
    return before, left + core + right, after

  @functools.cached_property
  def _bare(self) -> tuple[str, str]:
    return self._render("", "")

  def _render(self, lead: str, trail: str) -> tuple[str, str]:
    chunks: list[str] = []
    room = _MAX_LENGTH + len(lead) + len(trail)
    try:
      for chunk in self._template.generate(
        messages=[{"role": "user", "content": lead + _MARKER + trail}],
        add_generation_prompt=True,
        tools=None,
        documents=None,
        **self._variables,
      ):
        room -= len(chunk)
        if room < 0:
          raise OverflowError(f"it writes more than {_MAX_LENGTH} characters")
        chunks.append(chunk)
    except Exception as e:  # a template can fail like any Python code
      raise self._error(f"fails: {e or type(e).__name__}") from None
    before, found, after = "".join(chunks).partition(_MARKER)
    if not found or _MARKER in after:
      raise self._error("does not show the user's text exactly once")
    return before, after

  def _error(self, what: str) -> UserError:
    return UserError(
      f"{self._folder}: the chat template {what}. Put one for a single user's"
      " turn into chat_template.jinja there; it replaces the folder's others."
    )


def find_template(
  folder: epath.Path,
  settings: Mapping[str, Any],
  variables: Mapping[str, Any],
) -> ChatTemplate | None:
  """Returns a model folder's template, if it has any.

  It is in tokenizer_config.json, one or several with names, or in separate
  files. Those for tools and documents, under other names, are not used.

  Args:
    folder: of the model.
    settings: its tokenizer_config.json.
    variables: see `ChatTemplate`.

  Raises:
    UserError: the template is not Jinja, or none is the default.
  """
  stated = settings.get("chat_template") or {}
  if isinstance(stated, str):
    stated = {"default": stated}
  elif isinstance(stated, list):
    stated = {t["name"]: t["template"] for t in stated}
  found = dict(stated)
  further = folder / "additional_chat_templates"
  if further.exists():
    found |= {p.stem: p.read_text() for p in further.glob("*.jinja")}
  if (folder / "chat_template.jinja").exists():
    found["default"] = (folder / "chat_template.jinja").read_text()
  if not found:
    return None
  if "default" not in found:
    raise UserError(
      f"{folder} has chat templates named {', '.join(sorted(found))}, but none"
      " named default: put it into chat_template.jinja there."
    )
  return ChatTemplate(found["default"], variables, folder)


class _Generation(jinja2.ext.Extension):
  """{% generation %} marks the assistant's words, for training on them."""

  tags = frozenset({"generation"})  # type: ignore[assignment]

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
    return jinja2.nodes.Scope(body, lineno=line)


def _refuse(message: str) -> None:
  raise jinja2.TemplateError(message)


def _to_json(
  value: Any,
  ensure_ascii: bool = False,
  indent: int | None = None,
  separators: tuple[str, str] | None = None,
  sort_keys: bool = False,
) -> str:
  """Unlike Jinja's own, does not escape HTML characters."""
  return json.dumps(
    value,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )
