"""What launchers refuse before a machine is asked for."""

import argparse
import contextlib
import functools
import itertools
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence

import ml_collections

from launch import slices
from prefixrl_jax import command_line
from prefixrl_jax.distributed.mesh_shape import mesh_shape
from prefixrl_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What becomes part of a provider's command line or file; other flags have rules
# of their own, or are only ever quoted.
_PLAIN = re.compile(r"[\w./:@][\w./:@+=,-]*|")
_NOT_PLAIN = ("config", "secrets", "slice", "name", "infra")
# Keys and tokens of the services that a run may talk to, and flags named so.
_SECRET = re.compile(
  r"\bhf_[A-Za-z0-9]{16,}|\bgh[a-z]_[A-Za-z0-9]{16,}|\bsk-[\w-]{16,}"
  r"|\bAKIA[A-Z0-9]{16}\b|\bAIza[\w-]{30,}|\b[0-9a-f]{40}\b"
  r"|(api_?key|token|secret|password|credentials?)=."
)


def check_values(options: argparse.Namespace) -> None:
  """Refuses values of flags that a provider's command line or file cannot have.

  Args:
    options: all of a launcher's flags.

  Raises:
    UserError: one has other characters than it may.
  """
  for flag, value in vars(options).items():
    is_text = isinstance(value, str) and flag not in _NOT_PLAIN
    if is_text and not _PLAIN.fullmatch(value):
      raise UserError(
        f"--{flag}={value!r}: it may have letters, digits and _ . / : @ + = , -"
        " and begins with none of the last four."
      )


def check_workdir(workdir: str) -> None:
  """Refuses a workdir that would be lost.

  Args:
    workdir: without a / at its end.

  Raises:
    UserError: it is on no storage that outlives the machine.
  """
  if not workdir.startswith(("gs://", "/")) or not workdir.strip("/"):
    raise UserError(
      f"--workdir={workdir}: it must outlive the machine and be the same on all"
      " of them: give an absolute path on shared storage."
    )


def check_name(name: str) -> None:
  """Raises UserError if some provider refuses jobs of that name."""
  if not _NAME.fullmatch(name):
    raise UserError(
      f"--name={name}: up to 40 of a-z, 0-9 and -, the first a letter."
    )


def check_variables(names: Sequence[str]) -> None:
  """Raises UserError if one cannot be the name of a variable."""
  for variable in names:
    if not _VARIABLE.fullmatch(variable):
      raise UserError(
        f"--secrets: {variable.partition('=')[0]!r} is not the name of a"
        " variable; only names are given, their values are passed on."
      )


def check_environment(names: Sequence[str]) -> None:
  """Raises UserError if a variable is not set here."""
  for name in names:
    if not os.environ.get(name):
      raise UserError(
        f"--secrets={name}: it is not set in the environment; export {name}."
      )


def check_no_secrets(arguments: Sequence[str]) -> None:
  """Raises UserError if an argument looks like a key or token."""
  for argument in arguments:
    if _SECRET.search(argument):
      raise UserError(
        f"{argument.partition('=')[0]}: looks like a key or token, which"
        " everyone who lists processes would see; put it into a variable of the"
        " environment and name that in --secrets."
      )


def check_mesh(
  mesh: ml_collections.ConfigDict, machine: slices.Slice, num_slices: int
) -> None:
  """Refuses a mesh that is not of a slice's devices.

  Args:
    mesh: config.mesh.
    machine: each of the slices.
    num_slices: how many, joined over DCN.

  Raises:
    UserError: the program would refuse it there.
  """
  try:
    mesh_shape(machine.chips * num_slices, **mesh, slices=num_slices)
  except UserError as e:
    size = machine.topology or machine.chips
    raise UserError(f"--slice={machine.name}:{size}: {e}") from None


def pinned_commit(config: str) -> str:
  """Returns the commit that is checked out, which is what will be installed.

  Args:
    config: a file of it.

  Raises:
    UserError: it is not what the files here are, or lacks the config.
  """
  changed = _git("status", "--porcelain", "--untracked-files=no").splitlines()
  if changed:
    raise UserError(
      f"{changed[0][3:]} differs from the commit that would be installed;"
      " commit or stash your changes."
    )
  known = _git("ls-files", "--", config, f"prefixrl_jax/configs/{config}.py")
  if not known:
    raise UserError(
      f"--config={config}: the project's commit has no such file; what is not"
      " committed is not installed."
    )
  return _git("rev-parse", "HEAD")


@functools.cache
def checked_config(arguments: tuple[str, ...]) -> ml_collections.ConfigDict:
  """Returns the config of a command line of the program.

  Args:
    arguments: of the program, which checks them first, in a second.

  Raises:
    UserError: the program would refuse them.
  """
  program = (sys.executable, "-m", "prefixrl_jax.main", *arguments, "--check")
  done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
  if done.returncode:
    *_, said = done.stderr.strip().splitlines() or ["it said nothing"]
    raise UserError(f"the program: {said.removeprefix('error: ')}")
  of_config = [
    a if "=" in a or after.startswith("--") else f"{a}={after}"
    for a, after in itertools.pairwise((*arguments, "--"))
    if re.match(r"--?config[.=]", a)
  ]
  with contextlib.chdir(ROOT):
    return command_line.config_of(of_config)[0]


def _git(*arguments: str) -> str:
  done = subprocess.run(
    ("git", "-C", str(ROOT), *arguments), capture_output=True, text=True
  )
  if done.returncode:
    raise UserError(f"git {arguments[0]}: {done.stderr.strip()}")
  return done.stdout.rstrip("\n")
