"""What a run is made of: its ledger, schedule, samplers and learners."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections

from prefixrl_jax.distributed import ahead
from prefixrl_jax.learner.critic import Critic, by_part, make_critic
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.optimizer import make_optimizer
from prefixrl_jax.learner.packing import Layout, Tree, layout_for
from prefixrl_jax.learner.scoring import Scorer
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.models import adapters
from prefixrl_jax.prefixes.schedules import Schedule, make_schedule
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.rounding import ceil_div
from prefixrl_jax.run.credit import scores_needed
from prefixrl_jax.run.session import Engine, Session
from prefixrl_jax.run.sizes import Sizes, longest_example
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


class Parts(NamedTuple):
  """What has a run's programs.

  Attributes:
    sampler: of training; None if the arm samples nothing.
    eval_sampler: of the curve.
    learner: of RL.
    scorer: of what RL's learner trains; None if no score is needed.
    first_learner: of SFT, if it comes first; else that of RL.
    first_params: what is trained, before any step.
  """

  sampler: Sampler | None
  eval_sampler: Sampler
  learner: Learner
  scorer: Scorer | None
  first_learner: Learner
  first_params: dict


def make_parts(
  engine: Engine, arm: ml_collections.ConfigDict, sizes: Sizes, seed: int
) -> Parts:
  """Returns what has the programs of a run; compiles nothing yet.

  Args:
    engine: of the run.
    arm: a row of config.arms.
    sizes: of its data.
    seed: seed for what is drawn to be trained.
  """
  sampler, eval_sampler = _samplers(engine, arm, sizes)
  learner = _rl_learner(engine, arm, sizes)
  return Parts(
    sampler=sampler,
    eval_sampler=eval_sampler,
    learner=learner,
    scorer=_scorer(engine, arm, sizes),
    first_learner=_sft_learner(engine, sizes) if sizes.sft_steps else learner,
    first_params=adapters.init(
      engine.model, engine.base_params, engine.mesh, seed
    ),
  )


def _samplers(
  engine: Engine, arm: ml_collections.ConfigDict, sizes: Sizes
) -> tuple[Sampler | None, Sampler]:
  """Returns the sampler for training, if the arm samples, and the curve's."""
  c = engine.config
  num_samples = arms.num_samples(c, arm)
  of_training = None
  if num_samples:
    of_training = engine.sampler(
      rows=c.train.rows or c.train.prompts_per_step,
      lanes=num_samples,
      trunk_length=sizes.trunk,
      temperature=c.rollouts.temperature,
    )
  return of_training, engine.sampler(
    rows=c.evals.rows,
    lanes=c.evals.lanes,
    trunk_length=sizes.prompt,
    temperature=c.evals.curve_temperature,
  )


def _rl_learner(
  engine: Engine, arm: ml_collections.ConfigDict, sizes: Sizes
) -> Learner:
  """Returns the learner of an arm's own loss."""
  c, learner = engine.config, arms.learner_of(engine.config, arm)
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
    engine.model,
    engine.mesh,
    _rl_layout(engine, arm, sizes, num_parts=learner.num_minibatches),
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
    base_params=engine.base_params,
    temperature=c.rollouts.temperature,
    chunk_length=learner.logits_chunk_length,
    completion_length=c.rollouts.max_completion_length,
    critic=critic,
    mixed=sizes.prefixed > 0 and sizes.originals > 0,
    norms_by_kind=learner.norms_by_kind,
    skip_nonfinite=learner.skip_nonfinite,
    hold_without_signal=learner.hold_without_signal,
  )


def _scorer(
  engine: Engine, arm: ml_collections.ConfigDict, sizes: Sizes
) -> Scorer | None:
  """Returns what scores an arm's rollouts before its updates, if need be."""
  learner = arms.learner_of(engine.config, arm)
  wants = scores_needed(learner)
  if not wants:
    return None
  return Scorer(
    engine.model,
    engine.mesh,
    _rl_layout(engine, arm, sizes, num_parts=1),
    wants,
    base_params=engine.base_params,
    temperature=engine.config.rollouts.temperature,
    chunk_length=learner.logits_chunk_length,
    critic=_critic(learner),
  )


def _critic(learner: ml_collections.ConfigDict) -> Critic | None:
  return make_critic(learner.critic.kind, learner.critic.trunk_gradient)


def _rl_layout(
  engine: Engine,
  arm: ml_collections.ConfigDict,
  sizes: Sizes,
  *,
  num_parts: int,
) -> Layout:
  """Returns a layout that each of a number of parts of a step fits into."""
  c = engine.config
  return layout_for(
    longest_trunk=sizes.trunk,
    longest_completion=c.rollouts.max_completion_length,
    num_lanes=arms.group_size(c, arm),
    num_trees=(
      ceil_div(sizes.prefixed, num_parts),
      ceil_div(sizes.originals, num_parts),
    ),
    row_length=c.learner.row_length,
    rows_per_microbatch=engine.rows_per_microbatch,
  )


def _sft_learner(engine: Engine, sizes: Sizes) -> Learner:
  """Returns the learner of maximum likelihood.

  Its temperature is 1, whatever that of sampling.
  """
  c, learner = engine.config, engine.config.learner
  return Learner(
    engine.model,
    engine.mesh,
    _layout_of_examples(engine, sizes.example),
    make_optimizer(
      learning_rate=c.sft.learning_rate,
      warmup_steps=0,
      decay_steps=sizes.sft_steps,
      **learner.optimizer,
    ),
    make_loss("policy_gradient"),
    base_params=engine.base_params,
    temperature=1.0,
    chunk_length=learner.logits_chunk_length,
    skip_nonfinite=learner.skip_nonfinite,
  )


def _layout_of_examples(engine: Engine, longest: tuple[int, int]) -> Layout:
  """Returns a layout that a batch of SFT fits into.

  Args:
    engine: of the run.
    longest: the longest prompt and the longest trace of all, in tokens.
  """
  c = engine.config
  return layout_for(
    longest_trunk=longest[0],
    longest_completion=longest[1],
    num_lanes=1,
    num_trees=(0, c.sft.batch_size),
    row_length=c.learner.row_length,
    rows_per_microbatch=engine.rows_per_microbatch,
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
  size = session.config.sft.batch_size
  scorer = trace_scorer(
    session, longest_example([examples[i] for i in unknown])
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


def trace_scorer(engine: Engine, longest: tuple[int, int]) -> Scorer:
  """Returns what scores traces with the base policy.

  Args:
    engine: of the run.
    longest: the longest prompt and the longest trace, in tokens.
  """
  return Scorer(
    engine.model,
    engine.mesh,
    _layout_of_examples(engine, longest),
    ["reference"],
    base_params=engine.base_params,
    temperature=engine.config.rollouts.temperature,
    chunk_length=engine.config.learner.logits_chunk_length,
  )


def compile_all(engine: Engine, parts: Parts) -> None:
  """Compiles every program of a run; samplers are left without arrays.

  Args:
    engine: of the run.
    parts: from `make_parts`.
  """
  with ahead.part("RL", parts.learner):
    parts.learner.compile()
  if parts.first_learner is not parts.learner:
    with ahead.part("SFT", parts.first_learner):
      parts.first_learner.compile()
  if parts.scorer:
    with ahead.part("scoring", parts.scorer):
      parts.scorer.compile(parts.learner.abstract_state.params)
  policy = adapters.policy_params(
    engine.model, engine.base_params, parts.first_params
  )
  samplers = {"rollouts": parts.sampler, "curve": parts.eval_sampler}
  for name, sampler in samplers.items():
    if sampler:
      with ahead.part(name, sampler):
        sampler.warm_up(policy)
        sampler.release()
