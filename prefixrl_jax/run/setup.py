"""What a run is made of: its ledger, schedule, samplers and learners."""

import dataclasses
from collections.abc import Iterable, Sequence

import ml_collections
import numpy as np

from prefixrl_jax.learner.critic import Critic, by_part, make_critic
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.optimizer import make_optimizer
from prefixrl_jax.learner.packing import Layout, Tree, layout_for
from prefixrl_jax.learner.scoring import Scorer
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.prefixes.schedules import Schedule, make_schedule
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.rounding import ceil_div
from prefixrl_jax.run.credit import scores_needed
from prefixrl_jax.run.session import Session
from prefixrl_jax.settings import arms
from prefixrl_jax.types import Trace, TrainData, UserError


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

  Raises:
    UserError: the arm mixes in easy problems, and there are none.

  Args:
    config: the whole config.
    data: of the run.
    arm: an entry of config.arms.
    seed: seed for the schedule's draws.
  """
  if arm.easy_share and not data.easy:
    raise UserError(
      "an arm has an easy_share, but screening found no training problem that"
      " is not hard; set easy_share = 0, bring easier problems, or, for an"
      " embedded task, raise config.problems.num_easy_train."
    )
  return make_schedule(
    problems=data.train,
    prefixed=data.prefixed,
    prompts_per_step=config.train.prompts_per_step,
    prefixed_share=arm.prefixed_share,
    easy=data.easy,
    easy_share=arm.easy_share,
    cuts_together=config.train.cuts_together,
    seed=seed,
    **arm.schedule,
  )


def samplers(
  session: Session,
  arm: ml_collections.ConfigDict,
  prompts: Iterable[np.ndarray],
  longest_trunk: int,
) -> tuple[Sampler | None, Sampler]:
  """Returns the sampler for training, if the arm samples, and the curve's.

  Args:
    session: of the run.
    arm: a row of config.arms.
    prompts: int32 [prompt length] each, of the curve's problems.
    longest_trunk: that is sampled from in training, in tokens.
  """
  c = session.config
  num_samples = arms.num_samples(c, arm)
  of_training = None
  if num_samples:
    of_training = session.sampler(
      rows=c.train.rows or c.train.prompts_per_step,
      lanes=num_samples,
      trunk_length=longest_trunk,
      temperature=c.rollouts.temperature,
    )
  return of_training, session.sampler(
    rows=c.evals.rows,
    lanes=c.evals.lanes,
    trunk_length=max(map(len, prompts)),
    temperature=c.evals.curve_temperature,
  )


def rl_learner(
  session: Session,
  arm: ml_collections.ConfigDict,
  schedule: Schedule,
  longest_trunk: int,
) -> Learner:
  """Returns the learner of an arm's own loss.

  Args:
    session: of the run.
    arm: a row of config.arms.
    schedule: says how many trees of each kind a step has.
    longest_trunk: in tokens.
  """
  c, learner = session.config, arms.learner_of(session.config, arm)
  critic = _critic(learner)
  optimizer = make_optimizer(
    learning_rate=arm.learning_rate,
    warmup_steps=learner.warmup_steps,
    decay_steps=learner.decay_steps,
    wait_steps=learner.critic.first_steps,
    **learner.optimizer,
  )
  if critic:
    of_critic = make_optimizer(
      learning_rate=learner.critic.learning_rate or arm.learning_rate,
      warmup_steps=learner.warmup_steps,
      decay_steps=learner.decay_steps,
      **learner.optimizer,
    )
    optimizer = by_part(optimizer, of_critic)
  kl_in_loss = learner.kl_in == "loss"
  return Learner(
    session.model,
    session.mesh,
    _rl_layout(
      session,
      arm,
      schedule,
      longest_trunk,
      num_parts=learner.num_minibatches,
    ),
    optimizer,
    make_loss(
      kl_coefficient=learner.kl_coefficient * kl_in_loss,
      kl_estimator=learner.kl_estimator,
      adapts_kl=learner.kl_target > 0,
      entropy_coefficient=learner.entropy_coefficient,
      normalization=learner.normalization,
      trace_mean=learner.trace_mean,
      **arm.loss,
    ),
    base_params=session.base_params,
    temperature=c.rollouts.temperature,
    chunk_length=learner.logits_chunk_length,
    completion_length=c.rollouts.max_completion_length,
    critic=critic,
    mixed=schedule.num_prefixed > 0 and schedule.num_originals > 0,
    norms_by_kind=learner.norms_by_kind,
    skip_nonfinite=learner.skip_nonfinite,
    hold_without_signal=learner.hold_without_signal,
  )


def scorer(
  session: Session,
  arm: ml_collections.ConfigDict,
  schedule: Schedule,
  longest_trunk: int,
) -> Scorer | None:
  """Returns what scores an arm's rollouts before its updates, if it needs it.

  Args:
    session, arm, schedule, longest_trunk: see `rl_learner`.
  """
  learner = arms.learner_of(session.config, arm)
  wants = scores_needed(learner)
  if not wants:
    return None
  return Scorer(
    session.model,
    session.mesh,
    _rl_layout(session, arm, schedule, longest_trunk, num_parts=1),
    wants,
    base_params=session.base_params,
    temperature=session.config.rollouts.temperature,
    chunk_length=learner.logits_chunk_length,
    critic=_critic(learner),
  )


def _critic(learner: ml_collections.ConfigDict) -> Critic | None:
  return make_critic(learner.critic.kind, learner.critic.trunk_gradient)


def _rl_layout(
  session: Session,
  arm: ml_collections.ConfigDict,
  schedule: Schedule,
  longest_trunk: int,
  *,
  num_parts: int,
) -> Layout:
  """Returns a layout that one of so many parts of a step's trees fits into."""
  c = session.config
  return layout_for(
    longest_trunk=longest_trunk,
    longest_completion=c.rollouts.max_completion_length,
    num_lanes=arms.group_size(c, arm),
    num_trees=(
      ceil_div(schedule.num_prefixed, num_parts),
      ceil_div(schedule.num_originals, num_parts),
    ),
    row_length=c.learner.row_length,
    rows_per_microbatch=session.rows_per_microbatch,
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
    _layout_of_examples(session, examples),
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


def _layout_of_examples(session: Session, examples: Sequence[Tree]) -> Layout:
  """Returns a layout that a batch of SFT fits into, from these examples."""
  c = session.config
  return layout_for(
    longest_trunk=max(len(t.trunk) for t in examples),
    longest_completion=max(len(t.lanes[0].tokens) for t in examples),
    num_lanes=1,
    num_trees=(0, c.sft.batch_size),
    row_length=c.learner.row_length,
    rows_per_microbatch=session.rows_per_microbatch,
  )


def traces_to_learn(
  session: Session,
  data: TrainData,
  arm: ml_collections.ConfigDict,
  examples: Sequence[Tree],
  ledger: Ledger,
) -> Sequence[Trace]:
  """Returns the traces, with log-probabilities of their author if needed.

  Of an author who is not known they are the base policy's, and charged.

  Args:
    session: of the run.
    data: of the run.
    arm: a row of config.arms.
    examples: the traces as `sft.example` has them.
    ledger: of the run.
  """
  unknown = [i for i, t in enumerate(data.traces) if t.logprobs is None]
  if not arms.weighs_traces(arm) or not unknown:
    return data.traces
  c, size = session.config, session.config.sft.batch_size
  scorer = Scorer(
    session.model,
    session.mesh,
    _layout_of_examples(session, [examples[i] for i in unknown]),
    ["reference"],
    base_params=session.base_params,
    temperature=c.rollouts.temperature,
    chunk_length=c.learner.logits_chunk_length,
  )
  traces = list(data.traces)
  for start in range(0, len(unknown), size):
    some = unknown[start : start + size]
    scores, usage = scorer.score({}, [examples[i] for i in some])
    ledger.add_scoring(usage)
    for i in some:
      [lane] = examples[i].lanes
      traces[i] = dataclasses.replace(
        traces[i], logprobs=scores["reference"][id(lane)]
      )
  return traces


def compile_all(
  learners: Sequence[Learner],
  scorer: Scorer | None,
  samplers: Sequence[Sampler | None],
  params: dict,
) -> None:
  """Compiles every program of a run; samplers are left without arrays.

  Args:
    learners: those that the run steps, that of RL first.
    scorer: of what RL's learner trains, if it needs one.
    samplers: those that the run samples with; None is left out.
    params: a policy's, as samplers take it.
  """
  for learner in learners:
    learner.compile()
  if scorer:
    scorer.compile(learners[0].abstract_state.params)
  for sampler in filter(None, samplers):
    sampler.warm_up(params)
    sampler.release()
