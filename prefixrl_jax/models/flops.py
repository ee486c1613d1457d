"""What a model's matrix products and attention take, in FLOPs."""

from prefixrl_jax.models import adapters
from prefixrl_jax.models.decoder_config import TransformerConfig
from prefixrl_jax.models.parameters import num_active_params
from prefixrl_jax.types import SamplingUsage, ScoringUsage, UpdateUsage

__all__ = [
  "attention_flops",
  "flops_per_token",
  "num_active_params",
  "prefill_flops_per_token",
  "sampling_flops",
  "scoring_flops",
  "update_flops",
]


def sampling_flops(config: TransformerConfig, usage: SamplingUsage) -> float:
  """Returns what was executed to sample.

  Args:
    config: of the model that ran.
    usage: of the sampler.
  """
  return (
    usage.prefill_tokens * prefill_flops_per_token(config)
    + usage.decode_tokens * flops_per_token(config, head=True)
    + attention_flops(config, usage.pairs)
  )


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
  num_tokens = work["num_microbatches"] * usage.tokens_per_microbatch
  trunk = attention_flops(
    c, (1 + is_remat) * work["pairs"] + work["pairs_back"]
  )
  total = (
    num_tokens * layers
    + trunk
    + attention_flops(c, usage.has_reference * work["pairs"])
    + head_passes * work["logit_tokens"] * 2 * c.width * c.vocab_size
  )
  if usage.has_critic_trunk:  # the policy's trunk once more
    of_reference = usage.has_reference * flops_per_token(c, head=False)
    total += num_tokens * (layers - of_reference) + trunk
  return total


def scoring_flops(config: TransformerConfig, usage: ScoringUsage) -> float:
  """Returns what a scoring pass's matrix products and attention take.

  Args:
    config: of the model that ran.
    usage: of the scorer.
  """
  c, work = config, usage.work
  num_tokens = work["num_microbatches"] * usage.tokens_per_microbatch
  return (
    usage.passes * num_tokens * flops_per_token(c, head=False)
    + usage.passes * attention_flops(c, work["pairs"])
    + work["logit_tokens"] * 2 * c.width * c.vocab_size
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
  """Returns the FLOPs of a number of pairs of a query and a key, all layers."""
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
  after it or by the weights of experts.
  """
  products = _products(config)
  if config.norms == "pre" and not config.num_experts:
    del products["down"]
  return sum(products.values())
