"""The ledger: FLOPs and tokens spent, by purpose; the x axis of every figure.

Two counts side by side. The paper's convention: 2 N D for sampling and 6 N D
for an update, with N parameters and D input + output tokens of every
sequence; a prefix is input, charged for each of the n completions. Executed:
what the device was given, matrix products and attention, shared trunks once,
padding and idle lanes included.
"""

import dataclasses
from collections.abc import Mapping

from prefixrl_jax.models import adapters
from prefixrl_jax.models.transformer import TransformerConfig, num_active_params
from prefixrl_jax.rollouts.sampler import Usage
from prefixrl_jax.types import PURPOSES, TRAINING


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
    self._num_params = num_active_params(config)
    self._num_adapted = adapters.num_params(config)
    self._entries = {purpose: Entry() for purpose in PURPOSES}

  def add_sampling(self, purpose: str, usage: Usage) -> None:
    """Adds what a sampler spent, from its `pop_usage`."""
    tokens = usage.input_tokens + usage.output_tokens
    entry = self._entries[purpose]
    entry.flops_paper += 2.0 * self._num_params * tokens
    entry.flops_executed += (
      usage.prefill_tokens * flops_per_token(self._config, head=False)
      + usage.decode_tokens * flops_per_token(self._config, head=True)
      + attention_flops(self._config, usage.pairs)
    )
    entry.tokens += tokens
    entry.completions += usage.completions
    entry.seconds += usage.seconds

  def add_update(
    self,
    purpose: str,
    *,
    tokens: int,
    work: Mapping[str, float],
    tokens_per_micro: int,
    remat: bool,
    seconds: float,
  ) -> None:
    """Adds an update.

    Args:
      purpose: "update" or "sft".
      tokens: input + output tokens of every sequence (the paper's D).
      work: what the device did, fields of `learner.update.WORK`.
      tokens_per_micro: rows times their length, padding included.
      remat: layers were run forward a second time.
      seconds: wall-clock.
    """
    forward = work["micros"] * tokens_per_micro * flops_per_token(
      self._config, head=False
    ) + attention_flops(self._config, work["pairs"])
    head = work["scored"] * 2 * self._config.width * self._config.vocab_size
    entry = self._entries[purpose]
    # Of all parameters, whatever of them is trained.
    entry.flops_paper += 6.0 * self._num_params * tokens
    # Backward costs twice the forward, or as much if the weights are frozen;
    # the head's logits are computed twice.
    is_frozen = self._config.lora is not None
    passes = (4 if remat else 3) - is_frozen
    beside = 2.0 * work["micros"] * tokens_per_micro * self._num_adapted
    entry.flops_executed += (
      passes * forward + (4 - is_frozen) * head + (passes + 1) * beside
    )
    entry.tokens += tokens
    entry.seconds += seconds

  def add_entries(self, other: dict[str, dict]) -> None:
    """Adds what an upstream stage has spent, as from `to_dict`."""
    for purpose, fields in other.items():
      entry = self._entries[purpose]
      for name, value in fields.items():
        setattr(entry, name, getattr(entry, name) + value)

  def set_entries(self, entries: dict[str, dict]) -> None:
    """Puts the ledger back to what `to_dict` returned."""
    self._entries = {p: Entry(**entries[p]) for p in PURPOSES}

  def training_flops(self, count: str = "flops_paper") -> float:
    """Returns an arm's place on the x axis; `count` is a field of Entry."""
    return sum(getattr(self._entries[p], count) for p in TRAINING)

  def to_dict(self) -> dict[str, dict]:
    """Returns {purpose: {field: value}}, ready for JSON."""
    return {p: dataclasses.asdict(e) for p, e in self._entries.items()}


def flops_per_token(config: TransformerConfig, *, head: bool) -> float:
  """Returns the matrix products' FLOPs of one token's forward pass.

  Args:
    config: TransformerConfig.
    head: whether the token's logits are computed.
  """
  c = config
  qkv = c.width * c.head_dim * (c.num_heads + 2 * c.num_kv_heads)
  output = c.num_heads * c.head_dim * c.width
  mlp = (3 if c.mlp.startswith("gated") else 2) * c.width * c.mlp_width
  if c.num_experts:
    mlp = c.experts_per_token * mlp + c.width * c.num_experts
  last = c.width * c.vocab_size if head else 0
  return 2.0 * (c.num_layers * (qkv + output + mlp) + last)


def attention_flops(config: TransformerConfig, pairs: float) -> float:
  """Returns the FLOPs of so many pairs of a query and a key, all layers."""
  c = config
  return 4.0 * c.num_layers * c.num_heads * c.head_dim * pairs
