"""What training leaves of its rollouts: rows of the store, made from groups."""

from collections.abc import Sequence

import ml_collections
from etils import epath

from prefixrl_jax.learner.packing import Tree
from prefixrl_jax.run.rollout import Group
from prefixrl_jax.storage.rollout_store import RolloutStore
from prefixrl_jax.text.tokenizer import Tokenizer


class RolloutLog(RolloutStore):
  """Keeps a share of a run's rollouts; leaving it writes what is left."""

  def __init__(
    self,
    directory: epath.Path,
    settings: ml_collections.ConfigDict,
    tokenizer: Tokenizer,
    *,
    arm: str,
    seed: int,
    resume_step: int,
  ):
    """Opens the store.

    Args:
      directory: of the run.
      settings: config.train.rollouts_kept.
      tokenizer: of the policy.
      arm, seed: of the run.
      resume_step: rollouts after this step will be done again.
    """
    super().__init__(
      directory,
      share=settings.share,
      max_bytes=settings.max_megabytes * 1e6,
      resume_step=resume_step,
    )
    self._tokenizer, self._arm, self._seed = tokenizer, arm, seed

  def write(
    self,
    step: int,
    groups: Sequence[Group],
    trees: Sequence[Tree],
  ) -> None:
    """Adds a step's groups.

    Args:
      step: that of metrics.jsonl: the update that the groups go into.
      groups: judged.
      trees: what the update learns from, in any order.
    """
    advantages = {
      id(lane.tokens): lane.advantages for tree in trees for lane in tree.lanes
    }
    rollout_rows, group_rows = [], []
    for number, group in enumerate(groups):
      if not group.completions:  # nothing was sampled, only a trace is learnt
        continue
      of_group = {
        "arm": self._arm,
        "seed": self._seed,
        "step": step,
        "problem_id": group.problem.id,
        "group": number,
        "prefix_length": len(group.prefix),
        "fraction": group.fraction,
      }
      group_rows.append(
        {
          **of_group,
          "num_completions": len(group.completions),
          "num_correct": int((group.rewards == 1).sum()),
          "num_truncated": sum(c.truncated for c in group.completions),
          "mean_reward": group.rewards.mean(),
        }
      )
      if not self.is_kept(self._seed, step, group.problem.id):
        continue
      texts = self._tokenizer.decode(
        [c.tokens.tolist() for c in group.completions]
      )
      rollout_rows += [
        {
          **of_group,
          "lane": lane,
          "prompt": group.trunk[: len(group.trunk) - len(group.prefix)],
          "prefix": group.prefix,
          "tokens": c.tokens,
          "length": len(c.tokens),
          "text": text,
          "logprobs": c.logprobs,
          "advantages": advantages.get(id(c.tokens)),
          "reward": reward,
          "truncated": c.truncated,
        }
        for lane, (c, text, reward) in enumerate(
          zip(group.completions, texts, group.rewards)
        )
      ]
    self.add(rollout_rows, group_rows)
