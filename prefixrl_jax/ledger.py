"""The ledger: FLOPs and tokens spent, by purpose; the x axis of every figure.

Two counts side by side. The paper's convention: 2 N D for sampling and 6 N D
for an update, with N parameters and D input + output tokens of every
sequence; a prefix is input, charged for each of the n completions. Executed:
what the device was given, matrix products and attention, shared trunks once,
padding and idle lanes, recomputation and the KL's reference pass included. (It
is compared with what XLA says of compiled updates in tests/test_ledger.py.)
"""

import dataclasses

from prefixrl_jax.models import adapters
from prefixrl_jax.models.transformer import TransformerConfig, num_active_params
from prefixrl_jax.types import PURPOSES, TRAINING, SamplingUsage, UpdateUsage


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
    self._entries = {purpose: Entry() for purpose in PURPOSES}

  def add_sampling(self, purpose: str, usage: SamplingUsage) -> None:
    """Adds what a sampler spent, from its `pop_usage`."""
    tokens = usage.input_tokens + usage.output_tokens
    entry = self._entries[purpose]
    entry.flops_paper += 2.0 * self._num_params * tokens
    entry.flops_executed += (
      usage.prefill_tokens * prefill_flops_per_token(self._config)
      + usage.decode_tokens * flops_per_token(self._config, head=True)
      + attention_flops(self._config, usage.pairs)
    )
    entry.tokens += tokens
    entry.completions += usage.completions
    entry.seconds += usage.seconds

  def add_update(self, purpose: str, usage: UpdateUsage) -> None:
    """Adds what an update spent; purpose is "update" or "sft"."""
    entry = self._entries[purpose]
    # Of all parameters, whatever of them is trained.
    entry.flops_paper += 6.0 * self._num_params * usage.tokens
    entry.flops_executed += update_flops(self._config, usage)
    entry.tokens += usage.tokens
    entry.seconds += usage.seconds

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


def training_flops(entries: dict[str, dict]) -> float:
  """Returns the place on the x axis of what `Ledger.to_dict` returned."""
  return sum(entries[purpose]["flops_paper"] for purpose in TRAINING)


def update_flops(config: TransformerConfig, usage: UpdateUsage) -> float:
  """Returns what an update's matrix products and attention take.

  Args:
    config: of the model that ran, with its remat and lora.
    usage: of the update.
  """
  c, work = config, usage.work
  is_frozen, is_remat = c.lora is not None, c.remat == "full"
  # Backward, a product is two, or one if its weights are frozen.
  passes = 1 + usage.has_reference + (2 - is_frozen)
  layers = passes * flops_per_token(c, head=False)
  if is_remat:
    layers += c.num_layers * _recomputed(c)
  # An adapter runs with the policy, not with the reference.
  layers += 2.0 * adapters.num_params(c) * (3 + is_remat)
  head_passes = passes + (not usage.keeps_logits)
  return (
    work["micros"] * usage.tokens_per_micro * layers
    + attention_flops(c, (1 + usage.has_reference + is_remat) * work["pairs"])
    + attention_flops(c, work["pairs_back"])
    + head_passes * work["scored"] * 2 * c.width * c.vocab_size
  )


def prefill_flops_per_token(config: TransformerConfig) -> float:
  """Returns the matrix products' FLOPs of one trunk token in the sampler.

  Of the last layer there are keys and values alone.
  """
  c, products = config, _products(config)
  last = products["key"] + products["value"]
  return (c.num_layers - 1) * sum(products.values()) + last


def flops_per_token(config: TransformerConfig, *, head: bool) -> float:
  """Returns the matrix products' FLOPs of one token's forward pass.

  Args:
    config: TransformerConfig.
    head: whether the token's logits are computed.
  """
  c = config
  last = 2.0 * c.width * c.vocab_size if head else 0.0
  return c.num_layers * sum(_products(c).values()) + last


def attention_flops(config: TransformerConfig, pairs: float) -> float:
  """Returns the FLOPs of so many pairs of a query and a key, all layers."""
  c = config
  return 4.0 * c.num_layers * c.num_heads * c.head_dim * pairs


def _products(config: TransformerConfig) -> dict[str, float]:
  """Returns the FLOPs of each product of a layer, for one token."""
  c = config
  of_heads = lambda n: 2.0 * c.width * n * c.head_dim
  inner = 2.0 * c.width * c.mlp_width * (c.experts_per_token or 1)
  return {
    "query": of_heads(c.num_heads),
    "key": of_heads(c.num_kv_heads),
    "value": of_heads(c.num_kv_heads),
    "output": of_heads(c.num_heads),
    "router": 2.0 * c.width * c.num_experts,
    "up": inner * (2 if c.mlp.startswith("gated") else 1),
    "down": inner,
  }


def _recomputed(config: TransformerConfig) -> float:
  """Returns the FLOPs of what a layer runs again in the backward pass.

  What `down` makes is added to the residual, and needed again only by a norm
  behind it or by the weights of experts.
  """
  products = _products(config)
  if config.norms == "pre" and not config.num_experts:
    del products["down"]
  return sum(products.values())
