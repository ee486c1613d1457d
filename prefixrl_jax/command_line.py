"""The command line: the config's file and argument, and --help."""

import contextlib
import pathlib
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from prefixrl_jax import user_code
from prefixrl_jax.settings import fields
from prefixrl_jax.settings import validation as config_lib
from prefixrl_jax.types import UserError, one_line

OWN = pathlib.Path(__file__).parent / "configs"
NAMES = (
  *("demo", "countdown", "skills", "stories"),
  *("math", "code", "logic", "gym", "words"),
)
_HELP = ("--help", "-help", "-h", "-?", "--helpshort")


def wants_help(argv: Sequence[str]) -> bool:
  """Whether the command line asks for `help_text`."""
  return any(arg in _HELP for arg in argv[1:])


def located(argv: Sequence[str]) -> tuple[list[str], str]:
  """Finds the config's file; notes what stands in for a missing one.

  Args:
    argv: the command line.

  Returns: The command line with --config=PATH[:ARG] of a file that exists, and
    a note of which file was taken instead; empty if the file itself exists.

  Raises:
    UserError: the file has no config, or cannot be read.
  """
  argv, places = list(argv), []
  for i, arg in enumerate(argv):
    match = re.fullmatch(r"--?config(?:=(.*))?", arg, re.DOTALL)
    if match:
      inside = match[1] is not None
      places.append((i, i + (not inside)))
  if not places:
    return argv, ""
  if len(places) > 1:
    raise UserError("--config is given twice.")
  ((i, last),) = places
  if last == len(argv):
    raise UserError("--config has no file, e.g. --config=configs/demo.py.")
  value = argv[last] if last > i else argv[i].partition("=")[2]
  name, colon, arg = value.partition(":")
  file, note = _find(name)
  read(file, arg if colon else None)
  argv[i : last + 1] = [f"--config={file}{colon}{arg}"]
  return argv, note


def _find(name: str) -> tuple[pathlib.Path, str]:
  """Returns a config's file, and a note if it is not the one asked for."""
  file = pathlib.Path(name)
  if not name:
    raise UserError("--config has no file, e.g. --config=configs/demo.py.")
  if "\0" in name:
    raise UserError("--config: a file's name has no null character.")
  if file.is_file():
    if file.suffix != ".py":
      raise UserError(f"--config: {file} is not a Python file (.py).")
    return file, ""
  if file.exists():
    inside = " a folder" if file.is_dir() else " no file"
    raise UserError(f"--config: {file} is{inside}; see --help.")
  own = OWN / f"{file.stem}.py"
  is_own = str(file.parent) in (".", "configs") and file.stem in NAMES
  if is_own and file.suffix in ("", ".py"):
    return own, f"there is no file {file} here; taking the package's, {own}"
  raise UserError(
    f"--config: there is no file {file}; the package has"
    f" {', '.join(f'configs/{n}.py' for n in NAMES)}."
  )


@contextlib.contextmanager
def said_in_a_line(argv: Sequence[str]) -> Iterator[None]:
  """Turns what parsing flags raises into a UserError.

  Args:
    argv: the command line, from `located`.

  Raises:
    UserError: a flag or a field of the config is wrong.
  """
  try:
    yield
  except UserError:
    raise
  except flags.Error as e:
    raise UserError(" ".join(str(e).split())) from None
  except Exception as e:  # each type of field raises its own
    said = missing_field(argv)
    raise UserError(said or f"--config: {one_line(e)}") from e


def config_of(
  argv: Sequence[str],
) -> tuple[ml_collections.ConfigDict, str]:
  """Returns the config of --config and --config.FIELD=VALUE, and a note.

  Args:
    argv: these flags alone.

  Raises:
    UserError: there is no such config, or a field is wrong.
  """
  argv, note = located(argv)
  [file] = [a for a in argv if a.startswith("--config=")]
  name, colon, arg = file.removeprefix("--config=").partition(":")
  config = read(pathlib.Path(name), arg if colon else None)
  fields_alone = ["", *(a for a in argv if a != file)]
  values = flags.FlagValues()
  with said_in_a_line(argv):
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=values, sys_argv=fields_alone
    )
    values(fields_alone)
  return values["config"].value, note


def read(file: pathlib.Path, arg: str | None) -> ml_collections.ConfigDict:
  """Returns the config that a file makes from an argument.

  Args:
    file: has `get_config`.
    arg: what follows the colon; None if there is no colon.

  Raises:
    UserError: get_config is missing, raises or returns no config; with line.
  """
  module = user_code.run_file(str(file), file.read_bytes(), "--config")
  get_config = getattr(module, "get_config", None)
  if not callable(get_config):
    raise UserError(f"--config: {file} has no function get_config.")
  config_lib.arguments.clear()
  try:
    config = get_config() if arg is None else get_config(arg)
  except UserError:
    raise
  except (Exception, SystemExit) as e:
    raise UserError(f"--config: {user_code.raised(e, str(file))}") from e
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(
      f"--config: get_config of {file} returns a {type(config).__name__}, not"
      " an ml_collections.ConfigDict."
    )
  return config


def missing_field(argv: Sequence[str]) -> str:
  """Names a --config.FIELD that the config does not have; empty if none.

  Args:
    argv: the command line, from `located`.
  """
  files = [a.partition("=")[2] for a in argv if a.startswith("--config=")]
  paths = [m[1] for a in argv if (m := re.match(r"--?config\.([^=]*)", a))]
  for value in files:
    name, colon, arg = value.partition(":")
    config = read(pathlib.Path(name), arg if colon else None)
    for path in paths:
      if not path.strip(".[]"):
        return f"--config.{path}: names no field; --help lists them."
      node, known = config, []
      for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(node, (list, tuple)):
          node = {str(i): each for i, each in enumerate(node)}
        known = list(node) if hasattr(node, "items") else []
        if part not in known:
          there = f"; there are {', '.join(known)}" if known else ""
          if now := fields.new_name(path):
            there = f"; it is --config.{now} now"
          if own := re.fullmatch(r"(arms\.[^.]+\.learner)\.(.+)", path):
            there = (
              f"; a row of the config's file gives it to the arm"
              f" ({own[1]}.{own[2]}), --config.learner.{own[2]} to all arms"
            )
          return f"--config.{path}: the config has no {part!r} there{there}."
        node = node[part]
  return ""


def help_text(argv: Sequence[str], own_flags: Sequence[flags.Flag]) -> str:
  """Returns what --help prints: flags, configs, their arguments and fields.

  Args:
    argv: the command line; its --config is the one shown.
    own_flags: the program's.
  """
  argv, _ = located([arg for arg in argv if arg not in _HELP])
  value = next(
    (a.partition("=")[2] for a in argv if a.startswith("--config=")),
    str(OWN / "demo.py"),
  )
  name, colon, arg = value.partition(":")
  config = read(pathlib.Path(name), arg if colon else None)
  file = pathlib.Path(name)
  shown = f"configs/{file.name}" if file.parent == OWN else str(file)
  return "\n".join(
    [
      "python -m prefixrl_jax.main --config=FILE[:ARGUMENT]"
      " [--config.FIELD=VALUE ...] [--FLAG=VALUE ...]",
      "",
      "Flags",
      *_rows((f"--{f.name}", f.help) for f in own_flags),
      "",
      "Configs",
      *_rows((f"configs/{n}.py", _summary(n)) for n in NAMES),
      "",
      f"ARGUMENT of {shown}: KEY=VALUE, with commas between",
      *_rows(
        (f"{key}={_value(default)}", config_lib.describe(key))
        for key, default in config_lib.arguments.items()
      ),
      "",
      f"FIELD of {shown}, with its value; * changes only how results are"
      " computed, not which",
      *_rows(_described(config)),
      "",
      "--config=FILE --help shows those of another file.",
    ]
  )


def _summary(name: str) -> str:
  return (OWN / f"{name}.py").read_text().split('"""')[1].split("\n")[0]


def _described(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
  for path, value in leaves(config):
    field = fields.find(path)
    words = f"{field.help} ({field.rule.words})" if field else ""
    mark = "* " if field and field.execution else ""
    yield f"{path}={_value(value)}", mark + words


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
  if hasattr(value, "items") and (value or not path):
    for name, child in value.items():
      yield from leaves(child, f"{path}.{name}" if path else name)
  elif isinstance(value, tuple) and value and hasattr(value[0], "items"):
    for i, child in enumerate(value):
      yield from leaves(child, f"{path}.{i}")
  else:
    yield path, value


def _value(value: Any) -> str:
  if isinstance(value, str):
    return (
      value if value and re.fullmatch(r"[\w.:+/-]*", value) else repr(value)
    )
  return str(value).replace(" ", "")


def _rows(rows) -> Iterator[str]:
  """Yields the lines of a two-column table, as wide as the terminal."""
  width = min(shutil.get_terminal_size((100, 24)).columns, 120)
  for left, right in rows:
    lines = textwrap.wrap(right or "", max(width - 38, 30)) or [""]
    if len(left) > 33:
      yield from (
        f"  {line}"
        for line in textwrap.wrap(
          left, width - 2, subsequent_indent="  ", break_on_hyphens=False
        )
      )
      left = ""
    for line in lines:
      yield f"  {left:34}{line}".rstrip()
      left = ""
