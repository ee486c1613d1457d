"""What the processes of a cluster must have alike before they compute."""

import importlib.metadata
import importlib.resources
import json
import pathlib
from collections.abc import Collection
from typing import Any

from etils import epath

from prefixrl_jax.distributed import cluster
from prefixrl_jax.run import provenance
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.storage.files import digest_of


def check(work: Workspace, asked: dict[str, Any]) -> None:
  """Compares this process with the others; alone it does nothing.

  Args:
    work: of the run.
    asked: flags that say what is done, by name.

  Raises:
    UserError: something is not the same on all; it is named.
  """
  if cluster.current().size == 1:
    return
  fields = {f"config.{k}": v for k, v in provenance.flatten(work.config)}
  versions = {
    name: importlib.metadata.version(name)
    for name in ("jax", "jaxlib", "numpy")
  }
  settings = asked | fields | versions | {"the code": _code()}
  cluster.check_same("settings", json.loads(json.dumps(settings, default=str)))
  cluster.check_same("inputs", _inputs(work, ("screen", work.traces_stage)))


def _inputs(work: Workspace, stages: Collection[str]) -> dict[str, str | None]:
  """Returns digests of problems, weights, traces and rewards, by name."""
  made = {
    f"{artifact.name}: {name}": digest
    for artifact in work.artifacts(stages)
    for name, digest in artifact.sources.items()
    # What an earlier stage leaves is in the workdir that all share.
    if name not in stages
  }
  for seed in work.data_seeds:
    for name in work.sets:
      problems = work.set_problems(name, seed)
      made[f"{name}, seed {seed}"] = provenance.of_problems(problems)
  return made


def _code() -> str:
  """Returns a digest of the package's own modules."""
  folder = pathlib.Path(str(importlib.resources.files("prefixrl_jax")))
  files = {
    str(file.relative_to(folder)): provenance.of_files([epath.Path(file)])
    for file in folder.rglob("*.py")
  }
  return digest_of(files)[:12]
