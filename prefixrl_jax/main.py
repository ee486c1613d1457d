"""Entry point: flags, JAX set-up, dispatch of stages.

  python -m prefixrl_jax.main --config=configs/demo.py

Run it again to go on where it stopped; what is complete is not made again.
"""

import pathlib
import signal
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from prefixrl_jax import huge_pages
from prefixrl_jax.types import Preempted, UserError

STAGES = "pretrain,import,screen,collect,cut,train,evaluate,report"
_ON_DEMAND = ("problems", "export")

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
  f"Stages to run, a comma-separated choice of {STAGES}; not among all are"
  " problems, which prints what would be trained on, and export, a run's policy"
  " as a Hugging Face folder (config.export).",
)
_TRACES = flags.DEFINE_string(
  "traces",
  "",
  "JSONL or Parquet file of other people's traces, or rules:TASK for worked"
  " ones by rule, used in place of collected ones; the same as"
  " --config.traces.file.",
)
_FRESH = flags.DEFINE_bool(
  "fresh", False, "Remove what earlier runs left in the workdir."
)


def _main(argv) -> None:
  if len(argv) > 1:
    raise UserError(f"what is {argv[1]!r}? Flags start with --; see --help.")
  config = _CONFIG.value
  if config is None:
    raise UserError("--config is missing, e.g. --config=configs/demo.py.")
  name = config_flags.get_config_filename(flags.FLAGS["config"])
  file = pathlib.Path(name.partition(":")[0])
  if not file.exists():
    raise UserError(f"--config: there is no file {file}.")
  if _TRACES.value:
    config.traces.file = _TRACES.value
  # Traces are imported or collected, never both in one run.
  unused = "collect" if config.traces.file else "import"
  if _STAGE.value == "all":
    stages = [stage for stage in STAGES.split(",") if stage != unused]
  else:
    stages = _STAGE.value.split(",")
  for stage in stages:
    known = (*STAGES.split(","), *_ON_DEMAND)
    if stage not in known:
      raise UserError(
        f"there is no stage {stage!r}; known are {', '.join(known)}, all."
      )
  if unused in stages:
    raise UserError(
      f"--stage=collect: traces are imported from {config.traces.file}, none"
      " is sampled; leave out --traces or use --stage=import."
      if config.traces.file
      else "--stage=import needs --traces=FILE."
    )
  # Imported here, so that --help and a mistyped flag answer at once.
  from etils import epath

  from prefixrl_jax.config import validate

  validate(config)
  workdir = epath.Path(_WORKDIR.value or f"runs/{file.stem}")
  from prefixrl_jax.pipeline import Pipeline
  from prefixrl_jax.session import keep_compiled_programs

  keep_compiled_programs()
  Pipeline(config, workdir, fresh=_FRESH.value).run(stages)


def main() -> None:
  """Runs, and turns what the user can mend into one line and an exit code."""
  huge_pages.ensure()
  logging.set_verbosity(logging.WARNING)
  try:
    app.run(_main, flags_parser=_parse_flags)
  except UserError as e:
    sys.exit(f"error: {e}")
  except Preempted as e:
    print(f"terminated, {e}; run the same command to go on", file=sys.stderr)
    sys.exit(128 + signal.SIGTERM)
  except KeyboardInterrupt:
    print("interrupted; run the same command to go on", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


def _parse_flags(argv):
  """Parses flags; a wrong config field is the user's to mend."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as e:
    raise UserError(str(e)) from None
  except (AttributeError, KeyError, TypeError, FileNotFoundError) as e:
    raise UserError(f"--config: {e}") from None


if __name__ == "__main__":
  main()
