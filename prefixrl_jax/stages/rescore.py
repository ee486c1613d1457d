"""Log-probabilities of kept rollouts under the policy that came of them."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefixrl_jax.learner.packing import Layout, layout_for
from prefixrl_jax.learner.scoring import Scorer
from prefixrl_jax.run.workspace import Workspace
from prefixrl_jax.stages.evaluate import policy_of
from prefixrl_jax.storage import metrics, rollout_store
from prefixrl_jax.storage.rescored import Place, write_rescored

# Of a run: enough to look at, and little beside its training.
_MOST_ROLLOUTS, _MOST_TOKENS = 512, 500_000
_GROUPS_AT_A_TIME = 16


def run(work: Workspace) -> None:
  """Scores some of each run's kept rollouts with its final policy.

  Raises:
    UserError: a training is not complete, or its checkpoint cannot be read.
  """
  scorers: dict[Layout, Scorer] = {}  # whose programs are shared by the runs
  for artifact, arm, seed in work.runs_to_make("rescore"):
    train = work.need(work.run_artifact("train", arm, seed))
    rollouts = rollout_store.sample_rollouts(
      train.directory, most=_MOST_ROLLOUTS, most_tokens=_MOST_TOKENS
    ).to_pylist()
    work.begin(artifact)
    rescored: dict[Place, np.ndarray] = {}
    if rollouts:
      with metrics.busy(f"rescore, {arm} seed {seed} …"):
        layout = _layout(work, rollouts)
        if layout not in scorers:
          scorers[layout] = _scorer(work, layout)
        params = policy_of(work, arm, seed)
        rescored = _rescored(scorers[layout], params, rollouts)
        del params  # before the next run's are there
    write_rescored(artifact.directory / "logprobs.parquet", rescored)
    artifact.finish({"rollouts": len(rescored)}, ["logprobs.parquet"])


def _layout(work: Workspace, rollouts: Sequence[Mapping[str, Any]]) -> Layout:
  """Returns a layout that is the same for all runs, if prompts allow it."""
  c = work.config
  longest = c.rollouts.max_completion_length
  return layout_for(
    longest_trunk=max(
      # A prefix is less than a completion.
      c.rollouts.max_prompt_length + longest,
      *(len(r["prompt"]) + len(r["prefix"]) for r in rollouts),
    ),
    longest_completion=longest,
    num_lanes=c.train.completions_per_prompt,
    num_trees=(0, _GROUPS_AT_A_TIME),
    row_length=c.learner.row_length,
    rows_per_microbatch=work.session.rows_per_microbatch,
  )


def _scorer(work: Workspace, layout: Layout) -> Scorer:
  return Scorer(
    work.session.model,
    work.session.mesh,
    layout,
    temperature=work.config.rollouts.temperature,
    chunk_length=work.config.learner.logits_chunk_length,
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
        rescored[r["step"], r["group"], r["lane"]] = logprobs
  return rescored
