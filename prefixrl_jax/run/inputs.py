"""A run's inputs: problems, and their tokenizer and verifier."""

import contextlib
import functools
import importlib.resources
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
from etils import epath

from prefixrl_jax.embedded import tasks
from prefixrl_jax.models.folders import find_folder
from prefixrl_jax.problems import loading
from prefixrl_jax.problems.streams import Limit, Part
from prefixrl_jax.rewards.verifiers import VERIFIERS
from prefixrl_jax.settings import arms
from prefixrl_jax.storage.metrics import Progress, console
from prefixrl_jax.text.tokenizer import (
  SymbolTokenizer,
  Tokenizer,
  exceeding,
  load_tokenizer,
)
from prefixrl_jax.types import Problem, UserError, Verifier

_TRIED = 4  # problems, on an own reward


class Inputs:
  """A config, and what needs neither weights nor a workdir."""

  def __init__(self, config: ml_collections.ConfigDict):
    """Finds the model's folder.

    Args:
      config: validated.

    Raises:
      UserError: there is no such folder, or none is named and the task needs
        one.
    """
    self.config = config
    self.console = console()
    self._of_sets: dict[str, Verifier] = {}
    folder = config.model.folder
    self.model_folder = find_folder(folder) if folder else None
    if not folder and config.problems.task not in tasks.TASKS:
      raise UserError(
        "config.model.folder is empty; give a Hugging Face model folder,"
        " --config.model.folder=PATH, or a name on its hub."
      )

  @property
  def data_seeds(self) -> tuple[int, ...]:
    """The seeds that have their own problems and traces."""
    seeds = tuple(self.config.seeds)
    return seeds if self.config.fresh_data_per_seed else seeds[:1]

  def data_seed(self, seed: int) -> int:
    """Returns the seed whose problems and traces a run of `seed` uses."""
    return seed if self.config.fresh_data_per_seed else self.data_seeds[0]

  @property
  def sets(self) -> list[str]:
    """The rows of config.evals.sets that are evaluated on."""
    return arms.listed(self.config.evals.run_sets)

  @property
  def given_base(self) -> epath.Path | None:
    """The embedded task's base model; None if the run is to make it."""
    base = self.config.model.base
    if base.startswith("package:"):
      return _shipped(base.removeprefix("package:"))
    return epath.Path(base) if base else None

  @functools.cached_property
  def verifier(self) -> Verifier:
    """The task's verifier; one for code needs a sandbox."""
    return VERIFIERS[verifier_name(self.config)].make(self.config.rewards)

  def verifier_of(self, of_set: str) -> Verifier:
    """Returns what judges a row of config.evals.sets; "": the run's own."""
    if not of_set or self.config.problems.task in tasks.TASKS:
      return self.verifier
    task = self.config.evals.sets[of_set].task
    name = loading.find_source(self.config.problems, task).verifier
    if name == loading.find_verifier(self.config.problems):
      return self.verifier
    if name not in self._of_sets:
      self._of_sets[name] = VERIFIERS[name].make(self.config.rewards)
    return self._of_sets[name]

  def close(self) -> None:
    """Ends the verifiers' processes, if there are any."""
    own = [self.verifier] if "verifier" in vars(self) else []
    for verifier in (*own, *self._of_sets.values()):
      verifier.close()

  def try_reward(self) -> None:
    """Has a reward of the user's judge something, before anything else is.

    Raises:
      UserError: it raises, or returns something else than rewards.
    """
    if self.config.rewards.function:
      problems = self.problems(self.data_seeds[0])[:_TRIED]
      self.verifier.judge(
        problems * 2, [*(p.answer for p in problems), *[""] * len(problems)]
      )

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The base policy's tokenizer, loaded without its weights."""
    return open_tokenizer(self.model_folder, self.config.problems.task)

  @functools.cache  # noqa: B019 - one Workspace a process
  def problems(self, seed: int) -> list[Problem]:
    """Returns all problems of a data seed; their prompts fit."""
    parts = self.problem_parts(seed)
    self._check_prompts(parts)
    problems = [p for part in parts for p in part.problems]
    for part in parts:
      if left_out := part.dropped + part.skipped:
        counts = ", ".join(f"{n} {why}" for why, n in left_out.items())
        self.console.print(
          f"problems, seed {seed}: {len(part.problems)} {part.split} ones of"
          f" {part.task}; left out: {counts}"
        )
    return problems

  @functools.cache  # noqa: B019 - one Workspace a process
  def set_problems(self, name: str, seed: int) -> list[Problem]:
    """Returns the problems of a row of config.evals.sets, which fit.

    Args:
      name: of the row; it is their split.
      seed: a data seed, of sets that are drawn.
    """
    with self._reading(f"problems of {name}") as how:
      part = loading.load_set(self.config, name, seed=seed, **how)
    self._check_prompts([part])
    if left_out := part.dropped + part.skipped:
      counts = ", ".join(f"{n} {why}" for why, n in left_out.items())
      self.console.print(
        f"config.evals.sets.{name}: {len(part.problems)} problems of"
        f" {part.origin}; left out: {counts}"
      )
    return part.problems

  @functools.cache  # noqa: B019 - one Workspace a process
  def problem_parts(self, seed: int) -> list[Part]:
    """Returns a data seed's problems, with what was left out."""
    with self._reading(f"problems, seed {seed}") as how:
      return loading.load_parts(self.config.problems, seed=seed, **how)

  @contextlib.contextmanager
  def _reading(self, what: str) -> Iterator[dict[str, Any]]:
    """Yields the limit of prompts and what shows progress, as loading takes."""
    longest = self.config.rollouts.max_prompt_length
    limit = Limit(
      lambda prompts: exceeding(self.tokenizer, prompts, longest),
      drops=self.config.problems.get("too_long") == "drop",
    )
    with contextlib.ExitStack() as stack:
      # Not shown if it takes no time.
      bar = functools.cache(
        lambda: stack.enter_context(Progress(what, total=1.0, waits_for=""))
      )
      yield dict(
        limit=limit,
        on_progress=lambda share, found: bar().update(
          share, found=f"{found:,}"
        ),
      )

  def _check_prompts(self, parts: Sequence[Part]) -> None:
    limit = self.config.rollouts.max_prompt_length
    too_long = [i for part in parts for i in part.too_long]
    if too_long:
      count = sum(len(part.problems) for part in parts)
      may_drop = "too_long" in self.config.problems
      remedy = " Or --config.problems.too_long=drop." if may_drop else ""
      raise UserError(
        f"{len(too_long)} of {count} prompts are longer than"
        f" config.rollouts.max_prompt_length = {limit} tokens:"
        f" {', '.join(too_long[:8])}{' …' if len(too_long) > 8 else ''}."
        + remedy
      )


def open_tokenizer(folder: epath.Path | None, task: str) -> Tokenizer:
  """Returns a model folder's tokenizer, or the task's own."""
  return load_tokenizer(folder) if folder else own_tokenizer(task)


def own_tokenizer(task: str) -> Tokenizer:
  """Returns the tokenizer of an embedded task."""
  own = tasks.TASKS[task]
  if hasattr(own, "FOLDER"):
    return load_tokenizer(_shipped(own.FOLDER))
  return SymbolTokenizer(own.SYMBOLS, pad=own.PAD, stop=own.STOP)


def _shipped(name: str) -> epath.Path:
  """Returns a file or folder of the package's data."""
  data = importlib.resources.files("prefixrl_jax") / "data"
  return epath.Path(str(data / name))


def verifier_name(config: ml_collections.ConfigDict) -> str:
  """Returns the name of the verifier: the config's, else the task's own."""
  if config.rewards.function:
    return "function"
  return config.rewards.verifier or loading.find_verifier(config.problems)
