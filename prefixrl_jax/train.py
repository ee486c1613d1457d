"""The training loop of one arm and seed, top to bottom.

Strictly on-policy: draw problems, sample, judge, weigh, update; again. SFT
steps, if the arm has any, come first and use the same update.
"""

import functools
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from prefixrl_jax import arms
from prefixrl_jax import metrics as metrics_lib
from prefixrl_jax.checkpoints import Checkpointer, restore_params
from prefixrl_jax.evals.evaluate import mean_accuracy, without_prefix
from prefixrl_jax.learner import sft
from prefixrl_jax.learner.advantages import advantages, discounted
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.optimizer import make_optimizer
from prefixrl_jax.learner.packing import Lane, Tree, layout_for
from prefixrl_jax.ledger import Ledger, training_flops
from prefixrl_jax.models import adapters
from prefixrl_jax.prefixes.schedules import Schedule, make_schedule
from prefixrl_jax.rollout import Group, rollout
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.session import Session
from prefixrl_jax.signals import Deferred
from prefixrl_jax.types import (
  NonFiniteError,
  Preempted,
  TrainData,
  UserError,
)


class Trained(NamedTuple):
  """What came of a run.

  Attributes:
    curve: points of step, ledger so far, accuracy by split.
    skipped: updates that were not finite and left out.
  """

  curve: list[dict]
  skipped: int


def train(
  session: Session,
  data: TrainData,
  directory: epath.Path,
  *,
  arm: str,
  seed: int,
) -> Trained:
  """Trains until the budget is spent, from the newest checkpoint if any.

  Args:
    session: shared by all runs.
    data: of this seed.
    directory: for checkpoints and metrics.
    arm: a key of config.arms.
    seed: seed for everything random in this run.

  Raises:
    UserError: the budget is spent before the first step.
    Preempted: after SIGTERM, when the state is saved.
    NonFiniteError: at the first update that is not finite; it is not saved.
  """
  config, name = session.config, f"{arm} seed {seed}"
  model, settings = session.model, config.arms[arm]
  policy = functools.partial(adapters.policy, model, session.base_params)

  # -- What the arm starts with ------------------------------------------------
  schedule = make_schedule(
    problems=data.train,
    prefixed=data.prefixed,
    prompts_per_step=config.train.prompts_per_step,
    prefixed_share=settings.prefixed_share,
    cuts_together=config.train.cuts_together,
    seed=seed,
    **settings.schedule,
  )
  problems = {p.id: p for p in data.train}
  examples = _sft_examples(session, data) if settings.sft_epochs else []
  num_sft_steps = sft.num_steps(
    len(examples), epochs=settings.sft_epochs, batch_size=config.sft.batch_size
  )
  last_step = num_sft_steps + (config.train.max_steps or sys.maxsize)
  ledger, budget = Ledger(model), config.train.flops
  if arms.uses_traces(settings):
    ledger.add_entries(data.ledger)
  if ledger.training_flops() >= budget:
    raise UserError(
      f"config.train.flops = {budget:.3g} is already spent on collection"
      f" ({ledger.training_flops():.3g}); raise it or collect less."
    )

  # -- Everything that is compiled, before the first step ----------------------
  first_params = adapters.start(model, session.base_params, session.mesh, seed)
  sampler, eval_sampler = _samplers(session, data, schedule)
  learner = _rl_learner(session, settings, sampler.trunk_length, schedule)
  sft_learner = _sft_learner(session, examples, num_sft_steps)
  with metrics_lib.busy(f"{name}  compiling …"):
    learner.compile()
    if num_sft_steps:
      sft_learner.compile()
    for each in (sampler, eval_sampler):
      each.warm_up(policy(first_params))
      each.release()

  with (
    Deferred(signal.SIGTERM) as terminated,
    Checkpointer(
      directory / "checkpoints", keep=config.train.checkpoints_kept
    ) as checkpointer,
  ):
    # -- Where the run begins, or goes on --------------------------------------
    restored = checkpointer.restore_latest(learner.abstract_state)
    if restored is None:
      step, skipped, curve = 0, 0, Curve(config, [])
      state = (sft_learner if num_sft_steps else learner).init(first_params)
    else:
      step, state, host = restored
      ledger.set_entries(host["ledger"])
      schedule.restore(host.get("schedule", {}))
      skipped, curve = host.get("skipped", 0), Curve(config, host["curve"])
    saved = step

    def save() -> None:
      nonlocal saved
      if step != saved:
        host = {
          "ledger": ledger.to_dict(),
          "curve": curve.points,
          "skipped": skipped,
          "schedule": schedule.state(),
        }
        checkpointer.save(step, state, host)
        saved = step

    def evaluate() -> None:
      eval_sampler.load(policy(state.params))
      curve.add(curve_point(session, eval_sampler, data, ledger, step, seed))
      stop_if_terminated()

    def stop_if_terminated() -> None:
      if terminated.take():
        save()
        raise Preempted(f"{name}: saved at step {step}")

    # -- The loop --------------------------------------------------------------
    timers = metrics_lib.Timers()
    with (
      metrics_lib.CompilationCounter() as compilations,
      metrics_lib.Progress(name, total=budget, waits_for="") as progress,
      metrics_lib.MetricWriter(
        directory,
        wandb_project=config.wandb_project or None,
        resume_step=step,
      ) as writer,
    ):
      while (spent := ledger.training_flops()) < budget and step < last_step:
        is_rl = step >= num_sft_steps
        if is_rl and curve.is_due(spent):
          evaluate()
        try:
          if is_rl:
            drawn = schedule.draw(step - num_sft_steps)
            sampler.load(policy(state.params))
            groups = rollout(
              session,
              sampler,
              [problems[p.problem_id] for p in drawn],
              [p.prefix for p in drawn],
              config.train.completions_per_prompt,
              # A problem may be drawn with several prefixes in one step.
              steps=[step * len(drawn) + i for i in range(len(drawn))],
              purpose="sampling",
              seed=seed,
              timers=timers,
            )
            schedule.observe(drawn, np.stack([g.rewards for g in groups]))
            sampling = sampler.pop_usage()
            ledger.add_sampling("sampling", sampling)
            with timers("update"):
              trees = _trees(groups, config.learner)
              state, metrics, usage = learner.step(state, trees)
            ledger.add_update("update", usage)
            skipped += metrics.pop("is_skipped")
            metrics = {f"train/{k}": v for k, v in metrics.items()}
            metrics |= _rollout_metrics(groups)
            metrics |= {
              "tokens_per_second/rollout": sampling.output_tokens
              / sampling.seconds,
              "tokens_per_second/update": usage.tokens / usage.seconds,
            }
          else:
            batch = sft.batch(
              examples, step, batch_size=config.sft.batch_size, seed=seed
            )
            state, metrics, usage = sft_learner.step(state, batch)
            ledger.add_update("sft", usage)
            skipped += metrics.pop("is_skipped")
            metrics = {"sft/loss": metrics["loss"]}
            if step + 1 == num_sft_steps:
              state = learner.init(state.params)
        except NonFiniteError as e:
          raise NonFiniteError(_why_stopped(name, step, saved, e)) from None
        step += 1
        metrics |= timers.pop() | {
          "flops_paper": ledger.training_flops(),
          "flops_executed": ledger.training_flops("flops_executed"),
          "compilations": compilations.count,
          "skipped_updates": skipped,
        }
        writer.write(step, metrics)
        shown = metrics_lib.shown(metrics)
        if step % config.train.log_every == 0:
          figures = "  ".join(f"{k} {v}" for k, v in shown.items())
          progress.log(f"{name}  step {step}  {figures}")
        progress.update(ledger.training_flops(), **shown)
        if step - saved >= config.train.checkpoint_every:
          save()
        stop_if_terminated()
      save()
    evaluate()
    return Trained(curve.points, skipped)


class Curve:
  """Evaluations during training, on a grid of FLOPs shared by all arms."""

  def __init__(self, config, points: list[dict]):
    """Goes on from the points there are.

    Args:
      config: the whole config; its budget is divided into curve_points.
      points: evaluated before.
    """
    self.points = points
    self._spacing = config.train.flops / config.evals.curve_points

  def is_due(self, spent: float) -> bool:
    """Whether the next point is due when so many FLOPs are spent."""
    if not self.points:
      return True
    last = training_flops(self.points[-1]["ledger"])
    return spent >= (last // self._spacing + 1) * self._spacing

  def add(self, point: dict) -> None:
    """Adds a point, from `curve_point`."""
    self.points.append(point)


def curve_point(
  session: Session,
  sampler: Sampler,
  data: TrainData,
  ledger: Ledger,
  step: int,
  seed: int,
) -> dict:
  """Evaluates without prefix; returns step, ledger, accuracy by split.

  Args:
    session: of the run.
    sampler: loaded with the policy.
    data: of the run.
    ledger: of the run; what evaluation costs is added.
    step: of the policy, part of the completions' keys.
    seed: of the run.
  """
  results = {}
  for split, problems in (("train", data.train), ("heldout", data.heldout)):
    if problems:
      results[split], _ = without_prefix(
        session,
        sampler,
        problems,
        num_samples=session.config.evals.curve_samples,
        step=step,
        purpose="evaluation",
        seed=seed,
      )
  results["heldout_hard"] = [
    r for r in results.get("heldout", ()) if r.problem_id in data.hard_heldout
  ]
  ledger.add_sampling("evaluation", sampler.pop_usage())
  return {
    "step": step,
    "ledger": ledger.to_dict(),
    "accuracy": {s: mean_accuracy(r) for s, r in results.items() if r},
  }


def trained_params(
  session: Session, directory: epath.Path, step: int | None = None, **how
) -> dict:
  """Returns a run's policy, as samplers take it.

  Args:
    session: of the run.
    directory: that `train` was given.
    step: of the checkpoint; that or none. None is the newest.
    **how: to `restore_params`.

  Raises:
    UserError: there is no such checkpoint, or it cannot be read.
  """
  _, trained = restore_params(
    directory / "checkpoints",
    adapters.abstract_trained(session.model, session.mesh),
    step,
    **how,
  )
  return adapters.policy(session.model, session.base_params, trained)


# -- Samplers and learners of a run --------------------------------------------


def _samplers(
  session: Session, data: TrainData, schedule: Schedule
) -> tuple[Sampler, Sampler]:
  """Returns what samples in training, and for the curve."""
  c = session.config
  prompts = session.tokenizer.encode_prompts(
    p.prompt for p in (*data.train, *data.heldout)
  )
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
      temperature=c.evals.temperature,
    ),
  )


def _rl_learner(
  session: Session, settings, longest_trunk: int, schedule: Schedule
) -> Learner:
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
      rows_per_micro=session.rows_per_micro,
    ),
    make_optimizer(
      learning_rate=settings.learning_rate,
      warmup_steps=learner.warmup_steps,
      decay_steps=learner.decay_steps,
      **learner.optimizer,
    ),
    make_loss(
      kl_coefficient=learner.kl_coefficient,
      kl_estimator=learner.kl_estimator,
      **settings.loss,
    ),
    base_params=session.base_params,
    temperature=c.rollouts.temperature,
    chunk_length=learner.logits_chunk_length,
    mixed=schedule.num_prefixed > 0 and schedule.num_originals > 0,
    skip_nonfinite=learner.skip_nonfinite,
  )


def _sft_learner(
  session: Session, examples: Sequence[Tree], num_steps: int
) -> Learner:
  """Returns one of maximum likelihood, at temperature 1 whatever is sampled."""
  c, learner = session.config, session.config.learner
  return Learner(
    session.model,
    session.mesh,
    layout_for(
      longest_trunk=max((len(t.trunk) for t in examples), default=1),
      longest_completion=max(
        (len(t.lanes[0].tokens) for t in examples), default=1
      ),
      num_lanes=1,
      num_trees=(0, c.sft.batch_size),
      row_length=learner.row_length,
      rows_per_micro=session.rows_per_micro,
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


# -- From rollouts to trees and metrics ----------------------------------------


def _sft_examples(session: Session, data: TrainData) -> list[Tree]:
  by_id = {p.id: p.prompt for p in data.train}
  prompts = session.tokenizer.encode_prompts(
    by_id[t.problem_id] for t in data.traces
  )
  return [
    sft.example(np.array(prompt, np.int32), trace.tokens)
    for prompt, trace in zip(prompts, data.traces)
  ]


def _trees(groups: Sequence[Group], learner) -> list[Tree]:
  """Returns what the update learns from, every completion a lane.

  Args:
    groups: of the step.
    learner: config.learner.
  """
  lengths = np.array([[len(c.tokens) for c in g.completions] for g in groups])
  rewards = np.stack([g.rewards for g in groups])
  weights = advantages(
    discounted(rewards, lengths, learner.discount), learner.advantage
  )
  return [
    Tree(
      group.trunk,
      [
        Lane(
          len(group.trunk),
          c.tokens,
          c.logprobs,
          np.full(len(c.tokens), weight),
        )
        for c, weight in zip(group.completions, of_group)
      ],
      is_prefixed=len(group.prefix) > 0,
    )
    for group, of_group in zip(groups, weights)
  ]


def _rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
  verdicts = [v for g in groups for v in g.verdicts]
  return metrics_lib.group_metrics(
    np.array([len(g.prefix) > 0 for g in groups]),
    np.stack([g.rewards for g in groups]),
    [g.completions for g in groups],
  ) | {
    "train/judge_timeouts": sum(v.timed_out for v in verdicts),
    "train/judge_deaths": sum(v.died for v in verdicts),
  }


def _why_stopped(name: str, step: int, saved: int, reason: Exception) -> str:
  kept = f"; checkpoint {saved} is" if saved else ""
  before = f" The state of step {step} was finite{kept}." if step else ""
  return (
    f"{name} stops at step {step + 1}, the first that is not finite:"
    f" {reason}{before} Lower the learning rate (config.arms, config.sft) or"
    " config.learner.optimizer.clip_norm, or leave such updates out:"
    " --config.learner.skip_nonfinite=True, which may be set now."
  )
