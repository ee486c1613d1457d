"""Entry point: flags, JAX set-up, dispatch of stages.

  python -m prefixrl_jax.main --config=configs/demo.py

Re-run it to resume where it stopped; what is complete is not re-made.
"""

import contextlib
import datetime
import errno
import functools
import logging as builtin_logging
import os
import pathlib
import shlex
import signal
import sys
import tempfile
import traceback
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from prefixrl_jax import command_line, startup
from prefixrl_jax.distributed import cluster, huge_pages, places
from prefixrl_jax.stages import STAGES, chosen
from prefixrl_jax.storage import signals
from prefixrl_jax.types import Preempted, UserError, one_line

_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "Config file, e.g. configs/demo.py or configs/demo.py:seeds=3; single"
  " fields are changed by --config.section.field=value.",
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  "workdir", "", "Folder of the artifacts; default runs/<name of the config>."
)
_STAGE = flags.DEFINE_string(
  "stage",
  "all",
  f"Stages to run, a comma-separated choice of {','.join(STAGES)}; all leaves"
  " out problems, which prints what would be trained on, and export, a run's"
  " policy as a Hugging Face folder (config.export). compile, by itself,"
  " compiles every program of the run, with no weights, and says what fits.",
)
_TOPOLOGY = flags.DEFINE_string(
  "topology",
  "",
  "Of --stage=compile: a TPU slice, as v5e:16x16, which need not be there;"
  " default the devices of this machine.",
)
_FIT = flags.DEFINE_bool(
  "fit",
  False,
  "Of --stage=compile: look for the mesh, rows, micro-batches and remat that"
  " fit and are fastest by the estimate, and compile those.",
)
_ONLY = flags.DEFINE_list(
  "only",
  [],
  "Of --stage=compile: compile only these parts of a run (its table names"
  " them), or only a program of one, as RL/update,rollouts/decode; by default"
  " all.",
)
_TRACES = flags.DEFINE_string(
  "traces",
  "",
  "JSONL or Parquet file of other people's traces, or rules:TASK for worked"
  " ones by rule, used in place of collected ones; the same as"
  " --config.traces.file.",
)
_FRESH = flags.DEFINE_bool(
  "fresh",
  False,
  "Re-make what the stages of --stage make, for the config's arms and seeds;"
  " everything else in the workdir stays.",
)
_REDO = flags.DEFINE_list(
  "redo",
  [],
  "Re-make single parts: STAGE, STAGE/seed_N (of screen, collect, import and"
  " cut) or STAGE/ARM/seed_N, separated by commas. If a re-made part comes out"
  " different, what was made from it is re-made (cut, evaluate, rescore) or"
  " refused.",
)
_CHECK = flags.DEFINE_bool(
  "check",
  False,
  "Only check these flags and the config's fields, in a second and without a"
  " trace: what launchers do before they ask for a machine.",
)
_JOBS = flags.DEFINE_integer(
  "jobs",
  None,
  "Processes at a time, each with its share of the cores, that make seeds' data"
  " and train and evaluate arms and seeds; 1: this one alone, on all cores. By"
  " default one per core for a small model on a CPU, else 1.",
  lower_bound=1,
)

# Read by name before flags are parsed: see `main`.
flags.DEFINE_bool(
  "huge_pages",
  True,
  "Restart the process once, with memory in huge pages (glibc): a CPU reads"
  " weights faster from them.",
)
_OFF = {
  "--nohuge_pages",
  *(f"--huge_pages={no}" for no in ("false", "False", "0", "no", "f", "n")),
}

_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  "",
  "HOST:PORT where process 0 of several listens; TPU slices, Slurm and Open MPI"
  " are asked by themselves (docs/pods.md).",
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", 0, "Processes that run together; 0: see --coordinator."
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", -1, "Which of them this is, from 0; -1: see --coordinator."
)
_JOIN_TIMEOUT = flags.DEFINE_float(
  "join_timeout",
  300.0,
  "Seconds until all processes must be there.",
  lower_bound=1.0,
)
_HEARTBEAT = flags.DEFINE_float(
  "heartbeat",
  60.0,
  "Seconds without a sign of life from a process after which all others end.",
  lower_bound=5.0,
)

_GO_ON = "re-run the same command to resume"
_DEBUG = flags.DEFINE_bool(
  "debug", False, "Print the stack trace of an unexpected error."
)


_FULL = (errno.ENOSPC, errno.EDQUOT)
_run: Any = None  # the Pipeline, once there is one
_member: Any = None  # of a cluster, if there is one


def _main(argv, serves: bool = False) -> None:
  if len(argv) > 1:
    raise UserError(
      f"{argv[1]!r} is not a flag: flags start with --; see --help."
    )
  config = _CONFIG.value
  if config is None:
    raise UserError("--config is missing, e.g. --config=configs/demo.py.")
  if _TRACES.value:
    config.traces.file = _TRACES.value
  stages = chosen(_STAGE.value, config.traces.file)
  for flag in (_TOPOLOGY, _FIT, _ONLY):
    if flag.value and stages != ["compile"]:
      raise UserError(f"--{flag.name} needs --stage=compile.")
  # Imported here, so that --help and a mistyped flag answer at once.
  from etils import epath

  from prefixrl_jax.settings.validation import notes, validate

  validate(config, stages)
  for note in notes(config):
    print(f"note: {note}", file=sys.stderr)
  if _CHECK.value:
    return
  workdir = epath.Path(_workdir())
  startup.check_workdir(workdir)
  if _TOPOLOGY.value:
    os.environ["JAX_PLATFORMS"] = "cpu"  # which traces for chips not there
  startup.quiet_libraries()
  if stages == ["compile"]:  # leaves its summary alone
    from prefixrl_jax.stages import compile_ahead

    compile_ahead.run(
      config,
      workdir,
      _TOPOLOGY.value,
      fit=_FIT.value,
      only=_ONLY.value,
    )
    return
  if stages == ["problems"]:  # leaves nothing, and needs no JAX
    from prefixrl_jax.run.inputs import Inputs
    from prefixrl_jax.stages import show_problems

    show_problems.run(Inputs(config))
    return
  place = places.find(
    _COORDINATOR.value,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
    has_tpu=startup.has_tpu,
  )
  if place and (_JOBS.value or 1) > 1:
    raise UserError(
      f"--jobs={_JOBS.value}: {place.size} processes run together here, each"
      " with its part of every step; leave out --jobs."
    )
  if place:
    _enter(place)
  from prefixrl_jax.distributed.compilation import keep_compiled_programs
  from prefixrl_jax.pipeline import Pipeline
  from prefixrl_jax.storage import remote

  remote.reach(workdir)

  keep_compiled_programs()
  if place:
    from prefixrl_jax.distributed import joining

    joining.join(_member, place, _JOIN_TIMEOUT.value, _HEARTBEAT.value)
  global _run
  _run = Pipeline(
    config,
    workdir,
    fresh=_FRESH.value,
    redo=_REDO.value,
    jobs=1 if place else _JOBS.value,
    argv=sys.argv[1:],
  )
  if serves:
    _run.serve()
  else:
    _run.run(stages)
  cluster.gather("the end", None)  # process 0 is done with what it writes


def _enter(place: places.Place) -> None:
  """Becomes a process of a cluster, with a supervisor."""
  from prefixrl_jax.distributed import supervisor

  global _member
  _member = supervisor.enter(place, _JOIN_TIMEOUT.value, _HEARTBEAT.value)
  if place.index:  # what is worth a warning is so on all
    logging.set_verbosity(logging.ERROR)
    builtin_logging.getLogger("prefixrl_jax").setLevel(builtin_logging.ERROR)


def _workdir() -> str:
  """Returns where the artifacts are; ~ is the user's home."""
  name = config_flags.get_config_filename(flags.FLAGS["config"])
  default = f"runs/{pathlib.Path(name.partition(':')[0]).stem}"
  return os.path.expanduser(_WORKDIR.value or default)


def main(serves: bool = False) -> None:
  """Runs, and turns any exception into one line and an exit code.

  Args:
    serves: make what the process that started this one asks for.
  """
  if not _OFF & {*sys.argv}:  # before flags are parsed
    huge_pages.ensure()
  startup.open_standard_streams()
  signal.signal(signal.SIGTERM, signals.raise_preempted)
  signals.redeliver_unraisable()
  logging.set_verbosity(logging.WARNING)
  try:
    if command_line.wants_help(sys.argv):
      module = flags.FLAGS.find_module_defining_flag("workdir")
      own = flags.FLAGS.get_key_flags_for_module(module)
      print(command_line.help_text(sys.argv, own))
    else:
      run = functools.partial(_main, serves=serves)
      app.run(run, flags_parser=_parse_flags)
  except UserError as e:
    _exit(f"error: {e}{_hint()}", 1)
  except Preempted as e:
    _exit(f"terminated, {e}; {_GO_ON}{_hint()}", 128 + signal.SIGTERM)
  except KeyboardInterrupt:
    _exit(f"interrupted; {_GO_ON}{_hint()}", 128 + signal.SIGINT)
  except BrokenPipeError:  # whoever read our output has closed it
    _exit("", 128 + signal.SIGPIPE)
  except Exception as e:
    if "--debug" in sys.argv:
      raise
    _exit(f"error: {_unexpected(e)}{_hint()}", 1, is_known=False)
  else:
    _exit("", 0)


def _exit(message: str, code: int, *, is_known: bool = True) -> None:
  """Ends the process; output that nobody reads is not an error.

  Args:
    message: for the user; that of a cluster's process is its supervisor's to
      print.
    code: exit code.
    is_known: whether it says all that there is to it.
  """
  if _member:
    _member.end(code, message, is_known)
    message = ""
  # One more Ctrl-C ends it at once, without a stack trace of JAX's exit.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
  try:
    if message:
      print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
  except OSError as e:
    code = code or (128 + signal.SIGPIPE if e.errno == errno.EPIPE else 1)
    # Otherwise the interpreter would report again that writing failed.
    for stream in (1, 2):
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
  if _member and code:
    os._exit(code)  # JAX would wait for the others
  sys.exit(code)


def _unexpected(e: Exception) -> str:
  """Returns one line about an unexpected error, its stack trace in a file."""
  what = one_line(e)
  if isinstance(e, OSError) and e.strerror:
    what = f"{e.strerror}: {e.filename}" if e.filename else e.strerror
  # Orbax then says RESOURCE_EXHAUSTED and quotes the system's message.
  if any(os.strerror(number) in str(e) for number in _FULL):
    what = f"the disk is full; make room and {_GO_ON}. {what}"
  elif "RESOURCE_EXHAUSTED" in what or isinstance(e, MemoryError):
    what = (
      "out of memory; lower rows and lanes (config.train.rows, collect, evals)"
      f" or learner.rows_per_microbatch. {what}"
    )
  trace = "".join(traceback.format_exception(e))
  with contextlib.suppress(OSError):
    return f"{what} (stack trace: {_keep(trace)})"
  return f"{what} (--debug prints the stack trace)"


def _keep(trace: str) -> str:
  """Writes a stack trace to a file, and returns the file."""
  text = f"{datetime.datetime.now()} {shlex.join(sys.argv)}\n{trace}\n"
  with contextlib.suppress(OSError, flags.Error):
    file = os.path.join(_workdir(), "error.log")
    if "://" not in file:  # nothing can be appended to in a bucket
      with open(file, "a", errors="backslashreplace") as f:
        f.write(text)
      return file
  number, file = tempfile.mkstemp(prefix="prefixrl_jax_", suffix=".log")
  with open(number, "w", errors="backslashreplace") as f:
    f.write(text)
  return file


def _hint() -> str:
  """Warns of flags that would discard this run's work if repeated."""
  if _run is None or not _run.work.has_removed:
    return ""
  return " (without --fresh and --redo: what they name was removed already)"


def _parse_flags(argv):
  """Parses flags; a wrong config field is a UserError."""
  with command_line.said_in_a_line(argv):
    argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
  argv, note = command_line.located(argv)
  if note:
    print(f"note: {note}", file=sys.stderr)
  sys.argv[:] = argv  # where config_flags looks for fields
  with command_line.said_in_a_line(argv):
    return flags.FLAGS(argv)


if __name__ == "__main__":
  main()
