"""What a run is made of, assembled and compiled before its first step."""

import dataclasses
from collections.abc import Sequence

from jax.profiler import TraceAnnotation

from prefixrl_jax.batches import TrainState
from prefixrl_jax.learner import sft
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.learner.packing import Tree
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.models import adapters
from prefixrl_jax.prefixes.schedules import Schedule
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run import setup, sizes
from prefixrl_jax.run.experience import Gatherer
from prefixrl_jax.run.questions import Questions
from prefixrl_jax.run.rollout import encode
from prefixrl_jax.run.session import Session
from prefixrl_jax.run.updates import Updater
from prefixrl_jax.settings import arms
from prefixrl_jax.storage.metrics import Timers, busy
from prefixrl_jax.types import TrainData


@dataclasses.dataclass(frozen=True)
class Assembly:
  """What a run is made of.

  Attributes:
    session: of the run.
    ledger: with what the run has cost before its first step.
    timers: of a step's parts.
    schedule: which problems a step of RL draws.
    sampler: of training; None if the arm samples nothing.
    eval_sampler: of the curve.
    gatherer: makes a step's experience.
    updater: updates a state by it.
    learner: of RL.
    first_learner: of SFT, if it comes first.
    first_params: what is trained, before any step.
    sft_examples: the traces.
    num_sft_steps: how many steps of SFT come first.
  """

  session: Session
  ledger: Ledger
  timers: Timers
  schedule: Schedule
  sampler: Sampler | None
  eval_sampler: Sampler
  gatherer: Gatherer
  updater: Updater
  learner: Learner
  first_learner: Learner
  first_params: dict
  sft_examples: Sequence[Tree]
  num_sft_steps: int

  def learner_at(self, step: int) -> Learner:
    """Returns the learner whose state there is after that many steps."""
    return self.first_learner if step < self.num_sft_steps else self.learner

  def policy(self, state: TrainState, step: int) -> dict:
    """Returns a state's policy, as samplers take it.

    Args:
      state: after that many steps.
      step: how many.
    """
    return adapters.policy_params(
      self.session.model,
      self.session.base_params,
      self.learner_at(step).policy(state),
    )


def assemble(
  session: Session, data: TrainData, *, arm: str, seed: int
) -> Assembly:
  """Returns a run's parts, all compiled.

  Args:
    session: of the run.
    data: of the run.
    arm: a key of config.arms.
    seed: seed for everything random in this run.

  Raises:
    UserError: the budget is spent before the first step, or the arm needs what
      the data does not have.
  """
  config = session.config
  settings = config.arms[arm]
  how = arms.learner_of(config, settings)
  ledger = setup.opening_ledger(session, data, settings)
  schedule = setup.schedule_of(config, data, settings, seed)
  easy = data.easy if settings.easy_share else ()
  problems = {p.id: p for p in (*data.train, *data.heldout, *easy)}
  prompts = dict(zip(problems, encode(session, [*problems.values()])))
  examples = [sft.example(prompts[t.problem_id], t.tokens) for t in data.traces]
  num_sft_steps = sft.num_steps(
    len(examples), config.sft.batch_size, settings.sft_epochs
  )
  questions = Questions(session, data, settings, prompts)
  parts = setup.make_parts(
    session,
    settings,
    sizes.measured(
      prompts.values(),
      questions.longest_trunk(schedule),
      schedule,
      examples,
      num_sft_steps,
    ),
    seed,
  )
  timers = Timers(TraceAnnotation)
  made = Assembly(
    session=session,
    ledger=ledger,
    timers=timers,
    schedule=schedule,
    sampler=parts.sampler,
    eval_sampler=parts.eval_sampler,
    gatherer=Gatherer(
      session,
      parts.sampler,
      schedule,
      questions,
      setup.traces_to_learn(session, data, settings, examples, ledger),
      how,
      num_samples=arms.num_samples(config, settings),
      num_traces=settings.trace_lanes,
      seed=seed,
      timers=timers,
    ),
    updater=Updater(
      parts.learner,
      parts.scorer,
      how,
      pass_rates=data.pass_rates,
      ledger=ledger,
    ),
    learner=parts.learner,
    first_learner=parts.first_learner,
    first_params=parts.first_params,
    sft_examples=examples,
    num_sft_steps=num_sft_steps,
  )
  with busy(f"{arm} seed {seed}  compiling …"):
    setup.compile_all(session, parts)
  return made
