"""Every program of a run, compiled before a machine is there, and what it says.

No weights, no tokenizer and no data are read: sizes that data decide are the
largest that the config allows (`run.sizes`).
"""

import dataclasses
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from etils import epath
from rich.console import Console

from prefixrl_jax.configs.shapes import SHAPES
from prefixrl_jax.distributed import ahead, chips, topologies
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.embedded import tasks
from prefixrl_jax.models import adapters, folders, importing
from prefixrl_jax.models.transformer import TransformerConfig
from prefixrl_jax.prefixes.cuts import revealed_length
from prefixrl_jax.run import (
  by_hand,
  duration,
  estimates,
  fitting,
  memory_plan,
  setup,
  sizes,
)
from prefixrl_jax.run.inputs import own_tokenizer
from prefixrl_jax.run.session import Engine, demo_model, open_engine
from prefixrl_jax.settings import arms
from prefixrl_jax.stages.compile_table import (
  largest_buffers,
  table,
  too_large,
)
from prefixrl_jax.stages.evaluate import sampler_of
from prefixrl_jax.stages.rescore import layout_of, most_trees, scorer_of
from prefixrl_jax.storage.files import write_json
from prefixrl_jax.types import UserError

# What of the memory plan a program has, in which phase, and what is there only
# while an update runs.
_OF_SAMPLER = ("sampler's parameters", "kv caches")
_OF_UPDATE = ("gradients", "activations", "logits")
_PLANNED = {
  "decode": _OF_SAMPLER,
  "prefill a layer": _OF_SAMPLER,
  "prefill, last layer": _OF_SAMPLER,
  "update": ("parameters", "optimizer", *_OF_UPDATE),
}
# Of what fits: how many choices are shown, and compiled until one does.
_SHOWN, _COMPILED = 8, 3
_PHASES = {"rollouts": "train", "RL": "train", "SFT": "train"}


def run(
  config: ml_collections.ConfigDict,
  workdir: epath.Path,
  topology: str,
  fit: bool = False,
  only: Sequence[str] = (),
) -> None:
  """Compiles all of a run's programs; prints a table and writes the summary.

  Args:
    config: validated.
    workdir: where compile/summary.json goes.
    topology: of a TPU slice, as v5e:16x16; empty: this process's own devices.
    fit: choose mesh, rows, micro-batches and remat; of the choices that
      `fitting.search` finds, the first that the compiler takes.
    only: parts of a run that are compiled, or PART/PROGRAM; empty: all. What
      else a step has is counted by hand.

  Raises:
    UserError: there is no such slice, its chips have too little memory for
      the plan or for a program, the model's shape is not known, or a part
      of `only`.
  """
  parts = [name.partition("/")[0] for name in only]
  if unknown := [part for part in parts if part not in ahead.PARTS]:
    raise UserError(
      f"--only: a run has no part {unknown[0]!r}; it has"
      f" {', '.join(ahead.PARTS)}."
    )
  show = Console(stderr=True, highlight=False).print
  devices = topologies.absent_devices(topology) if topology else None
  if topology:  # what is compiled for absent devices cannot be loaded again
    jax.config.update("jax_enable_compilation_cache", False)
  devices = devices or jax.devices()
  chip = chips.of_kind(devices[0].device_kind)
  if (topology or fit) and not chip:
    of = f"--topology={topology}" if topology else "--fit needs --topology"
    raise UserError(
      f"{of}: what {devices[0].device_kind} can do is not known; known:"
      f" {', '.join(name for name in chips.CHIPS if name[0] == 'v')}."
    )
  model, stop_tokens = _model(config)
  if not fit:
    _compile(config, workdir, topology, devices, chip, model, stop_tokens, only)
    return
  assert chip
  show("looking for what fits …")
  choices = fitting.search(config, model, devices, chip, stop_tokens)
  for choice in choices[:_SHOWN]:
    show(
      f"{choice.seconds:.3g} s a step by the estimate,"
      f" {choice.bytes / 2**30:.3g} GiB by the plan: {choice}"
    )
  refusal: UserError | None = None
  for choice in choices[:_COMPILED]:
    chosen = config.copy_and_resolve_references()
    chosen.update_from_flattened_dict(choice.settings)
    settled = dataclasses.replace(model, remat=chosen.model.remat)
    try:
      _compile(
        chosen, workdir, topology, devices, chip, settled, stop_tokens, only
      )
    except UserError as e:
      show(f"{choice}: {e}")
      refusal = e
      continue
    print(f"It fits, and is the fastest by the estimate:\n{choice}")
    sys.stdout.flush()
    return
  raise UserError(f"--fit: none of the best {_COMPILED} fits: {refusal}")


def _compile(
  config, workdir, topology, devices, chip, model, stop_tokens, only
) -> None:
  """Compiles all programs of one config."""
  show = Console(stderr=True, highlight=False).print
  mesh = make_mesh(**config.mesh, devices=devices)
  engine = open_engine(
    config,
    model=model,
    mesh=mesh,
    stop_tokens=stop_tokens,
    show=show,
    device_bytes=chip.memory if topology and chip else None,
  )
  phases = memory_plan.phases(
    config, engine.model, mesh, engine.rows_per_microbatch
  )
  programs: list[dict[str, Any]] = []
  summary = {
    "topology": topology,
    "device": mesh.devices.flat[0].device_kind,
    "mesh": dict(mesh.shape),
    "versions": {"jax": jax.__version__, **_libtpu(topology)},
    "model": config.model.folder or "config.model",
    "remat": engine.model.remat,
    "rows_per_microbatch": engine.rows_per_microbatch,
    "device_bytes": chip.memory if chip else None,
    "plan": phases,
    "programs": programs,
    "steps": {},
    "chip_hours": {},
  }
  file = workdir / "compile" / "summary.json"

  def keep(done: ahead.Compiled) -> None:
    """Compiling takes long: what is known is there if it is cut short."""
    programs.append(_described(done, engine, chip, phases))
    write_json(file, summary)
    show(_progress(done))

  with ahead.compiling(ahead.Compiler(keep, only or ahead.PARTS)):
    call_all(engine)
  if only and not programs:
    raise UserError(f"--only: this run has no {', '.join(only)}.")
  if chip:
    rest = _counted(engine, programs, chip) if only else []
    summary["steps"] = duration.steps(engine, programs + rest, chip)
    if not only:
      summary["chip_hours"] = duration.chip_hours(engine, programs)
  write_json(file, summary)
  print(table(summary))
  sys.stdout.flush()
  if failed := [p for p in programs if p["error"]]:
    raise UserError(too_large(failed))


def call_all(engine: Engine) -> None:
  """Calls every program of a run's stages, each for every shape that it has.

  To be called within `ahead.compiling`.

  Args:
    engine: of the run.
  """
  c, base = engine.config, engine.base_params
  own = {"screen": c.screen}
  if not c.traces.file:
    own["collect"] = c.collect
  for name, settings in own.items():
    sampler = engine.sampler_for_prompts(settings)
    with ahead.part(name, sampler):
      sampler.warm_up(base)
  for arm in c.run_arms:
    settings = c.arms[arm]
    largest = sizes.at_most(c, settings)
    trees = by_hand.trees_of(c, settings, largest)
    trees["rescore"] = most_trees(engine, arm)
    with ahead.part(arm, trees):
      parts = setup.make_parts(engine, settings, largest, seed=0)
      setup.compile_all(engine, parts)
      if arms.weighs_traces(settings):
        scorer = setup.trace_scorer(engine, largest.example)
        with ahead.part("scoring traces", scorer):
          scorer.compile({})
      policy = adapters.policy_params(engine.model, base, parts.first_params)
      layout = layout_of(engine, arm)
      scorer = scorer_of(engine, layout, policy)
      with ahead.part("rescore", scorer):
        scorer.compile({})
      _call_evaluation(engine, policy)


def _call_evaluation(engine: Engine, policy: dict) -> None:
  c = engine.config
  longest = c.rollouts.max_completion_length
  deepest = revealed_length(longest, max(c.evals.fractions, default=0))
  for revealed in sorted({0, deepest}):
    sampler = sampler_of(engine, revealed)
    with ahead.part("evaluate", sampler):
      sampler.warm_up(policy)


def _model(
  config: ml_collections.ConfigDict,
) -> tuple[TransformerConfig, tuple[int, ...]]:
  """Returns the model's shape, and its stop tokens as far as they are known."""
  c, folder = config.model, config.model.folder
  if not folder:
    if config.problems.task not in tasks.TASKS:
      raise UserError(
        "config.model.folder is empty; give the model's folder, of which"
        " config.json is read, or a preset, as configs/math.py:model=qwen3_4b."
      )
    return demo_model(c), own_tokenizer(config.problems.task).stop_tokens
  if folder in SHAPES and not epath.Path(folder).is_dir():
    theirs, source = SHAPES[folder], folder
  else:
    found = folders.find_folder(folder, files=("config.json",))
    theirs = folders.read_json(found, "config.json")
    source = f"{found}/config.json"
  model = importing.config_of(
    theirs,
    source,
    dtype=c.dtype,
    param_dtype=c.param_dtype,
    remat=c.remat,
  )
  stop = theirs.get("eos_token_id") or 0
  return model, tuple(stop) if isinstance(stop, list) else (stop,)


def _libtpu(topology: str) -> dict[str, str]:
  if not topology:
    return {}
  return {"libtpu": importlib.metadata.version("libtpu")}


def _progress(done: ahead.Compiled) -> str:
  what = f"{done.name} ({done.of[0]})"
  if done.executable is None:
    return f"{what}: does not fit"
  return f"{what}: compiled in {done.seconds:.1f} s"


def _described(
  done: ahead.Compiled,
  engine: Engine,
  chip: chips.Chip | None,
  phases: dict[str, dict[str, float]],
) -> dict[str, Any]:
  """Returns what is known of a program, of one device; sizes in bytes."""
  row: dict[str, Any] = {
    "name": done.name,
    "rows": estimates.rows_of(done),
    "of": done.of,
    "error": done.error,
    "compile_seconds": done.seconds,
    **_planned(done, phases, engine.model.num_layers),
  }
  if done.executable is None:
    text = done.lowered.as_text()
    return row | {"largest": largest_buffers(done.error, text)}
  work, sizes = estimates.work_of(done, engine), estimates.memory_of(done)
  traffic = estimates.traffic_of(done, work.turns if work else 1.0)
  row |= {
    "memory": sizes,
    "by_xla": estimates.costs_of(done),
    "by_hand": work._asdict() if work else None,
    "collectives": None
    if traffic is None
    else {kind: dataclasses.asdict(sent) for kind, sent in traffic.items()},
  }
  if work and chip:
    sent, hidden = estimates.seconds_of(chip, traffic or {})
    row |= estimates.roofline(chip, work, sent - hidden, hidden)
  if "beside" in row:
    row["in_all"] = row["beside"] + sizes["peak"]
    if chip and row["in_all"] > chip.memory:
      # As libtpu says it of a program by itself.
      used, have = row["in_all"] / 2**30, chip.memory / 2**30
      row["error"] = (
        f"Used {used:.2f}G of {have:.2f}G, with what else is there."
      )
      row["largest"] = []
  return row


def _counted(
  engine: Engine, programs: list[dict[str, Any]], chip: chips.Chip
) -> list[dict[str, Any]]:
  """Returns what else a step has, counted by hand."""
  compiled = {(p["name"], place) for p in programs for place in p["of"]}
  return [
    p
    for p in fitting.programs(engine, chip)
    if (p["name"], p["of"][0]) not in compiled
  ]


def _planned(
  done: ahead.Compiled, phases: dict[str, dict[str, float]], num_layers: int
) -> dict[str, float]:
  """Returns what the memory plan has for a program, and beside it."""
  name = done.of[0].rpartition(", ")[2]
  phase = phases.get(_PHASES.get(name, name))
  if phase is None or done.name not in _PLANNED:
    return {}
  there = sum(phase.values())
  if done.name != "update":
    there -= sum(phase.get(part, 0.0) for part in _OF_UPDATE)
  planned = sum(phase[part] for part in _PLANNED[done.name])
  if done.name.startswith("prefill"):  # has one layer's
    planned /= num_layers
  return {"planned": planned, "beside": there - planned}
