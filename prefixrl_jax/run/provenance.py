"""What each stage's artifact is made from: config fields, files, versions."""

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

from prefixrl_jax.models import folders
from prefixrl_jax.settings import arms, fields
from prefixrl_jax.storage.files import digest_of
from prefixrl_jax.types import Problem

# Raised by hand when a stage makes something else from the same inputs, not
# when only its speed or wording changes.
VERSIONS = {
  "pretrain": 1,
  "import": 1,
  "screen": 1,
  "collect": 1,
  "cut": 1,
  "train": 1,
  "evaluate": 1,
  "rescore": 1,
}

# What the curve is evaluated on: part of a run, unlike the rest of `evals`.
_CURVE = (
  "evals.curve_points",
  "evals.curve_problems",
  "evals.curve_samples",
  "evals.curve_temperature",
)

# Sections and fields that a stage's results depend on, and exceptions within
# them. What earlier stages depend on is in the digests of their artifacts.
_USES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  "pretrain": (("model", "pretrain", "problems.task"), ()),
  "import": (
    (
      "problems",
      "rewards",
      "traces",
      "rollouts.max_completion_length",
      "collect.traces_per_problem",
    ),
    ("problems.hint",),
  ),
  "screen": (
    ("model", "problems", "rewards", "rollouts", "screen"),
    ("problems.hint", "screen.max_correct"),
  ),
  "collect": (("screen.max_correct", "collect"), ()),
  "cut": (("screen.max_correct", "prefixes"), ()),
  "train": (
    (
      "learner",
      "train",
      *_CURVE,
      "evals.marker",
      "screen.max_correct",
    ),
    ("train.flops", "train.max_steps"),
  ),
  "evaluate": (
    ("evals", "screen.max_correct"),
    (*_CURVE, "evals.marker", "evals.run_sets", "evals.sets"),
  ),
  "rescore": ((), ()),
  "export": ((), ()),
}
# Paths: the contents count, wherever they are.
_PLACES = (
  "model.base",
  "model.folder",
  "problems.exclude",
  "problems.file",
  "problems.function",
  "problems.heldout.file",
  "rewards.function",
  "traces.file",
)
# Newer fields, and the value that describes runs from before they existed: such
# a run can be continued.
_BEFORE = {
  "arm.easy_share": 0.0,
  "arm.given": "prefix",
  "arm.group_size": 0,
  "arm.loss.clip_high": 0.0,
  "arm.loss.clip_low": 0.0,
  "arm.loss.detached": False,
  "arm.loss.dual_clip": 0.0,
  "arm.loss.importance": "none",
  "arm.loss.name": "policy_gradient",
  "arm.schedule.name": "mixture",
  "arm.trace_lanes": 0,
  "evals.marker": "",
  "evals.curve_problems": 0,
  "evals.final_problems": 0,
  "learner.critic.first_steps": 0,
  "learner.critic.kind": "none",
  "learner.critic.learning_rate": 0.0,
  "learner.critic.trunk_gradient": True,
  "learner.decay_by_length": 0.0,
  "learner.entropy_coefficient": 0.0,
  "learner.gae_decay": 1.0,
  "learner.hold_without_signal": False,
  "learner.kl_horizon": 10_000,
  "learner.kl_in": "loss",
  "learner.kl_target": 0.0,
  "learner.normalization": "token",
  "learner.num_epochs": 1,
  "learner.num_minibatches": 1,
  "learner.resample_limit": 3,
  "learner.signal_of": "reward",
  "learner.silent_groups": "train",
  "learner.trace_advantage": "group",
  "learner.trace_mean": False,
  "learner.truncated": "wrong",
  "learner.value_decay": 1.0,
  "learner.whiten": False,
  "problems.num_easy_train": 0,
}
# Younger fields, and an older one that stood for them as well.
_SPLIT_OFF = {"evals.curve_temperature": "evals.temperature"}
_LIMITS = ("train.flops", "train.max_steps")

_is_execution = functools.cache(fields.is_execution)

# A weight file up to this size is read whole, a larger one in samples.
_WHOLE_BYTES = 64 << 20
_PIECES, _PIECE_BYTES = 64, 1 << 20


def settings(
  config: ml_collections.ConfigDict, stage: str, subject: str = ""
) -> dict[str, Any]:
  """Returns the fields that a stage's results depend on, {path: value}.

  Args:
    config: the whole config.
    stage: the artifact's stage.
    subject: the arm that is trained; the row of config.evals.sets that is
      evaluated on, empty for the run's own problems.
  """
  if stage == "evaluate" and subject:
    evals = config.evals
    return {
      "evals.num_samples": evals.sets[subject].num_samples or evals.num_samples,
      "evals.temperature": evals.temperature,
      "set": subject,
    }
  uses, not_after_all = _USES[stage]
  if stage == "train":
    own = config.arms[subject]
    uses += ("sft",) if own.sft_epochs else ()
    uses += ("lora",) if config.lora.rank else ()
    uses += ("problems.hint",) if arms.uses_hints(own) else ()
    not_after_all += () if arms.uses_prefixes(own) else ("train.cuts_together",)
    config = config.copy_and_resolve_references()
    config.learner = arms.learner_of(config, own)
  depends = {
    path: value
    for path, value in flatten(config)
    if _within(path, uses)
    and not _within(path, (*not_after_all, *_PLACES))
    and not _is_execution(path)
  }
  if stage == "train":
    depends |= {
      f"arm.{path}": value
      for path, value in flatten(own)
      if not _within(path, ("learner",))  # it is in config.learner by now
    }
  return depends


def as_today(
  record: Mapping[str, Any], today: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns what an artifact's record would say if it were made today.

  Args:
    record: {path: value} that it depends on, maybe of an older version.
    today: the same of the present config.
  """
  there = dict(record)
  for new, old in _SPLIT_OFF.items():
    if new in today and new not in there and old in there:
      there[new] = there[old] if old in today else there.pop(old)
  younger = {k: v for k, v in _BEFORE.items() if k in today}
  return younger | there


def places(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields that say where something is, {path: value}."""
  return {p: value for p, value in flatten(config) if p in _PLACES}


def limits(config: ml_collections.ConfigDict, stage: str) -> dict[str, float]:
  """Returns the fields that may be raised once an artifact is complete."""
  if stage != "train":
    return {}
  return {path: value for path, value in flatten(config) if path in _LIMITS}


def execution(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields that change no result, {path: value}."""
  return {p: value for p, value in flatten(config) if _is_execution(p)}


def flatten(config: ml_collections.ConfigDict) -> Iterator[tuple[str, Any]]:
  """Yields (dotted path, value as JSON returns it) of all fields."""
  yield from _flatten(config.to_dict(), "")


def of_problems(problems: Iterable[Problem]) -> str:
  """Returns a digest of the problems' contents, wherever they come from."""
  digest = hashlib.sha256()
  for p in problems:
    row = [p.id, p.prompt, p.answer, p.split, p.index, p.metadata]
    digest.update(json.dumps(row, sort_keys=True, default=repr).encode())
  return digest.hexdigest()


def of_files(files: Sequence[epath.Path]) -> str:
  """Returns a digest of the files' bytes, in this order."""
  digest = hashlib.sha256()
  for file in files:
    with file.open("rb") as f:
      digest.update(hashlib.file_digest(f, "sha256").digest())
  return digest.hexdigest()


def of_model_folder(folder: epath.Path, *, weights: bool) -> str:
  """Returns a digest of what is read from a Hugging Face folder.

  Of a weight file above 64 MiB, that is its size, its header and 64 evenly
  spaced pieces of 1 MiB; the hash of all weights is compared once they are
  loaded.

  Args:
    folder: of the model.
    weights: whether they count, or only settings and tokenizer.
  """
  files = {
    path.relative_to(folder).as_posix(): path
    for pattern in folders.SIDE_FILES
    for path in folder.glob(pattern)
    if path.is_file()
  }
  files["config.json"] = folder / "config.json"
  if weights:
    files |= {p.name: p for p in folder.glob("model*.safetensors")}
    files |= {p.name: p for p in folder.glob(folders.INDEX)}
  return digest_of(
    {name: _of_file(path) for name, path in files.items() if path.exists()}
  )


def _of_file(path: epath.Path) -> str:
  size = path.stat().length
  digest = hashlib.sha256(str(size).encode())
  with path.open("rb") as f:
    if size <= _WHOLE_BYTES:
      digest.update(f.read())
      return digest.hexdigest()
    for i in range(_PIECES):
      f.seek(math.floor(i * (size - _PIECE_BYTES) / (_PIECES - 1)))
      digest.update(f.read(_PIECE_BYTES))
  return digest.hexdigest()


def _within(path: str, prefixes: Iterable[str]) -> bool:
  return any(path == p or path.startswith(f"{p}.") for p in prefixes)


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
  if isinstance(value, dict) and (value or not name):
    for key, child in value.items():
      yield from _flatten(child, f"{name}.{key}" if name else key)
  elif isinstance(value, (str, int, float)) or value is None:
    yield name, value
  else:
    yield name, json.loads(json.dumps(value))
