"""What an arm is, a row of config.arms, and what follows from it."""

import ml_collections


def listed(names: str) -> list[str]:
  """Returns names that have + between them, as arms in a config's argument."""
  return [name.strip() for name in names.split("+") if name.strip()]


def uses_prefixes(arm: ml_collections.ConfigDict) -> bool:
  """Whether problems are drawn with prefixes of traces."""
  return arm.prefixed_share > 0


def uses_traces(arm: ml_collections.ConfigDict) -> bool:
  """Whether the arm needs traces, and so starts at the cost of collection."""
  return uses_prefixes(arm) or arm.sft_epochs > 0


def is_mixed(arm: ml_collections.ConfigDict) -> bool:
  """Whether a step has prefixed problems and others."""
  return 0 < arm.prefixed_share < 1
