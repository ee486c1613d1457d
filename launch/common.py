"""What launchers share: their flags, and what would run.

A launcher renders a job to files and runs one of them, `run.sh`, here;
`--dry-run` prints them instead.
"""

import argparse
import dataclasses
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence

import ml_collections
import yaml

from launch import checks, slices
from prefixrl_jax.distributed import xla_flags
from prefixrl_jax.types import UserError

# Seconds between SIGTERM and SIGKILL. A checkpoint is saved in 30, after the
# step that is in progress.
GRACE = 120
# What a run holds its workdir by (storage/locking.py); one that is killed
# outright leaves it behind.
LOCK = "lock.json"


@dataclasses.dataclass(frozen=True)
class Job:
  """One run of the program, wherever it is.

  Attributes:
    name: of the job, unique where it runs.
    commit: of the project, which is what is installed.
    slice: that it has.
    workdir: of the run, on storage that outlives the machine.
    arguments: of the program, the config and workdir among them.
    extras: of the project, that it needs, with commas between.
    cache: where compiled programs are kept.
    secrets: names of variables whose values the program needs.
    spot: whether its machine may be preempted.
  """

  name: str
  commit: str
  slice: slices.Slice
  workdir: str
  arguments: tuple[str, ...]
  extras: str
  cache: str
  secrets: tuple[str, ...]
  spot: bool

  def environment(self) -> dict[str, str]:
    """Returns what is set for the program, no secrets among it."""
    chip = xla_flags.environment(xla_flags.SETTINGS[self.slice.name])
    return {"JAX_COMPILATION_CACHE_DIR": self.cache} | chip


@dataclasses.dataclass(frozen=True)
class Rendered:
  """Files that a launcher makes; `run.sh` is run here."""

  files: dict[str, str]

  def text(self) -> str:
    """Returns all of them, each after a line with its name."""
    return "\n".join(f"==> {name}\n{text}" for name, text in self.files.items())


@dataclasses.dataclass(frozen=True)
class Launcher:
  """A way to get a machine.

  Attributes:
    name: of its module.
    about: it, for --help.
    extras: of the project, whose chips it has: tpu, cuda12.
    add_flags: adds its own flags to a parser.
    render: makes its files for a job and its flags' values.
    has_spot: whether it can ask for machines that may be preempted.
  """

  name: str
  about: str
  extras: Sequence[str]
  add_flags: Callable[[argparse.ArgumentParser], None]
  render: Callable[[Job, argparse.Namespace], Rendered]
  has_spot: bool = True


def job_script(job: Job) -> str:
  """Returns job.sh: the program, run once in the project's folder."""
  lines = [
    "#!/usr/bin/env bash",
    "# Becomes the program; run in the project's folder.",
    "set -euo pipefail",
    'secrets=$(dirname "$0")/secrets.sh',
    "# shellcheck disable=SC1090",
    'if [ -e "$secrets" ]; then source "$secrets"; fi',
  ]
  for variable, value in job.environment().items():
    for setting in xla_flags.SETTINGS[job.slice.name]:
      if setting.variable == variable:
        lines += _comment(setting.reason)
    lines.append(f"export {variable}={shlex.quote(value)}")
  arguments = " \\\n  ".join(map(shlex.quote, job.arguments))
  lines += [
    "python=.venv/bin/python # of install.sh; an image has its own",
    'if [ ! -e "$python" ]; then python=python; fi',
    f'exec "$python" -m prefixrl_jax.main \\\n  {arguments}',
  ]
  return "\n".join(lines) + "\n"


def run_script(about: str, values: dict[str, str], body: str) -> str:
  """Returns a run.sh, which is run here.

  Args:
    about: what it does, for its first lines.
    values: of variables, quoted by this.
    body: bash that uses them.
  """
  return "\n".join(
    (
      "#!/usr/bin/env bash",
      *_comment(about),
      "set -euo pipefail",
      'cd "$(dirname "$0")"',
      "launch=$(git rev-parse --show-toplevel)/launch",
      *(f"{name}={shlex.quote(value)}" for name, value in values.items()),
      "",
      body.strip(),
      "",
    )
  )


def remote_values(job: Job) -> dict[str, str]:
  """Returns what remote.sh asks to be set."""
  return {
    "commit": job.commit,
    "extras": job.extras,
    "folder": f"prefixrl_jax/{job.name}",
    "grace": str(GRACE),
    "secrets": " ".join(job.secrets),
  }


def split_mount(flag: str, value: str, workdir: str) -> tuple[str, str]:
  """Returns what is mounted, and where.

  Args:
    flag: that says so.
    value: of the flag, SOURCE:/PATH.
    workdir: of the run, which must be below the path.

  Raises:
    UserError: it is not of that form, or the workdir is elsewhere.
  """
  source, _, path = value.rpartition(":")
  if not source or not re.fullmatch(r"(/[\w.-]+)+", path):
    raise UserError(f"--{flag}={value}: it must be SOURCE:/PATH.")
  if not workdir.startswith(f"{path}/"):
    raise UserError(
      f"--workdir={workdir} is not below {path}, where --{flag} is mounted: it"
      " would be lost with the machine."
    )
  return source, path


def image_of(job: Job, repository: str) -> str:
  """Returns an image's name: its tag has the job's commit and extras.

  Args:
    job: that is run in it.
    repository: of images, e.g. REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME.

  Raises:
    UserError: it has a tag.
  """
  if re.search(r"[:@]", repository.rpartition("/")[2]):
    raise UserError(
      f"--image={repository}: leave out the tag, which is the commit's and is"
      " added here."
    )
  return f"{repository}:{job.commit[:12]}-{job.extras.replace(',', '-')}"


def add_num_slices(parser: argparse.ArgumentParser) -> None:
  """Adds --num_slices, of what DCN joins."""
  parser.add_argument(
    "--num_slices",
    type=int,
    choices=range(1, 257),
    metavar="N",
    default=1,
    help="slices, joined over DCN",
  )


def to_yaml(document: dict) -> str:
  """Returns a document as YAML, in its own order."""
  return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=80)


class _Plain(yaml.SafeDumper):
  """What occurs twice is written twice."""

  def ignore_aliases(self, data) -> bool:
    return True


def main(launcher: Launcher, argv: Sequence[str] | None = None) -> None:
  """Renders a job, and prints it or becomes its run.sh.

  Args:
    launcher: that is asked for.
    argv: the command line; the process's own if None.
  """
  try:
    job, rendered, dry_run = prepare(launcher, argv)
    if not dry_run:
      checks.check_environment(job.secrets)
  except UserError as e:
    sys.exit(f"error: {e}")
  if dry_run:
    print(rendered.text(), end="")
    return
  folder = checks.ROOT / "runs" / "launch" / job.name
  folder.mkdir(parents=True, exist_ok=True)
  for name, text in rendered.files.items():
    (folder / name).write_text(text)
  os.execvp("bash", ("bash", str(folder / "run.sh")))


def prepare(
  launcher: Launcher, argv: Sequence[str] | None = None
) -> tuple[Job, Rendered, bool]:
  """Returns the job of a command line, its files, and whether it is a dry run.

  Args:
    launcher: that is asked for.
    argv: the command line; the process's own if None.

  Raises:
    UserError: a flag's value is of no use.
  """
  parser = _parser(launcher)
  argv = list(sys.argv[1:] if argv is None else argv)
  at = argv.index("--") if "--" in argv else len(argv)
  options = parser.parse_args(argv[:at])
  job = _job(launcher, options, argv[at + 1 :])
  return job, launcher.render(job, options), options.dry_run


def _parser(launcher: Launcher) -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=f"python -m launch.{launcher.name}",
    description=launcher.about,
    epilog="What comes after -- is the program's: -- --stage=train"
    " --config.train.flops=1e18",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--config", required=True, help="a config of the project, and argument")
  add("--slice", required=True, help="CHIP:TOPOLOGY or CHIP:GPUS")
  add("--workdir", required=True, help="a folder on shared storage")
  add("--name", help="of the job; default: the workdir's last part")
  add("--cache", help="of compiled programs; default: xla_cache by the workdir")
  add("--secrets", default="", help="variables to pass on, e.g. HF_TOKEN")
  add("--dry-run", action="store_true", help="print what would run")
  if launcher.has_spot:
    add("--spot", action="store_true", help="machines that may be preempted")
  launcher.add_flags(parser)
  return parser


def _job(
  launcher: Launcher, options: argparse.Namespace, rest: list[str]
) -> Job:
  machine = slices.parse(options.slice)
  if machine.chip.extra not in launcher.extras:
    raise UserError(
      f"--slice={options.slice}: launch.{launcher.name} has no {machine.name}."
    )
  checks.check_values(options)
  workdir = options.workdir.rstrip("/")
  checks.check_workdir(workdir)
  parent, _, last = workdir.rpartition("/")
  name = options.name or re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")
  checks.check_name(name)
  secrets = tuple(filter(None, options.secrets.split(",")))
  checks.check_variables(secrets)
  arguments = (f"--config={options.config}", f"--workdir={workdir}", *rest)
  checks.check_no_secrets(arguments)
  commit = checks.pinned_commit(options.config.partition(":")[0])
  config = checks.checked_config(arguments)
  num_slices = getattr(options, "num_slices", 1)
  checks.check_mesh(config.mesh, machine, num_slices)
  return Job(
    name=name,
    commit=commit,
    slice=machine,
    workdir=workdir,
    arguments=arguments,
    extras=",".join((machine.chip.extra, *extras_of(config, arguments))),
    cache=options.cache or f"{parent}/xla_cache",
    secrets=secrets,
    spot=getattr(options, "spot", False),
  )


def extras_of(
  config: ml_collections.ConfigDict, arguments: Sequence[str]
) -> list[str]:
  """Returns extras of the project that a run needs on any chip.

  Args:
    config: of the run.
    arguments: of the program.
  """
  problems = config.problems, *config.evals.sets.values()
  needed = {
    "gcs": any("gs://" in argument for argument in arguments),
    "gym": any(each.get("task") == "gym" for each in problems),
    "wandb": bool(config.wandb.project),
  }
  return [extra for extra, is_needed in needed.items() if is_needed]


def _comment(text: str) -> list[str]:
  """Returns lines of a shell's comment."""
  return textwrap.wrap(
    text,
    79,
    initial_indent="# ",
    subsequent_indent="# ",
    break_long_words=False,
  )
