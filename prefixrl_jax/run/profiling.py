"""Profiles of single steps of training, with what happens in them by name.

JAX's profiler notes what the host's threads and the devices do. On the host it
is the stages of a step, which `jax.profiler.TraceAnnotation` names where they
are; on a device it is programs by their names (`ahead.Program`) and what is in
them by `jax.named_scope`.
"""

import contextlib
import gzip
import json
import pathlib
import tempfile
from collections.abc import Collection
from typing import Any

import jax
from etils import epath

from prefixrl_jax.storage.metrics import console

# What a step does, as it is annotated: in Perfetto, each has a row.
STAGES = (
  "step",
  "evaluation",
  "weight hand-over",
  "rollout",
  "prefill",
  "decode",
  "wait for decode",
  "pick",
  "judge",
  "update",
  "SFT update",
  "checkpoint",
)
_ROWS = {"pid": 0}  # of a process that is none: no other has this number


class Profile:
  """Profiles some of a run's steps; those in a row share a trace."""

  def __init__(
    self,
    steps: Collection[int],
    directory: epath.Path,
    name: str,
  ):
    """Profiles nothing yet.

    Args:
      steps: as config.profile.steps; counted as in metrics.jsonl.
      directory: of the traces, plugins/profile/steps_N_M in it.
      name: of the run, for messages.
    """
    self._missing = set(steps)
    self._directory, self._name = directory, name
    self._traced: list[int] = []  # steps of the trace that is being made
    self._step = contextlib.ExitStack()

  def begin(self, step: int) -> None:
    """Says that a step begins, and so that the one before it has ended.

    Args:
      step: from 1.
    """
    self._step.close()
    if step not in self._missing:
      self._write()
      return
    if not self._traced:
      self._start()
    self._missing.remove(step)
    self._traced.append(step)
    named = jax.profiler.StepTraceAnnotation("step", step_num=step)
    self._step.enter_context(named)

  def _start(self) -> None:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every call of a function
    # A folder on an object store is none that the profiler can write to.
    self._local = tempfile.TemporaryDirectory()
    jax.profiler.start_trace(self._local.name, profiler_options=options)

  def _write(self) -> None:
    """Writes the trace that is being made, if one is."""
    if not self._traced:
      return
    name = "steps_" + "_".join(map(str, self._traced))
    self._traced = []
    # Where TensorBoard and xprof look for it.
    folder = self._directory / "plugins" / "profile" / name
    with self._local as local:
      jax.profiler.stop_trace()
      folder.mkdir(parents=True, exist_ok=True)
      for file in pathlib.Path(local).glob("plugins/profile/*/*"):
        (folder / file.name).write_bytes(file.read_bytes())
        if file.name.endswith(".trace.json.gz"):
          trace = json.loads(gzip.decompress(file.read_bytes()))
          rows = json.dumps(with_stages(trace)).encode()
          (folder / "perfetto.json.gz").write_bytes(gzip.compress(rows))
    self._say(
      f"{folder / 'perfetto.json.gz'} opens in https://ui.perfetto.dev;"
      f" or xprof --logdir={self._directory}"
    )

  def __enter__(self) -> "Profile":
    return self

  def __exit__(self, kind, *_) -> None:
    self._step.close()
    self._write()
    if self._missing and kind is None:
      steps = ", ".join(map(str, sorted(self._missing)))
      self._say(f"there is none of steps {steps}, which did not run")

  def _say(self, what: str) -> None:
    console().print(
      f"profile of {self._name}: {what}", soft_wrap=True, markup=False
    )


def with_stages(trace: dict[str, Any]) -> dict[str, Any]:
  """Returns a trace for Perfetto, in which each stage has a row, at the top.

  Args:
    trace: in Chrome's format, as JAX's profiler writes it.
  """
  about = lambda what, at, **args: {"ph": "M", "name": what, "args": args, **at}
  events = [event for event in trace["traceEvents"] if event]  # the last is {}
  own = [
    about("process_name", _ROWS, name="stages of a step"),
    about("process_sort_index", _ROWS, sort_index=-1),
  ]
  for row, stage in enumerate(STAGES, 1):
    spans = [
      event
      for event in events
      if event.get("name") == stage and "hlo_op" not in event.get("args", {})
    ]
    if not spans:
      continue
    at = {"tid": row, **_ROWS}
    own += [
      about("thread_name", at, name=stage),
      about("thread_sort_index", at, sort_index=row),
      *(event | at | _numbered(event) for event in spans),
    ]
  return {"traceEvents": own + events}


def _numbered(event: dict[str, Any]) -> dict[str, str]:
  """Returns the name of a step with its number; nothing of other events."""
  number = event.get("args", {}).get("step_num")
  return {"name": f"{event['name']} {number}"} if number else {}
