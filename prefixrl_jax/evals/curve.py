"""Evaluations during training: when they are due, and what they find."""

import ml_collections

from prefixrl_jax.evals import costs
from prefixrl_jax.evals.accuracy import mean_accuracy, without_prefix
from prefixrl_jax.ledger import Ledger, training_flops
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.run.rollout import encode
from prefixrl_jax.run.session import Session
from prefixrl_jax.types import Problem, TrainData


class Curve:
  """Evaluations during training, on a grid of FLOPs shared by all arms."""

  def __init__(self, config: ml_collections.ConfigDict, points: list[dict]):
    """Resumes from the existing points.

    Args:
      config: the whole config; its budget is divided into curve_points.
      points: points evaluated before.
    """
    self.points = points
    self._spacing = config.train.flops / config.evals.curve_points

  def is_due(self, spent: float) -> bool:
    """Whether the next point is due once this many FLOPs are spent."""
    if not self.points:
      return True
    last = training_flops(self.points[-1]["ledger"])
    return spent >= (last // self._spacing + 1) * self._spacing

  def add(self, point: dict) -> None:
    """Adds a point, from `curve_point`."""
    self.points.append(point)


def problems_of(
  config: ml_collections.ConfigDict, data: TrainData
) -> dict[str, list[Problem]]:
  """Returns the problems of every point, by split.

  Args:
    config: the whole config.
    data: of the run.
  """
  most = config.evals.curve_problems
  return {
    "train": costs.some_of(data.train, most),
    "heldout": costs.some_of(data.heldout, most),
  }


def cost_at_most(session: Session, data: TrainData) -> str:
  """Says what the curve of one run takes at most.

  Args:
    session: of the run.
    data: of the run.
  """
  evals = session.config.evals
  splits = problems_of(session.config, data).values()
  problems = [problem for split in splits for problem in split]
  # One before the first step; the last one is behind the last.
  points = evals.curve_points + 1
  prompts = list(map(len, encode(session, problems))) * points
  usage = costs.at_most(session, prompts, evals.curve_samples)
  return f"{points} points with {costs.describe(session, [usage])}"


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
    session: the run's.
    sampler: loaded with the policy.
    data: the run's.
    ledger: the run's; the cost of evaluation is added.
    step: the policy's, part of the completions' keys.
    seed: the run's.
  """
  results = {}
  for split, problems in problems_of(session.config, data).items():
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
