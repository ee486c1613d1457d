"""The ledger: FLOPs and tokens spent, by purpose; the x axis of every figure.

Two counts side by side. The paper's convention: 2 N D for sampling and 6 N D
for an update, with N parameters and D input + output tokens of every
sequence; a prefix is input, charged for each of the n completions. What the
paper has no part for is charged likewise: 2 N D for each forward pass of the
base policy or a critic, 6 N D for training a critic's own trunk. Executed: what
the device was given, matrix products and attention, shared trunks once, padding
and idle lanes and recomputation included. (It is compared with what XLA says of
compiled updates in tests/test_ledger.py.)
"""

import dataclasses

from prefixrl_jax.models import flops
from prefixrl_jax.models.decoder_config import TransformerConfig
from prefixrl_jax.types import (
  PURPOSES,
  TRAINING,
  SamplingUsage,
  ScoringUsage,
  UpdateUsage,
)


@dataclasses.dataclass
class Entry:
  """What one purpose has cost so far."""

  flops_paper: float = 0.0
  flops_executed: float = 0.0
  tokens: int = 0
  completions: int = 0
  seconds: float = 0.0


class Ledger:
  """Adds up costs by purpose."""

  def __init__(self, config: TransformerConfig):
    self._config = config
    self._num_params = flops.num_active_params(config)
    self._entries = {purpose: Entry() for purpose in PURPOSES}

  def add_sampling(self, purpose: str, usage: SamplingUsage) -> None:
    """Adds what a sampler spent.

    Args:
      purpose: one of `types.PURPOSES`.
      usage: from `Sampler.pop_usage`.
    """
    tokens = usage.input_tokens + usage.output_tokens
    entry = self._entries[purpose]
    entry.flops_paper += 2.0 * self._num_params * tokens
    entry.flops_executed += flops.sampling_flops(self._config, usage)
    entry.tokens += tokens
    entry.completions += usage.completions
    entry.seconds += usage.seconds

  def add_update(self, purpose: str, usage: UpdateUsage) -> None:
    """Adds what an update spent.

    Args:
      purpose: "update" or "sft".
      usage: from `Learner.step`.
    """
    entry = self._entries[purpose]
    # Of all parameters, whatever of them is trained.
    per_param = 6.0 * (1 + usage.has_critic_trunk) + 2.0 * usage.has_reference
    entry.flops_paper += per_param * self._num_params * usage.tokens
    entry.flops_executed += flops.update_flops(self._config, usage)
    entry.tokens += usage.tokens
    entry.seconds += usage.seconds

  def add_scoring(self, usage: ScoringUsage) -> None:
    """Adds what a scoring pass spent, as from `Scorer.score`."""
    entry = self._entries["scoring"]
    entry.flops_paper += 2.0 * usage.passes * self._num_params * usage.tokens
    entry.flops_executed += flops.scoring_flops(self._config, usage)
    entry.tokens += usage.tokens
    entry.seconds += usage.seconds

  def add_entries(self, other: dict[str, dict]) -> None:
    """Adds what an upstream stage has spent, as from `to_dict`."""
    _add(self._entries, other)

  def set_entries(self, entries: dict[str, dict]) -> None:
    """Puts the ledger back to what `to_dict` returned."""
    # An older version's checkpoint has fewer.
    self._entries = {p: Entry(**entries.get(p, {})) for p in PURPOSES}

  def training_flops(self, count: str = "flops_paper") -> float:
    """Returns an arm's place on the x axis.

    Args:
      count: a field of Entry.
    """
    return sum(getattr(self._entries[p], count) for p in TRAINING)

  def to_dict(self) -> dict[str, dict]:
    """Returns {purpose: {field: value}}, ready for JSON."""
    return _to_dict(self._entries)


def summed(*several: dict[str, dict]) -> dict[str, dict]:
  """Returns the sum of what `Ledger.to_dict` returned, as it returns it."""
  entries = {purpose: Entry() for purpose in PURPOSES}
  for other in several:
    _add(entries, other)
  return _to_dict(entries)


def _add(entries: dict[str, Entry], other: dict[str, dict]) -> None:
  for purpose, fields in other.items():
    entry = entries[purpose]
    for name, value in fields.items():
      setattr(entry, name, getattr(entry, name) + value)


def _to_dict(entries: dict[str, Entry]) -> dict[str, dict]:
  return {p: dataclasses.asdict(e) for p, e in entries.items()}


def training_flops(entries: dict[str, dict]) -> float:
  """Returns the place on the x axis of what `Ledger.to_dict` returned."""
  spent = (entries.get(purpose, {}) for purpose in TRAINING)
  return sum(entry.get("flops_paper", 0.0) for entry in spent)
