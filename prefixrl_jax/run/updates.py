"""Updates: what a step of RL makes of its experience, in one update or more."""

from collections.abc import Callable, Mapping, Sequence

import ml_collections
import numpy as np

from prefixrl_jax.batches import TrainState
from prefixrl_jax.learner.learner import Learner
from prefixrl_jax.learner.packing import Tree
from prefixrl_jax.learner.scoring import Scorer
from prefixrl_jax.ledger import Ledger
from prefixrl_jax.run.credit import (
  Scores,
  adapted_kl_coefficient,
  minibatches,
  trees_of,
)
from prefixrl_jax.run.rollout import Group


class Updater:
  """Credits a step's groups and updates by them."""

  def __init__(
    self,
    learner: Learner,
    scorer: Scorer | None,
    settings: ml_collections.ConfigDict,
    *,
    pass_rates: Mapping[str, float],
    ledger: Ledger,
  ):
    """Starts with the coefficient of the config.

    Args:
      learner: of the arm.
      scorer: of what the learner trains; None if no score is needed.
      settings: from `arms.learner_of`.
      pass_rates: see `trees_of`.
      ledger: is told what everything costs.
    """
    self._learner, self._scorer, self._settings = learner, scorer, settings
    self._pass_rates, self._ledger = pass_rates, ledger
    self._kl_coefficient = settings.kl_coefficient

  def state(self) -> dict:
    """Returns what a checkpoint keeps, as JSON values."""
    return {"kl_coefficient": self._kl_coefficient}

  def restore(self, state: dict) -> None:
    """Resumes from what `state` returned; {} of an older version."""
    self._kl_coefficient = state.get("kl_coefficient", self._kl_coefficient)

  def step(
    self,
    state: TrainState,
    groups: Sequence[Group],
    on_credit: Callable[[Sequence[Tree]], None] = lambda trees: None,
  ) -> tuple[TrainState, dict[str, float]]:
    """Updates a state, which is used up, by all groups.

    Args:
      state: of the learner.
      groups: that are learnt from.
      on_credit: called with what the updates learn from, before the first: so
        it is known if that one is not finite.

    Returns:
      The next state and metrics: the updates' means, and "is_skipped", how many
      were left out.

    Raises:
      NonFiniteError: see `Learner.step`.
    """
    of_scores: dict[str, float] = {}

    def score(trees: Sequence[Tree]) -> Scores:
      assert self._scorer
      scores, usage = self._scorer.score(state.params, trees)
      self._ledger.add_scoring(usage)
      if "reference" in scores and trees:
        of_scores["kl"] = _mean_gap(trees, scores["reference"])
      return scores

    settings = self._settings
    trees = trees_of(
      groups,
      settings,
      pass_rates=self._pass_rates,
      score=score if self._scorer else None,
      kl_coefficient=self._kl_coefficient,
    )
    on_credit(trees)
    parts = minibatches(trees, settings.num_minibatches)
    updates: list[dict[str, float]] = []
    tokens, seconds = 0, 0.0
    for part in parts * settings.num_epochs:
      state, metrics, usage = self._learner.step(
        state, part, self._kl_coefficient
      )
      self._ledger.add_update("update", usage)
      updates.append(metrics)
      tokens, seconds = tokens + usage.tokens, seconds + usage.seconds
    metrics = _mean(updates) | of_scores
    metrics["is_skipped"] = sum(m["is_skipped"] for m in updates)
    if updates:
      metrics["tokens_per_second"] = tokens / seconds
    if settings.kl_target and "kl" in metrics:
      metrics["kl_coefficient"] = self._kl_coefficient
      self._kl_coefficient = adapted_kl_coefficient(
        self._kl_coefficient,
        metrics["kl"],
        sum(len(g.completions) for g in groups),
        settings,
      )
    return state, metrics


def _mean_gap(
  trees: Sequence[Tree], reference: Mapping[int, np.ndarray]
) -> float:
  """Returns how much likelier the tokens are than to the base, a token."""
  gaps = [
    lane.logprobs - reference[id(lane)] for tree in trees for lane in tree.lanes
  ]
  return float(np.mean(np.concatenate(gaps)))


def _mean(updates: Sequence[dict[str, float]]) -> dict[str, float]:
  """Returns the mean of each metric, or its largest value if that is wanted."""
  names = updates[0] if updates else ()
  values = {name: [metrics[name] for metrics in updates] for name in names}
  return {
    name: float(max(each) if name.endswith("_max") else np.mean(each))
    for name, each in values.items()
  }
