"""Shapes of the presets' models: what their own config.json say of them.

So that their programs can be compiled without their folders.
"""

from typing import Any


def _config_json(model_type, layers, width, heads, kv, mlp, vocab, **others):
  return dict(
    model_type=model_type,
    num_hidden_layers=layers,
    hidden_size=width,
    num_attention_heads=heads,
    num_key_value_heads=kv,
    intermediate_size=mlp,
    vocab_size=vocab,
    hidden_act="silu",
    rms_norm_eps=1e-6,
  ) | dict(others)


_QWEN3 = dict(
  head_dim=128, rope_theta=1e6, tie_word_embeddings=True, sliding_window=None
)
# By hub id.
SHAPES: dict[str, dict[str, Any]] = {
  "HuggingFaceTB/SmolLM2-135M-Instruct": _config_json(
    "llama", 30, 576, 9, 3, 1536, 49_152, tie_word_embeddings=True
  ),
  "Qwen/Qwen3-0.6B": _config_json(
    "qwen3", 28, 1024, 16, 8, 3072, 151_936, **_QWEN3
  ),
  "Qwen/Qwen2.5-1.5B-Instruct": _config_json(
    "qwen2",
    28,
    1536,
    12,
    2,
    8960,
    151_936,
    rope_theta=1e6,
    tie_word_embeddings=True,
    sliding_window=None,
  ),
  "Qwen/Qwen3-4B": _config_json(
    "qwen3", 36, 2560, 32, 8, 9728, 151_936, **_QWEN3
  ),
  "meta-llama/Llama-3.1-8B-Instruct": _config_json(
    "llama",
    32,
    4096,
    32,
    8,
    14_336,
    128_256,
    rope_theta=5e5,
    rope_scaling=dict(
      rope_type="llama3",
      factor=8.0,
      low_freq_factor=1.0,
      high_freq_factor=4.0,
      original_max_position_embeddings=8192,
    ),
  ),
  "google/gemma-3-4b-it": _config_json(
    "gemma3_text",
    34,
    2560,
    8,
    4,
    10_240,
    262_208,
    head_dim=256,
    query_pre_attn_scalar=256,
    sliding_window=1024,
    rope_theta=1e6,
    rope_local_base_freq=1e4,
    rope_scaling=dict(rope_type="linear", factor=8.0),
    hidden_activation="gelu_pytorch_tanh",
  ),
  "Qwen/Qwen3-30B-A3B": _config_json(
    "qwen3_moe",
    48,
    2048,
    32,
    4,
    6144,
    151_936,
    **(_QWEN3 | dict(tie_word_embeddings=False)),
    num_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=768,
    norm_topk_prob=True,
    decoder_sparse_step=1,
    mlp_only_layers=[],
  ),
}
