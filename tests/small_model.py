"""The model of most tests."""

from prefixrl_jax.models.decoder_config import TransformerConfig

# Uncommon sizes: 6 heads on 2, head_dim unlike width / heads.
MODEL = TransformerConfig(
  num_layers=2,
  width=24,
  num_heads=6,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=40,
  vocab_size=17,
)
