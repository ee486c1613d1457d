"""Log-probabilities of kept rollouts under the policy that came of them."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from prefixrl_jax.distributed import cluster
from prefixrl_jax.learner.packing import Layout, layout_for
from prefixrl_jax.learner.scoring import Scorer
from prefixrl_jax.run.by_hand import Trees
from prefixrl_jax.run.session import Engine
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.settings import arms
from prefixrl_jax.stages.evaluate import policy_of
from prefixrl_jax.storage import metrics, rollout_store
from prefixrl_jax.storage.rescored import Place, write_rescored

# Of a run: enough to look at, and little beside its training.
_MOST_ROLLOUTS, _MOST_TOKENS = 512, 500_000
_MOST_LATE, _MOST_LATE_TOKENS = 256, 125_000
_GROUPS_AT_A_TIME = 16


def run(work: Workspace) -> None:
  """Scores some of each run's kept rollouts with its final policy.

  Some of those of the end that were given a prefix also as if they had none.

  Raises:
    UserError: a training is not complete, or its checkpoint cannot be read.
  """
  scorers: dict[Layout, Scorer] = {}  # whose programs are shared by the runs
  for artifact, arm, seed in work.runs_to_make("rescore"):
    train = work.need(work.run_artifact("train", arm, seed))
    late, rollouts = cluster.of_first(
      "rollouts", functools.partial(_chosen, train.directory)
    )
    work.begin(artifact)
    rescored: dict[Place, np.ndarray] = {}
    without: dict[Place, np.ndarray] = {}
    if rollouts:
      with metrics.busy(f"rescore, {arm} seed {seed} …"):
        longest = max(len(r["prompt"]) + len(r["prefix"]) for r in rollouts)
        layout = layout_of(work.session, arm, longest)
        if layout not in scorers:
          scorers[layout] = scorer_of(work.session, layout)
        params = policy_of(work, arm, seed)
        score = functools.partial(_rescored, scorers[layout], params)
        rescored = score(rollouts)
        without = score([r | {"prefix": []} for r in late])
        del params, score  # before the next run's are there
    write_rescored(artifact.directory / "logprobs.parquet", rescored)
    write_rescored(artifact.directory / "without_prefix.parquet", without)
    artifact.finish(
      {"rollouts": len(rescored), "without_prefix": len(without)},
      ["logprobs.parquet", "without_prefix.parquet"],
    )


def _chosen(directory: epath.Path) -> list[list[dict[str, Any]]]:
  """Returns the rollouts to score without their prefix, and all to score."""
  some = rollout_store.sample_rollouts(
    directory, most=_MOST_ROLLOUTS, most_tokens=_MOST_TOKENS
  )
  late = _late_prefixed(directory)
  return [late, _joined(some.to_pylist(), late)]


def _late_prefixed(directory: epath.Path) -> list[dict[str, Any]]:
  """Returns some rollouts after prefixes, of the last tenth of the steps."""
  last = rollout_store.last_step(directory)
  late = rollout_store.sample_rollouts(
    directory,
    most=_MOST_LATE,
    most_tokens=_MOST_LATE_TOKENS,
    since=last - last // 10,
  )
  return [r for r in late.to_pylist() if r["prefix"]]


def _joined(*parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns rollouts of several samples, once each, group after group."""
  by_place = {_place(r): r for part in parts for r in part}
  return [by_place[place] for place in sorted(by_place)]


def _place(rollout: Mapping[str, Any]) -> Place:
  return rollout["step"], rollout["group"], rollout["lane"]


def layout_of(engine: Engine, arm: str, longest_trunk: int = 0) -> Layout:
  """Returns a layout that is the same for all runs, if prompts allow it.

  Args:
    engine: of the run.
    arm: a key of config.arms.
    longest_trunk: of the rollouts, in tokens; 0: as long as usual.
  """
  most = most_trees(engine, arm)
  return layout_for(
    longest_trunk=max(most.trunk, longest_trunk),
    longest_completion=most.completion,
    num_lanes=most.lanes,
    num_trees=(most.prefixed, most.originals),
    row_length=engine.config.learner.row_length,
    rows_per_microbatch=engine.rows_per_microbatch,
  )


def most_trees(engine: Engine, arm: str) -> Trees:
  """Returns what a pass scores at most, for rollouts as long as usual.

  Args:
    engine: of the run.
    arm: a key of config.arms.
  """
  c = engine.config
  longest = c.rollouts.max_completion_length
  return Trees(
    # A prefix is less than a completion.
    trunk=c.rollouts.max_prompt_length + longest,
    completion=longest,
    lanes=arms.num_samples(c, c.arms[arm]),
    prefixed=0,
    originals=_GROUPS_AT_A_TIME,
  )


def scorer_of(
  engine: Engine, layout: Layout, params: dict | None = None
) -> Scorer:
  """Returns what scores rollouts with a policy.

  Args:
    engine: of the run.
    layout: from `layout_of`.
    params: of the policy, as samplers take them; None: given with each call.
  """
  return Scorer(
    engine.model,
    engine.mesh,
    layout,
    base_params=params,
    temperature=engine.config.rollouts.temperature,
    chunk_length=engine.config.learner.logits_chunk_length,
  )


def _rescored(
  scorer: Scorer, params: dict, rollouts: Sequence[Mapping[str, Any]]
) -> dict[Place, np.ndarray]:
  """Returns the log-probabilities, by step, group and lane."""
  of_group = lambda r: (r["step"], r["group"])
  groups = [list(g) for _, g in itertools.groupby(rollouts, of_group)]
  ids = lambda values: np.array(values, np.int32)
  rescored = {}
  for i in range(0, len(groups), _GROUPS_AT_A_TIME):
    some = groups[i : i + _GROUPS_AT_A_TIME]
    scores = scorer.logprobs(
      params,
      [ids(g[0]["prompt"] + g[0]["prefix"]) for g in some],
      [[ids(r["tokens"]) for r in g] for g in some],
    )
    for group, of_lanes in zip(some, scores):
      for r, logprobs in zip(group, of_lanes):
        rescored[_place(r)] = logprobs
  return rescored
