"""The training loop of one arm and seed, top to bottom.

Draw problems, sample, judge, weigh, update; again. Every batch is of the policy
that is updated, though by choice in several updates. SFT steps, if the arm has
any, come first and use the same update.
"""

import functools
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from etils import epath
from jax.profiler import TraceAnnotation

from prefixrl_jax.checkpoints import Checkpointer, restore_params
from prefixrl_jax.distributed import cluster
from prefixrl_jax.distributed.compilation import CompilationCounter
from prefixrl_jax.evals.curve import Curve, curve_point
from prefixrl_jax.evals.markers import Marker, marker_of, marks_of
from prefixrl_jax.learner import sft
from prefixrl_jax.models import adapters
from prefixrl_jax.run.assembly import assemble
from prefixrl_jax.run.experience import Experience
from prefixrl_jax.run.profiling import Profile
from prefixrl_jax.run.rollout_log import RolloutLog
from prefixrl_jax.run.session import Session
from prefixrl_jax.storage import metrics as metrics_lib
from prefixrl_jax.storage.signals import Deferred
from prefixrl_jax.text.tokenizer import Tokenizer
from prefixrl_jax.types import (
  NonFiniteError,
  Preempted,
  SamplingUsage,
  TrainData,
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
  on_step: Callable[[int, dict[str, float]], None] = lambda *_: None,
) -> Trained:
  """Trains until the budget is spent, from the newest checkpoint if any.

  Args:
    session: shared by all runs.
    data: of this seed.
    directory: for checkpoints and metrics.
    arm: a key of config.arms.
    seed: seed for everything random in this run.
    on_step: called with (step, its metrics) after each step.

  Returns:
    The run's curve, and how many updates were left out.

  Raises:
    UserError: the budget is spent before the first step.
    Preempted: after SIGTERM, when the state is saved.
    NonFiniteError: at the first update that is not finite; it is not saved.
  """
  config, name = session.config, f"{arm} seed {seed}"
  marker = marker_of(config)
  budget = config.train.flops
  # Everything is compiled before the first step.
  made = assemble(session, data, arm=arm, seed=seed)
  ledger, num_sft_steps = made.ledger, made.num_sft_steps
  last_step = num_sft_steps + (config.train.max_steps or sys.maxsize)

  with (
    Deferred(signal.SIGTERM) as terminated,
    Checkpointer(
      directory / "checkpoints", keep=config.train.checkpoints_kept
    ) as checkpointer,
  ):
    # -- Where the run begins, or goes on --------------------------------------
    restored = checkpointer.restore_latest(
      lambda step: made.learner_at(step).abstract_state
    )
    if restored is None:
      step, draws, skipped, curve = 0, 0, 0, Curve(config, [])
      state = made.first_learner.init(made.first_params)
    else:
      step, state, host = restored
      ledger.set_entries(host["ledger"])
      made.schedule.restore(host.get("schedule", {}))
      made.updater.restore(host.get("updater", {}))
      skipped, curve = host.get("skipped", 0), Curve(config, host["curve"])
      draws = host.get("draws", max(step - num_sft_steps, 0))
    saved = step

    def save() -> None:
      nonlocal saved
      if step != saved:
        host = {
          "ledger": ledger.to_dict(),
          "curve": curve.points,
          "skipped": skipped,
          "schedule": made.schedule.state(),
          "draws": draws,
          "updater": made.updater.state(),
        }
        with TraceAnnotation("checkpoint"):
          # Before: no checkpoint is ahead of them.
          rollout_log.flush()
          log.flush()
          checkpointer.save(step, state, host)
        saved = step

    def evaluate() -> None:
      with TraceAnnotation("evaluation"):
        sampler = made.eval_sampler
        sampler.load(made.policy(state, step))
        curve.add(curve_point(session, sampler, data, ledger, step, seed))
      stop_if_terminated()

    def stop_if_terminated() -> None:
      if cluster.any_of("terminated", terminated.take()):  # all at this step
        save()
        terminated.take()  # it came here as well meanwhile
        raise Preempted(f"{name}: saved at step {step}")

    # -- The loop --------------------------------------------------------------
    with (
      CompilationCounter() as compilations,
      cluster.OnFirst(
        lambda: metrics_lib.StepLog(
          name, directory, budget=budget, resume_step=step, config=config
        )
      ) as log,
      cluster.OnFirst(
        lambda: RolloutLog(
          directory,
          config.train.rollouts_kept,
          session.tokenizer,
          arm=arm,
          seed=seed,
          resume_step=step,
        )
      ) as rollout_log,
      cluster.OnFirst(
        lambda: Profile(config.profile.steps, directory / "profile", name)
      ) as profile,
    ):
      while (spent := ledger.training_flops()) < budget and step < last_step:
        profile.begin(step + 1)
        is_rl = step >= num_sft_steps
        if is_rl and curve.is_due(spent):
          evaluate()
        try:
          if is_rl:
            if made.sampler:
              made.sampler.load(made.policy(state, step))
            experience = made.gatherer.gather(draws, num_sft_steps + draws)
            draws += experience.draws
            sampled = made.sampler.pop_usage() if made.sampler else None
            if sampled:
              ledger.add_sampling("sampling", sampled)
            with made.timers("update"):
              state, of_update = made.updater.step(
                state,
                experience.kept,
                functools.partial(
                  rollout_log.write, step + 1, experience.groups
                ),
              )
            metrics = _rl_metrics(
              of_update, experience, sampled, marker, session.tokenizer
            )
          else:
            trees = sft.batch(
              made.sft_examples, config.sft.batch_size, step, seed
            )
            with TraceAnnotation("SFT update"):
              state, of_update, usage = made.first_learner.step(state, trees)
            ledger.add_update("sft", usage)
            metrics = {"sft/loss": of_update["loss"]}
            if step + 1 == num_sft_steps:
              state = made.learner.init(state.params)
        except NonFiniteError as e:
          raise NonFiniteError(_why_stopped(name, step, saved, e)) from None
        step += 1
        skipped += int(of_update["is_skipped"])
        metrics |= made.timers.pop() | {
          "flops_paper": ledger.training_flops(),
          "flops_executed": ledger.training_flops("flops_executed"),
          "compilations": compilations.count,
          "skipped_updates": skipped,
        }
        log.write(step, metrics)
        on_step(step, metrics)
        if step - saved >= config.train.checkpoint_every:
          save()
        stop_if_terminated()
      save()
    evaluate()
    return Trained(curve.points, skipped)


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
  return adapters.policy_params(session.model, session.base_params, trained)


# -- What a step of RL learns from and measures --------------------------------


def _rl_metrics(
  of_update: dict[str, float],
  experience: Experience,
  sampled: SamplingUsage | None,
  marker: Marker | None,
  tokenizer: Tokenizer,
) -> dict[str, float]:
  """Returns a step's metrics, from its updates and its rollouts.

  Args:
    of_update: from `Updater.step`.
    experience: of the step.
    sampled: what it took; None if nothing was sampled.
    marker: of a strategy, if it has one.
    tokenizer: of the policy.
  """
  groups = experience.groups
  metrics = dict(of_update)
  metrics.pop("is_skipped")
  speed = {"update": metrics.pop("tokens_per_second", None)}
  metrics = {f"train/{k}": v for k, v in metrics.items()}
  if sampled:
    verdicts = [v for g in groups for v in g.verdicts]
    completions = [g.completions for g in groups]
    metrics |= metrics_lib.group_metrics(
      np.array([g.is_prefixed for g in groups]),
      np.stack([g.rewards for g in groups]),
      completions,
      marks_of(marker, tokenizer, completions) if marker else None,
    )
    metrics |= {
      "train/judge_timeouts": sum(v.timed_out for v in verdicts),
      "train/judge_deaths": sum(v.died for v in verdicts),
    }
    speed["rollout"] = sampled.output_tokens / sampled.seconds
  if len(groups) > len(experience.kept):
    metrics["train/groups_left_out"] = len(groups) - len(experience.kept)
  return metrics | {
    f"tokens_per_second/{what}": x for what, x in speed.items() if x is not None
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
