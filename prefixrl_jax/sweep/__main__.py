"""Tunes arms: every combination of settings and seeds, in one command.

  python -m prefixrl_jax.sweep --config=configs/demo.py --arms=rl+sft_rl \\
      --set config.arms.{arm}.learning_rate=1e-4,3e-4 --seeds=100,101

Re-run it to go on where it stopped; what is complete is not run again.
"""

import argparse
import pathlib
import signal
import sys
from collections.abc import Sequence

import ml_collections
from absl import logging

from prefixrl_jax import command_line, startup
from prefixrl_jax.evals.figures import figure_by_hardness
from prefixrl_jax.evals.summary import summarize
from prefixrl_jax.parallel import jobs
from prefixrl_jax.settings.rules import SEED, whole
from prefixrl_jax.settings.validation import validate
from prefixrl_jax.storage import signals
from prefixrl_jax.storage.files import write_json, write_text
from prefixrl_jax.sweep import regimes, table
from prefixrl_jax.sweep.points import (
  Point,
  as_read,
  points_of,
  read_variation,
)
from prefixrl_jax.sweep.running import Sweep
from prefixrl_jax.types import Preempted, UserError

_GO_ON = "re-run the same command to go on"


class _Parser(argparse.ArgumentParser):
  """Raises what is wrong as a UserError."""

  def error(self, message: str):
    raise UserError(f"{message}; see --help.")


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Returns the sweep's own flags, and those of the config."""
  parser = _Parser(
    prog="python -m prefixrl_jax.sweep",
    description=__doc__.partition("\n")[0],
    epilog="--config.FIELD=VALUE changes a field for all points, as of"
    " prefixrl_jax.main.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add(
    "--config", required=True, help="FILE[:ARGUMENT], as of prefixrl_jax.main"
  )
  add("--workdir", help="of the sweep; default runs/sweep/NAME OF THE CONFIG")
  add("--arms", help="rows of config.arms, + between; default config.run_arms")
  add(
    "--set",
    action="append",
    default=[],
    metavar="config.FIELD=VALUE,VALUE",
    help="a field to vary, any number of times; {arm} in it is the arm's name,"
    " and a field of one arm is varied for that arm alone",
  )
  add("--seeds", help="commas between; default config.seeds")
  add("--jobs", type=int, default=1, help="runs at a time, each on its cores")
  own, rest = parser.parse_known_args(argv)
  for arg in rest:
    if not arg.startswith(("--config.", "-config.")) or "=" not in arg:
      raise UserError(f"what is {arg!r}? See --help.")
  if not whole(1, 1000).allows(own.jobs):
    raise UserError(f"--jobs={own.jobs} is not {whole(1, 1000).words}.")
  return own, rest


def _seeds(text: str) -> tuple[int, ...]:
  seeds = tuple(
    int(s) if s.strip().isdecimal() else -1 for s in text.split(",")
  )
  if not all(map(SEED.allows, seeds)) or len(set(seeds)) < len(seeds):
    raise UserError(f"--seeds={text} is not a list of different whole numbers.")
  return seeds


def _sweep(argv: Sequence[str]) -> int:
  own, fixed = _arguments(argv)
  base = [f"--config={own.config}", *fixed]
  config, note = command_line.config_of(base)
  if note:
    print(f"note: {note}", file=sys.stderr)
  arms = tuple((own.arms or "+".join(config.run_arms)).split("+"))
  seeds = _seeds(own.seeds) if own.seeds else tuple(config.seeds)

  def flags(point: Point) -> list[str]:
    return [
      *base,
      *point.flags,
      f"--config.run_arms=({point.arm!r},)",
      f"--config.seeds={seeds}",
    ]

  configs: dict[Point, ml_collections.ConfigDict] = {}
  for point in points_of(arms, [read_variation(text) for text in own.set]):
    config = _config(point, flags(point))
    point = as_read(point, config)
    if point in configs:
      raise UserError(f"--set: {point.name} is there twice.")
    configs[point] = config
  name = pathlib.Path(own.config.partition(":")[0]).stem
  folder = own.workdir or f"runs/sweep/{name}"
  if startup.is_address(folder):
    raise UserError(f"--workdir={folder}: a sweep's is a local folder.")
  workdir = pathlib.Path(folder).expanduser()
  startup.check_workdir(workdir)
  sweep = Sweep(workdir, configs, flags)
  todo, of_points = sweep.jobs()
  num_left = len(of_points)
  for point, why in sweep.refused.items():
    print(f"{point.name} cannot be run: {why}")
  there = len(configs) - num_left - len(sweep.refused)
  print(
    f"{len(configs)} points of {len(seeds)} seeds: {there} are complete,"
    f" {num_left} to run, {own.jobs} at a time",
    flush=True,
  )
  errors: dict[Point, str] = {}
  ended = 0

  def on_end(job: jobs.Job) -> None:
    nonlocal ended
    what = f"failed: {job.error}" if job.error else f"{job.seconds:.0f} s"
    if job in of_points:
      ended += 1
      if job.error:
        errors[of_points[job]] = job.error
      what = f"[{ended}/{num_left}] {job.name}: {what}"
      _write(workdir, sweep.results(errors), len(seeds))
    else:
      what = f"{job.name}: {what}"
    print(what, flush=True)

  jobs.run(
    todo,
    most=own.jobs,
    on_end=on_end,
    on_start=lambda job: print(f"{job.name} …  ({job.log})", flush=True),
  )
  results = sweep.results(errors)
  text, records, found = _write(workdir, results, len(seeds))
  print(f"\n{text}\n{workdir / 'sweep.md'}")
  if panels := table.best_runs(results, records):
    figure_by_hardness(
      {title: summarize(runs) for title, runs in panels.items()},
      workdir / "sweep",
    )
  if len(found) > 1:
    regimes.figure_of_regimes(found, workdir / "regimes")
  return int(any(result.error for result in results))


def _config(point: Point, argv: list[str]) -> ml_collections.ConfigDict:
  """Returns a point's config; an error names the point."""
  try:
    config, _ = command_line.config_of(argv)
    validate(config, ("screen", "cut", "train"))
  except UserError as e:
    raise UserError(f"{point.name}: {e}") from e
  return config


def _write(
  workdir: pathlib.Path, results: Sequence[table.Result], num_seeds: int
) -> tuple[str, list[dict], list[dict]]:
  """Writes sweep.md and sweep.json; returns their tables, points, regimes."""
  records = table.rank(results)
  found = regimes.regimes(results, records)
  text = table.markdown(records, num_seeds)
  if len(found) > 1:
    text += "\n" + regimes.markdown(found)
  write_text(workdir / "sweep.md", text)
  write_json(workdir / "sweep.json", {"points": records, "regimes": found})
  return text, records, found


def main() -> None:
  """Runs, and turns what went wrong into one line and an exit code."""
  logging.set_verbosity(logging.WARNING)
  signal.signal(signal.SIGTERM, signals.raise_preempted)
  try:
    sys.exit(_sweep(sys.argv[1:]))
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(1)
  except (KeyboardInterrupt, Preempted) as e:
    number = signal.SIGTERM if isinstance(e, Preempted) else signal.SIGINT
    print(f"interrupted; {_GO_ON}", file=sys.stderr)
    sys.exit(128 + number)


if __name__ == "__main__":
  main()
