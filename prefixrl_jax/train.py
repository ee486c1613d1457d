"""The training loop of one arm and seed, top to bottom.

Strictly on-policy: draw problems, sample, judge, weigh, update; again. SFT
steps, if the arm has any, come first and use the same update.
"""

import dataclasses
import functools
import signal
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from prefixrl_jax import metrics as metrics_lib
from prefixrl_jax.batches import TrainState
from prefixrl_jax.checkpoints import Checkpointer, restore_params
from prefixrl_jax.compilation import CompilationCounter
from prefixrl_jax.distributed import sharding
from prefixrl_jax.evals.evaluate import mean_accuracy, without_prefix
from prefixrl_jax.learner import optimizer as optimizer_lib
from prefixrl_jax.learner import sft, update
from prefixrl_jax.learner.advantages import advantages, discounted
from prefixrl_jax.learner.packing import Lane, Tree, layout_for, pack
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.models import adapters
from prefixrl_jax.prefixes.mixture import Mixture
from prefixrl_jax.rewards.judging import judge
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.session import Session, round_up
from prefixrl_jax.signals import Deferred
from prefixrl_jax.types import (
  EvalResult,
  NonFiniteError,
  Preempted,
  PrefixedProblem,
  Problem,
  Trace,
  UserError,
)


@dataclasses.dataclass(frozen=True)
class TrainData:
  """What the stages before have made for one seed.

  Attributes:
    train: the hard problems that are trained on.
    heldout: problems that are not, hard or not.
    hard_heldout: ids of the hard ones among them.
    traces, prefixed: of the train problems.
    ledger: what the traces cost, {purpose: fields}.
  """

  train: Sequence[Problem]
  heldout: Sequence[Problem]
  hard_heldout: frozenset[str]
  traces: Sequence[Trace]
  prefixed: Sequence[PrefixedProblem]
  ledger: dict


class Trainer:
  """One arm, one seed."""

  def __init__(
    self,
    session: Session,
    data: TrainData,
    directory: epath.Path,
    *,
    arm: str,
    seed: int,
  ):
    """Sets up everything that is compiled or restored later.

    Args:
      session: shared by all runs.
      data: of this seed.
      directory: for checkpoints, metrics and the curve.
      arm: a key of config.arms.
      seed: of everything random in this run.
    """
    config = session.config
    self.session, self.data, self.directory = session, data, directory
    self.arm, self.seed = config.arms[arm], seed
    self.name = f"{arm} seed {seed}"
    self.problems = {p.id: p for p in (*data.train, *data.heldout)}
    texts = (p.prompt for p in self.problems.values())
    self.prompts = {
      i: np.array(ids, np.int32)
      for i, ids in zip(self.problems, session.tokenizer.encode_prompts(texts))
    }
    self.mixture = Mixture(
      data.train,
      data.prefixed,
      prompts_per_step=config.train.prompts_per_step,
      prefixed_share=self.arm.prefixed_share,
      cuts_together=config.train.cuts_together,
      seed=seed,
    )
    self.skipped = 0  # updates that were not finite
    self.ledger = Ledger(session.model)
    if self.uses_traces:
      self.ledger.add_entries(data.ledger)

    longest_prompt = max(map(len, self.prompts.values()))
    trunk_length = round_up(longest_prompt + self.mixture.longest_prefix(), 8)
    n = config.train.completions_per_prompt
    rows = dict(
      row_length=config.learner.row_length,
      rows_per_micro=session.rows_per_micro,
    )
    self.rl_layout = layout_for(
      longest_trunk=trunk_length,
      longest_completion=config.rollouts.max_completion_length,
      num_lanes=n,
      num_trees=(self.mixture.num_prefixed, self.mixture.num_originals),
      **rows,
    )
    self.rl_sampler = session.sampler(
      rows=config.train.rows or config.train.prompts_per_step,
      lanes=n,
      trunk_length=trunk_length,
      temperature=config.rollouts.temperature,
    )
    self.eval_sampler = session.sampler(
      rows=config.evals.rows,
      lanes=config.evals.lanes,
      trunk_length=longest_prompt,
      temperature=config.evals.temperature,
    )
    self.sft_layout = layout_for(
      longest_trunk=longest_prompt,
      longest_completion=max((len(t.tokens) for t in data.traces), default=1),
      num_lanes=1,
      num_trees=(0, config.sft.batch_size),
      **rows,
    )
    per_epoch = -(-len(data.traces) // config.sft.batch_size)
    self.num_sft_steps = self.arm.sft_epochs * per_epoch
    self.steps_per_sft_epoch = per_epoch

    make_optimizer = functools.partial(
      optimizer_lib.make_optimizer, **config.learner.optimizer
    )
    self.rl_optimizer = make_optimizer(
      learning_rate=self.arm.learning_rate,
      warmup_steps=config.learner.warmup_steps,
      decay_steps=config.learner.decay_steps,
    )
    self.sft_optimizer = make_optimizer(
      learning_rate=config.sft.learning_rate,
      warmup_steps=0,
      decay_steps=self.num_sft_steps,
    )

  @property
  def uses_traces(self) -> bool:
    """Whether the arm starts at the cost of collection."""
    return self.arm.prefixed_share > 0 or self.arm.sft_epochs > 0

  # -- compiled functions ----------------------------------------------------

  def _compile(self) -> None:
    """Compiles every program the run can need, before the first step."""
    config = self.session.config
    first = self._first_params
    # Both optimizers keep the same things.
    abstract = self._abstract_state()
    self._init_rl_state, self._init_sft_state = (
      update.make_init(optimizer, abstract).lower(first).compile()
      for optimizer in (self.rl_optimizer, self.sft_optimizer)
    )

    def compiled(layout, optimizer, temperature, kl_coefficient, mixed):
      function = update.make_update(
        self.session.model,
        optimizer,
        abstract,
        temperature=temperature,
        chunk_length=config.learner.logits_chunk_length,
        kl_coefficient=kl_coefficient,
        kl_estimator=config.learner.kl_estimator,
        mixed=mixed,
        skip_nonfinite=config.learner.skip_nonfinite,
      )
      with jax.set_mesh(self.session.mesh):
        batch = self._put(pack([], layout))
        base = self._base_for_update(kl_coefficient)
        return function.lower(abstract, batch, base).compile()

    self._rl_update = compiled(
      self.rl_layout,
      self.rl_optimizer,
      config.rollouts.temperature,
      config.learner.kl_coefficient,
      self.mixture.num_prefixed > 0 and self.mixture.num_originals > 0,
    )
    if self.num_sft_steps:
      # At temperature 1, whatever the sampler's: plain maximum likelihood.
      self._sft_update = compiled(
        self.sft_layout, self.sft_optimizer, 1.0, 0.0, False
      )
    for sampler in (self.rl_sampler, self.eval_sampler):
      sampler.warm_up(self._policy(first))
      sampler.release()

  @functools.cached_property
  def _first_params(self):
    """What is trained, before the first step."""
    session = self.session
    return adapters.start(
      session.model, session.base_params, session.mesh, self.seed
    )

  def _policy(self, trained):
    """The policy's parameters, as samplers take them."""
    return adapters.policy(
      self.session.model, self.session.base_params, trained
    )

  def _base_for_update(self, kl_coefficient: float):
    """The base policy, if the update needs it beside what is trained."""
    needed = kl_coefficient or self.session.model.lora
    return self.session.base_params if needed else None

  def _put(self, batch):
    return sharding.put_rows(self.session.mesh, batch, axis=1)

  # -- the two kinds of steps ------------------------------------------------

  def _sft_step(self, state: TrainState, step: int):
    config = self.session.config.sft
    epoch, i = divmod(step, self.steps_per_sft_epoch)
    order = sft.epoch_order(len(self.data.traces), seed=self.seed, epoch=epoch)
    chosen = [
      self.data.traces[j]
      for j in order[i * config.batch_size : (i + 1) * config.batch_size]
    ]
    trees = [sft.example(self.prompts[t.problem_id], t.tokens) for t in chosen]
    batch = pack(trees, self.sft_layout)
    started = time.perf_counter()
    state, metrics = self._sft_update(
      state, self._put(batch), self._base_for_update(0.0)
    )
    metrics = jax.device_get(metrics)
    self._charge_update(
      "sft",
      metrics,
      tokens=sum(len(t.trunk) + len(t.lanes[0].tokens) for t in trees),
      layout=self.sft_layout,
      has_reference=False,
      seconds=time.perf_counter() - started,
    )
    self._check_finite(metrics)
    return state, {"sft/loss": metrics["loss"]}

  def _rl_step(self, state: TrainState, step: int, timers):
    config = self.session.config
    n = config.train.completions_per_prompt
    drawn = self.mixture.draw(step - self.num_sft_steps)
    trunks = [
      np.concatenate([self.prompts[p.problem_id], p.prefix]) for p in drawn
    ]
    with timers("rollout"):
      self.rl_sampler.load(self._policy(state.params))
      groups = self.rl_sampler.sample(
        [
          Request(
            trunk,
            n,
            # A problem may be drawn with several prefixes in one step.
            step * len(drawn) + i,
            self.problems[p.problem_id].index,
          )
          for i, (trunk, p) in enumerate(zip(trunks, drawn))
        ],
        purpose="sampling",
        seed=self.seed,
      )
      usage = self._charge("sampling", self.rl_sampler)
    with timers("judge"):
      repeat = lambda xs: [x for x in xs for _ in range(n)]
      verdicts = judge(
        self.session.verifier,
        self.session.tokenizer,
        repeat([self.problems[p.problem_id] for p in drawn]),
        repeat([p.prefix for p in drawn]),
        [c for group in groups for c in group],
      )
    rewards = np.array([v.reward for v in verdicts]).reshape(-1, n)
    lengths = np.array([[len(c.tokens) for c in group] for group in groups])
    weights = advantages(
      discounted(rewards, lengths, config.learner.discount),
      config.learner.advantage,
    )

    trees = [
      Tree(
        trunk,
        [
          Lane(
            len(trunk),
            c.tokens,
            c.logprobs,
            np.full(len(c.tokens), weight),
          )
          for c, weight in zip(group, group_weights)
        ],
        is_prefixed=len(p.prefix) > 0,
      )
      for trunk, p, group, group_weights in zip(trunks, drawn, groups, weights)
    ]
    with timers("update"):
      batch = pack(trees, self.rl_layout)
      started = time.perf_counter()
      state, metrics = self._rl_update(
        state,
        self._put(batch),
        self._base_for_update(config.learner.kl_coefficient),
      )
      metrics = jax.device_get(metrics)
    tokens = usage.input_tokens + usage.output_tokens
    seconds = time.perf_counter() - started
    self._charge_update(
      "update",
      metrics,
      tokens=tokens,
      layout=self.rl_layout,
      has_reference=config.learner.kl_coefficient > 0,
      seconds=seconds,
    )
    self._check_finite(metrics)
    is_prefixed = np.array([len(p.prefix) > 0 for p in drawn])
    metrics = {f"train/{k}": float(v) for k, v in metrics.items()}
    metrics |= metrics_lib.group_metrics(is_prefixed, rewards, groups)
    metrics["train/judge_timeouts"] = sum(v.timed_out for v in verdicts)
    metrics["train/judge_deaths"] = sum(v.died for v in verdicts)
    metrics["tokens_per_second/rollout"] = usage.output_tokens / usage.seconds
    metrics["tokens_per_second/update"] = tokens / seconds
    return state, metrics

  def _check_finite(self, metrics) -> None:
    """Counts an update that left the state as it was; raises at another."""
    bad = update.nonfinite(metrics)
    may_skip = self.session.config.learner.skip_nonfinite
    if may_skip and np.isfinite(metrics["param_norm"]):
      self.skipped += bool(bad)
    elif bad:
      raise NonFiniteError(f"the update has {bad}.")

  def _charge(self, purpose: str, sampler: Sampler):
    usage = sampler.pop_usage()
    self.ledger.add_sampling(purpose, usage)
    return usage

  def _charge_update(
    self, purpose: str, metrics, *, tokens, layout, has_reference, seconds
  ):
    """Moves what the device did from the metrics to the ledger."""
    chunk_length = self.session.config.learner.logits_chunk_length
    self.ledger.add_update(
      purpose,
      tokens=tokens,
      work={name: float(metrics.pop(name)) for name in update.WORK},
      tokens_per_micro=layout.row_length * layout.rows_per_micro,
      has_reference=has_reference,
      keeps_logits=chunk_length >= layout.row_length,
      seconds=seconds,
    )

  def _why_stopped(self, step: int, saved: int, reason: Exception) -> str:
    kept = f"; checkpoint {saved} is" if saved else ""
    before = f" The state of step {step} was finite{kept}." if step else ""
    return (
      f"{self.name} stops at step {step + 1}, the first that is not finite:"
      f" {reason}{before} Lower the learning rate (config.arms, config.sft) or"
      " config.learner.optimizer.clip_norm, or leave such updates out:"
      " --config.learner.skip_nonfinite=True, which may be set now."
    )

  # -- the loop --------------------------------------------------------------

  def run(self) -> list[dict]:
    """Trains until the budget is spent, from the newest checkpoint if any.

    Returns:
      The curve; a point is step, ledger so far, accuracy by split.

    Raises:
      Preempted: after SIGTERM, when the state is saved.
      NonFiniteError: at the first update that is not finite; it is not saved.
    """
    config = self.session.config
    budget = config.train.flops
    last_step = self.num_sft_steps + (config.train.max_steps or sys.maxsize)
    if self.ledger.training_flops() >= budget:
      raise UserError(
        f"config.train.flops = {budget:.3g} is already spent on collection"
        f" ({self.ledger.training_flops():.3g}); raise it or collect less."
      )
    with metrics_lib.busy(f"{self.name}  compiling …"):
      self._compile()
    with (
      Deferred(signal.SIGTERM) as terminated,
      self._checkpointer() as checkpointer,
    ):
      restored = checkpointer.restore_latest(self._abstract_state())
      if restored is not None:
        step, state, host = restored
        self.ledger.set_entries(host["ledger"])
        curve, self.skipped = host["curve"], host.get("skipped", 0)
      else:
        step, curve = 0, []
        first = (
          self._init_sft_state if self.num_sft_steps else self._init_rl_state
        )
        state = first(self._first_params)
      saved = step

      def save() -> None:
        nonlocal saved
        if step != saved:
          host = {
            "ledger": self.ledger.to_dict(),
            "curve": curve,
            "skipped": self.skipped,
          }
          checkpointer.save(step, state, host)
          saved = step

      def stop_if_terminated() -> None:
        if terminated.take():
          save()
          raise Preempted(f"{self.name}: saved at step {step}")

      timers = metrics_lib.Timers()
      with (
        CompilationCounter() as compilations,
        metrics_lib.Progress(self.name, total=budget, waits_for="") as progress,
        metrics_lib.MetricWriter(
          self.directory,
          wandb_project=config.wandb_project or None,
          resume_step=step,
        ) as writer,
      ):
        while (
          spent := self.ledger.training_flops()
        ) < budget and step < last_step:
          if spent >= self._next_point(curve) and step >= self.num_sft_steps:
            curve.append(self._curve_point(state, step))
            stop_if_terminated()
          try:
            if step < self.num_sft_steps:
              state, metrics = self._sft_step(state, step)
              if step + 1 == self.num_sft_steps:
                state = self._init_rl_state(state.params)
            else:
              state, metrics = self._rl_step(state, step, timers)
          except NonFiniteError as e:
            raise NonFiniteError(self._why_stopped(step, saved, e)) from None
          step += 1
          metrics |= timers.pop() | {
            "flops_paper": self.ledger.training_flops(),
            "flops_executed": self.ledger.training_flops("flops_executed"),
            "compilations": compilations.count,
            "skipped_updates": self.skipped,
          }
          writer.write(step, metrics)
          shown = metrics_lib.shown(metrics)
          if step % config.train.log_every == 0:
            figures = "  ".join(f"{k} {v}" for k, v in shown.items())
            progress.log(f"{self.name}  step {step}  {figures}")
          progress.update(self.ledger.training_flops(), **shown)
          if step - saved >= config.train.checkpoint_every:
            save()
          stop_if_terminated()
        save()
      curve.append(self._curve_point(state, step))
      stop_if_terminated()
      return curve

  def _checkpointer(self) -> Checkpointer:
    return Checkpointer(
      self.directory / "checkpoints",
      keep=self.session.config.train.checkpoints_kept,
    )

  def _abstract_state(self) -> TrainState:
    trained = adapters.abstract_trained(self.session.model, self.session.mesh)
    return update.abstract_state(trained, self.rl_optimizer)

  def _next_point(self, curve) -> float:
    """Where the next point of the curve is due, on a grid shared by arms."""
    if not curve:
      return 0.0
    config = self.session.config
    spacing = config.train.flops / config.evals.curve_points
    last = Ledger(self.session.model)
    last.set_entries(curve[-1]["ledger"])
    return (last.training_flops() // spacing + 1) * spacing

  def _curve_point(self, state: TrainState, step: int) -> dict:
    """Evaluates without prefix; stamped with the step it belongs to."""
    config = self.session.config
    self.eval_sampler.load(self._policy(state.params))
    results: dict[str, list[EvalResult]] = {}
    for split, problems in (
      ("train", self.data.train),
      ("heldout", self.data.heldout),
    ):
      if not problems:
        continue
      results[split], _ = without_prefix(
        self.session,
        self.eval_sampler,
        problems,
        num_samples=config.evals.curve_samples,
        stamp=step,
        purpose="evaluation",
        seed=self.seed,
      )
    results["heldout_hard"] = [
      r
      for r in results.get("heldout", ())
      if r.problem_id in self.data.hard_heldout
    ]
    self._charge("evaluation", self.eval_sampler)
    return {
      "step": step,
      "ledger": self.ledger.to_dict(),
      "accuracy": {s: mean_accuracy(r) for s, r in results.items() if r},
    }


def trained_params(
  session: Session, directory: epath.Path, step: int | None = None, **how
) -> dict:
  """Returns a run's policy, as samplers take it.

  Args:
    session: of the run.
    directory: of its Trainer.
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
