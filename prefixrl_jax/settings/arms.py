"""What an arm is, a row of config.arms, and what follows from it."""

import ml_collections


def listed(names: str) -> list[str]:
  """Returns names that have + between them, as arms in a config's argument."""
  return [name.strip() for name in names.split("+") if name.strip()]


def uses_prefixes(arm: ml_collections.ConfigDict) -> bool:
  """Whether problems are drawn with prefixes of traces."""
  return arm.prefixed_share > 0


def uses_hints(arm: ml_collections.ConfigDict) -> bool:
  """Whether prefixes are given as hints, in the prompt."""
  return uses_prefixes(arm) and arm.given == "hint"


def uses_traces(arm: ml_collections.ConfigDict) -> bool:
  """Whether the arm needs traces, and so starts at the cost of collection."""
  return uses_prefixes(arm) or arm.sft_epochs > 0 or arm.trace_lanes > 0


def is_mixed(arm: ml_collections.ConfigDict) -> bool:
  """Whether a step has prefixed problems and others."""
  return 0 < arm.prefixed_share < 1


def num_samples(
  config: ml_collections.ConfigDict, arm: ml_collections.ConfigDict
) -> int:
  """Returns how many completions the policy samples of a problem a step.

  Args:
    config: the whole config.
    arm: a row of config.arms.
  """
  return group_size(config, arm) - arm.trace_lanes


def group_size(
  config: ml_collections.ConfigDict, arm: ml_collections.ConfigDict
) -> int:
  """Returns how many completions and traces of a problem a step learns from.

  Args:
    config: the whole config.
    arm: a row of config.arms.
  """
  return arm.group_size or config.train.completions_per_prompt


def learner_of(
  config: ml_collections.ConfigDict, arm: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Returns config.learner with what the arm has otherwise.

  Args:
    config: the whole config.
    arm: a row of config.arms.
  """
  learner = ml_collections.ConfigDict(config.learner.to_dict())
  learner.update(arm.learner.to_dict())
  return learner


def weighs_traces(arm: ml_collections.ConfigDict) -> bool:
  """Whether a trace's tokens are weighed by the probability of their author."""
  loss = arm.loss
  return (
    arm.trace_lanes > 0
    and loss.name == "policy_gradient"
    and loss.importance != "none"
  )
