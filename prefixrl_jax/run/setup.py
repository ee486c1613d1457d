"""What a run is made of: its ledger, schedule, samplers and learners."""

from collections.abc import Iterable, Sequence

import ml_collections
import numpy as np

from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.optimizer import make_optimizer
from prefixrl_jax.learner.packing import Tree, layout_for
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.prefixes.schedules import Schedule, make_schedule
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run.session import Session
from prefixrl_jax.settings import arms
from prefixrl_jax.types import TrainData, UserError


def opening_ledger(
  session: Session, data: TrainData, arm: ml_collections.ConfigDict
) -> Ledger:
  """Returns the ledger a run starts with: its traces' cost, if it uses them.

  Args:
    session: of the run.
    data: of the run.
    arm: an entry of config.arms.

  Raises:
    UserError: they have cost the whole budget.
  """
  ledger, budget = Ledger(session.model), session.config.train.flops
  if arms.uses_traces(arm):
    ledger.add_entries(data.ledger)
  if ledger.training_flops() >= budget:
    raise UserError(
      f"config.train.flops = {budget:.3g} is already spent on collection"
      f" ({ledger.training_flops():.3g}); raise it or collect less."
    )
  return ledger


def schedule_of(
  config: ml_collections.ConfigDict,
  data: TrainData,
  arm: ml_collections.ConfigDict,
  seed: int,
) -> Schedule:
  """Returns the arm's schedule.

  Args:
    config: the whole config.
    data: of the run.
    arm: an entry of config.arms.
    seed: seed for the schedule's draws.
  """
  return make_schedule(
    problems=data.train,
    prefixed=data.prefixed,
    prompts_per_step=config.train.prompts_per_step,
    prefixed_share=arm.prefixed_share,
    cuts_together=config.train.cuts_together,
    seed=seed,
    **arm.schedule,
  )


def samplers(
  session: Session, prompts: Iterable[np.ndarray], schedule: Schedule
) -> tuple[Sampler, Sampler]:
  """Returns the sampler for training, and that for the curve.

  Args:
    session: of the run.
    prompts: int32 [prompt length] each, which must fit.
    schedule: whose prefixes must fit after them in training.
  """
  c = session.config
  longest = max(map(len, prompts))
  return (
    session.sampler(
      rows=c.train.rows or c.train.prompts_per_step,
      lanes=c.train.completions_per_prompt,
      trunk_length=longest + schedule.longest_prefix(),
      temperature=c.rollouts.temperature,
    ),
    session.sampler(
      rows=c.evals.rows,
      lanes=c.evals.lanes,
      trunk_length=longest,
      temperature=c.evals.curve_temperature,
    ),
  )


def rl_learner(
  session: Session,
  arm: ml_collections.ConfigDict,
  schedule: Schedule,
  *,
  longest_trunk: int,
) -> Learner:
  """Returns the learner of an arm's own loss.

  Args:
    session: of the run.
    arm: an entry of config.arms.
    schedule: says how many trees of each kind a step has.
    longest_trunk: in tokens.
  """
  c, learner = session.config, session.config.learner
  return Learner(
    session.model,
    session.mesh,
    layout_for(
      longest_trunk=longest_trunk,
      longest_completion=c.rollouts.max_completion_length,
      num_lanes=c.train.completions_per_prompt,
      num_trees=(schedule.num_prefixed, schedule.num_originals),
      row_length=learner.row_length,
      rows_per_microbatch=session.rows_per_microbatch,
    ),
    make_optimizer(
      learning_rate=arm.learning_rate,
      warmup_steps=learner.warmup_steps,
      decay_steps=learner.decay_steps,
      **learner.optimizer,
    ),
    make_loss(
      kl_coefficient=learner.kl_coefficient,
      kl_estimator=learner.kl_estimator,
      **arm.loss,
    ),
    base_params=session.base_params,
    temperature=c.rollouts.temperature,
    chunk_length=learner.logits_chunk_length,
    mixed=schedule.num_prefixed > 0 and schedule.num_originals > 0,
    skip_nonfinite=learner.skip_nonfinite,
  )


def sft_learner(
  session: Session, examples: Sequence[Tree], num_steps: int
) -> Learner:
  """Returns the learner of maximum likelihood.

  Its temperature is 1, whatever that of sampling.

  Args:
    session: of the run.
    examples: all that there are, at least one.
    num_steps: over which the learning rate decays.
  """
  c, learner = session.config, session.config.learner
  return Learner(
    session.model,
    session.mesh,
    layout_for(
      longest_trunk=max(len(t.trunk) for t in examples),
      longest_completion=max(len(t.lanes[0].tokens) for t in examples),
      num_lanes=1,
      num_trees=(0, c.sft.batch_size),
      row_length=learner.row_length,
      rows_per_microbatch=session.rows_per_microbatch,
    ),
    make_optimizer(
      learning_rate=c.sft.learning_rate,
      warmup_steps=0,
      decay_steps=num_steps,
      **learner.optimizer,
    ),
    make_loss("policy_gradient"),
    base_params=session.base_params,
    temperature=1.0,
    chunk_length=learner.logits_chunk_length,
    skip_nonfinite=learner.skip_nonfinite,
  )


def compile_all(
  learners: Sequence[Learner], samplers: Sequence[Sampler], params: dict
) -> None:
  """Compiles every program of a run; samplers are left without arrays.

  Args:
    learners: those that the run steps.
    samplers: those that the run samples with.
    params: a policy's, as samplers take it.
  """
  for learner in learners:
    learner.compile()
  for sampler in samplers:
    sampler.warm_up(params)
    sampler.release()
