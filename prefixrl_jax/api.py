"""The package in Python: what notebooks and scripts call.

  from prefixrl_jax import api

  config = api.load_config("demo", {"train.flops": 1e11})
  api.run(config, "runs/demo", "screen,collect,cut")
  policy = api.load_policy(config, "runs/demo")
  data = api.load_data(config, "runs/demo")
  trained, curve = api.train(policy, data, "prefixrl", steps=20)

The stages of the command line call the same functions, and `run` is what the
command runs. Names and arguments here change only with a line in CHANGELOG.md.
"""

import copy
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from prefixrl_jax import command_line, stages, startup
from prefixrl_jax import train as training
from prefixrl_jax.distributed.compilation import keep_compiled_programs
from prefixrl_jax.evals.frames import Frames, read_frames
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.models import parameters
from prefixrl_jax.pipeline import Pipeline
from prefixrl_jax.rewards.judging import judge_texts
from prefixrl_jax.run import upstream
from prefixrl_jax.run.inputs import Inputs
from prefixrl_jax.run.rollout import Group, encode, rollout
from prefixrl_jax.run.session import Session, open_session
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.settings import arms
from prefixrl_jax.settings.validation import notes, validate
from prefixrl_jax.stages import collect as collecting
from prefixrl_jax.stages import cut as cutting
from prefixrl_jax.stages import evaluate as evaluating
from prefixrl_jax.types import (
  EvalResult,
  PrefixedProblem,
  Problem,
  Trace,
  TrainData,
  UserError,
  Verdict,
)

__all__ = (
  "Policy",
  "collect",
  "cut",
  "evaluate",
  "judge",
  "load_config",
  "load_data",
  "load_policy",
  "load_problems",
  "read_runs",
  "run",
  "sample",
  "train",
)


@dataclasses.dataclass(frozen=True)
class Policy:
  """A policy on the devices, with its tokenizer and its task's verifier.

  Attributes:
    session: what it shares with other policies of the same base.
    params: its parameters.
    name: "<id>@<hash of the weights>", which its traces are stored with.
    ledger: what sampling from it has cost so far.
  """

  session: Session = dataclasses.field(repr=False)
  params: dict = dataclasses.field(repr=False)
  name: str
  ledger: Ledger = dataclasses.field(repr=False)

  def texts(self, group: Group) -> list[str]:
    """Returns a group's answers as text: its prefix, and what followed.

    Args:
      group: from `sample`.
    """
    return self.session.tokenizer.decode(
      [
        [*group.prefix.tolist(), *completion.tokens.tolist()]
        for completion in group.completions
      ]
    )

  def close(self) -> None:
    """Ends the verifier's processes, if it has any; it can go on afterwards."""
    self.session.verifier.close()


def load_config(
  name: str = "demo", fields: Mapping[str, Any] | None = None
) -> ml_collections.ConfigDict:
  """Returns a config, as --config and --config.FIELD=VALUE give it.

  Args:
    name: of a file, or of one of the package's configs, with its argument:
      "demo:seeds=1".
    fields: {"train.flops": 1e11}, fields that have other values.

  Raises:
    UserError: there is no such config or field, or a value cannot work.
  """
  given = [f"--config.{path}={value}" for path, value in (fields or {}).items()]
  config, _ = command_line.config_of([f"--config={name}", *given])
  validate(config)
  return config


def run(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike,
  names: str = "all",
  *,
  fresh: bool = False,
  redo: Collection[str] = (),
) -> None:
  """Runs stages of the command line; what is complete is not run again.

  All in this process: --jobs is for the command line.

  Args:
    config: from `load_config`.
    workdir: where their artifacts are left.
    names: of the stages, as --stage has them: "screen,collect,cut".
    fresh: re-make everything that the stages make.
    redo: parts to re-make, as --redo has them: "train/rl/seed_0".

  Raises:
    UserError: something that you can fix.
  """
  chosen = stages.chosen(names, config.traces.file)
  if "compile" in chosen:
    raise UserError("the stage compile is for the command line alone.")
  validate(config, chosen)
  for note in notes(config):
    print(f"note: {note}", file=sys.stderr)
  workdir = epath.Path(workdir).expanduser()
  startup.check_workdir(workdir)
  _set_up()
  Pipeline(config, workdir, fresh=fresh, redo=redo).run(chosen)


def load_problems(
  config: ml_collections.ConfigDict, *, seed: int | None = None
) -> list[Problem]:
  """Returns a task's problems of all splits; loads no weights.

  Args:
    config: from `load_config`.
    seed: a run's; by default the config's first.

  Raises:
    UserError: they cannot be read, or a prompt is too long.
  """
  inputs = Inputs(config)
  return inputs.problems(inputs.data_seed(_seed(config, seed)))


def load_policy(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike | None = None,
  *,
  arm: str = "base",
  seed: int | None = None,
) -> Policy:
  """Loads the base policy, or what an arm's training has ended with.

  Args:
    config: from `load_config`.
    workdir: of a run; None: the base policy alone, which must not be one that
      a run makes (`pretrain`).
    arm: a key of config.arms that was trained there, or "base".
    seed: of its run; by default the config's first.

  Raises:
    UserError: there is no such policy, it does not fit into memory, or a file
      is damaged.
  """
  _set_up()
  if workdir is not None:
    work = Workspace(config, epath.Path(workdir).expanduser())
    params = evaluating.policy_of(work, arm, _seed(config, seed))
    return _policy(work.session, params, arm)
  inputs = Inputs(config)
  if arm != "base":
    raise UserError(f"arm={arm!r} is trained in a workdir; name that, too.")
  if not (inputs.model_folder or inputs.given_base):
    raise UserError(
      "config.model.base is empty: the stage pretrain makes the base policy, in"
      " a workdir; name that, too."
    )
  session = open_session(
    config,
    folder=inputs.model_folder,
    base=inputs.given_base,
    verifier=inputs.verifier,
    show=inputs.console.print,
  )
  return _policy(session, session.base_params, arm)


def load_data(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike,
  *,
  seed: int | None = None,
) -> TrainData:
  """Returns what a workdir's arms train on: problems, traces, prefixes.

  Args:
    config: the run's.
    workdir: with the stages screen, collect (or import) and cut.
    seed: of the run; by default the config's first.

  Raises:
    UserError: a stage is missing, or a file is damaged.
  """
  work = Workspace(config, epath.Path(workdir).expanduser())
  return upstream.train_data(work, _seed(config, seed))


def sample(
  policy: Policy,
  problems: Sequence[Problem],
  num_samples: int = 1,
  *,
  prefixes: Sequence[np.ndarray] | None = None,
  temperature: float | None = None,
  seed: int = 0,
) -> list[Group]:
  """Samples completions of problems, and judges them.

  Args:
    policy: from `load_policy` or `train`.
    problems: what is asked.
    num_samples: completions of each.
    prefixes: int32 [prefix length] for each problem, what its answers begin
      with; None: nothing.
    temperature: by default config.rollouts.temperature.
    seed: seed for the sampling.

  Returns: A group for each problem, with its completions, verdicts and rewards.

  Raises:
    UserError: a prompt is too long, or there is not a prefix for each problem.
    NonFiniteError: the policy's logits are not finite.
  """
  if prefixes is None:
    prefixes = [np.zeros(0, np.int32)] * len(problems)
  if len(prefixes) != len(problems):
    raise UserError(
      f"{len(prefixes)} prefixes for {len(problems)} problems; give one for"
      " each, an empty one where there is none."
    )
  config = policy.session.config
  if temperature is None:
    temperature = config.rollouts.temperature
  longest = max(map(len, prefixes), default=0)
  sampler = policy.session.sampler(
    rows=config.evals.rows,
    lanes=config.evals.lanes,
    trunk_length=config.rollouts.max_prompt_length + longest,
    temperature=temperature,
  )
  sampler.load(policy.params)
  groups = rollout(
    policy.session,
    sampler,
    problems,
    encode(policy.session, problems),
    prefixes,
    num_samples,
    steps=[0] * len(problems),
    purpose="evaluation",
    seed=seed,
  )
  policy.ledger.add_sampling("evaluation", sampler.pop_usage())
  return groups


def judge(
  policy: Policy, problems: Sequence[Problem], texts: Sequence[str]
) -> list[Verdict]:
  """Judges answers in words, whoever gave them.

  Args:
    policy: one of the task.
    problems: what was asked, once for each answer.
    texts: the answers.
  """
  return judge_texts(policy.session.verifier, problems, texts)


def collect(
  policy: Policy,
  problems: Sequence[Problem],
  *,
  seed: int | None = None,
  on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Trace]:
  """Returns correct answers of a policy, found by rejection sampling.

  config.collect says how many attempts a problem is worth and how many answers
  are wanted. What they cost is in the policy's ledger, as "collection".

  Args:
    policy: that writes the traces.
    problems: hard ones.
    seed: seed for the sampling; by default the config's first.
    on_progress: called with (problems solved, completions judged).
  """
  session = policy.session
  sampler = session.sampler_for_prompts(session.config.collect)
  sampler.load(policy.params)
  return collecting.collect(
    session,
    sampler,
    problems,
    policy.ledger,
    policy=policy.name,
    seed=_seed(session.config, seed),
    on_progress=on_progress,
  )


def cut(
  policy: Policy,
  problems: Sequence[Problem],
  traces: Sequence[Trace],
  *,
  seed: int | None = None,
) -> list[PrefixedProblem]:
  """Cuts traces into prefixes that do not hold the answer.

  config.prefixes says how many, and where.

  Args:
    policy: one of the task.
    problems: those of the traces, at least.
    traces: from `collect`, or other people's.
    seed: seed for the places; by default the config's first.
  """
  seed = _seed(policy.session.config, seed)
  return cutting.cut(policy.session, problems, traces, seed=seed).prefixed


def train(
  policy: Policy,
  data: TrainData,
  arm: str = "prefixrl",
  *,
  steps: int = 0,
  seed: int | None = None,
  workdir: str | os.PathLike | None = None,
  on_step: Callable[[int, dict[str, float]], None] = lambda *_: None,
) -> tuple[Policy, list[dict]]:
  """Trains an arm for a number of steps, or until config.train.flops are spent.

  Args:
    policy: the base policy.
    data: from `load_data`, or made of problems, traces and prefixes.
    arm: a key of config.arms.
    steps: of RL, after those of SFT if the arm has any; 0: no limit.
    seed: seed for everything random; by default the config's first.
    workdir: for checkpoints, metrics and rollouts, where a training that was
      interrupted, or had fewer steps, goes on; None: they are not kept.
    on_step: called with (step, its metrics) after each step.

  Returns:
    The trained policy, and its curve: before the first step, after the last
    and between, a dict of `step`, `accuracy` by split, and the `ledger` so far.

  Raises:
    UserError: the policy is not the base, there is no such arm, the data has no
      problem or no prefix for it, or the budget is spent before the first step.
    NonFiniteError: at the first update that is not finite.
  """
  session = copy.copy(policy.session)
  config = session.config.copy_and_resolve_references()
  if policy.params is not session.base_params:
    raise UserError(
      "training begins with the base policy: load_policy(config)."
    )
  if arm not in config.arms:
    raise UserError(
      f"there is no arm {arm!r}; known: {', '.join(config.arms)}."
    )
  if arms.uses_prefixes(config.arms[arm]) and not data.prefixed:
    raise UserError(
      f"the arm {arm} needs prefixes, and data.prefixed has none."
    )
  if not data.train:
    raise UserError("data.train has no problem.")
  config.run_arms, config.train.max_steps = (arm,), steps
  validate(config)
  session.config, seed = config, _seed(config, seed)
  with tempfile.TemporaryDirectory() as scratch:
    directory = (
      epath.Path(workdir or scratch).expanduser() / arm / f"seed_{seed}"
    )
    trained = training.train(
      session, data, directory, arm=arm, seed=seed, on_step=on_step
    )
    params = training.trained_params(
      session, directory, trained.curve[-1]["step"]
    )
  return _policy(policy.session, params, arm), trained.curve


def evaluate(
  policy: Policy,
  problems: Sequence[Problem],
  *,
  num_samples: int | None = None,
  traces: Sequence[Trace] = (),
  fractions: Sequence[float] | None = None,
  seed: int | None = None,
) -> list[EvalResult]:
  """Evaluates without prefix, and with growing shares of traces revealed.

  A problem whose answer is in what is revealed is left out at that share.

  Args:
    policy: from `load_policy` or `train`.
    problems: what is asked.
    num_samples: completions of each, at each share; by default
      config.evals.num_samples and fraction_samples.
    traces: of some of the problems; the first of each is revealed.
    fractions: the shares, above 0; by default config.evals.fractions.
    seed: seed for the sampling; by default the config's first.

  Raises:
    UserError: a prompt is too long.
  """
  settings = policy.session.config.evals
  asked = {p.id for p in problems}
  questions = evaluating.Questions(
    [problems],
    num_samples or settings.num_samples,
    [t for t in traces if t.problem_id in asked],
    settings.fractions if fractions is None else fractions,
    num_samples or settings.fraction_samples,
  )
  return evaluating.evaluate(
    policy.session,
    policy.params,
    questions,
    policy.ledger,
    seed=_seed(policy.session.config, seed),
  ).results


def read_runs(workdir: str | os.PathLike) -> Frames:
  """Reads a workdir's runs into pandas, finished or not.

  Args:
    workdir: of `run`, or of the command line.

  Raises:
    UserError: there is no run, a file is damaged, or pandas is not installed.
  """
  return read_frames(epath.Path(workdir).expanduser())


def _set_up() -> None:
  """Does what the command line does before it loads anything."""
  startup.quiet_libraries()
  keep_compiled_programs()


def _seed(config: ml_collections.ConfigDict, seed: int | None) -> int:
  return config.seeds[0] if seed is None else seed


def _policy(session: Session, params: dict, arm: str) -> Policy:
  is_base = params is session.base_params
  name = (
    session.policy if is_base else f"{arm}@{parameters.weight_hash(params)}"
  )
  return Policy(session, params, name, Ledger(session.model))
