"""The models that benchmarks run, and their twins in other libraries."""

import functools

import jax
import numpy as np

from prefixrl_jax.models import importing, parameters
from prefixrl_jax.models.transformer import TransformerConfig

SMOL = TransformerConfig(  # SmolLM2-135M
  num_layers=30,
  width=576,
  num_heads=9,
  num_kv_heads=3,
  head_dim=64,
  mlp_width=1536,
  vocab_size=49_152,
  rope_base=100_000.0,
  tied_head=True,
)
TINY = TransformerConfig(
  num_layers=8,
  width=256,
  num_heads=4,
  num_kv_heads=4,
  head_dim=64,
  mlp_width=1024,
  vocab_size=512,
  tied_head=True,
)
QWEN3 = TransformerConfig(  # Qwen3-0.6B
  num_layers=28,
  width=1024,
  num_heads=16,
  num_kv_heads=8,
  head_dim=128,
  mlp_width=3072,
  vocab_size=151_936,
  rope_base=1e6,
  norm_eps=1e-6,
  qk_norm="head",
  tied_head=True,
)
EIGHT = TransformerConfig(  # all of whose axes eight devices divide
  num_layers=2,
  width=256,
  num_heads=8,
  num_kv_heads=8,
  head_dim=32,
  mlp_width=1024,
  vocab_size=1024,
  tied_head=True,
)
MODELS = {"smol": SMOL, "tiny": TINY, "qwen3": QWEN3, "eight": EIGHT}


def random_params(config: TransformerConfig) -> dict:
  """Returns parameters of a usual size; nothing is compiled to draw them."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    functools.partial(parameters.init, config), jax.random.key(0)
  )

  def draw(path, x):
    if path[-1].key == "scale":  # of a norm
      return np.ones(x.shape, x.dtype)
    return 0.02 * rng.standard_normal(x.shape, np.float32).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def transformers_config(config: TransformerConfig):
  """Returns what makes the same model in transformers: its class, and how."""
  import transformers

  kinds = {
    "none": (transformers.LlamaForCausalLM, transformers.LlamaConfig),
    "head": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config),
  }
  model_class, config_class = kinds[config.qk_norm]
  return model_class, config_class(
    vocab_size=config.vocab_size,
    hidden_size=config.width,
    intermediate_size=config.mlp_width,
    num_hidden_layers=config.num_layers,
    num_attention_heads=config.num_heads,
    num_key_value_heads=config.num_kv_heads,
    head_dim=config.head_dim,
    rms_norm_eps=config.norm_eps,
    rope_parameters={
      "rope_type": "default",
      "rope_theta": config.rope_base,
    },
    tie_word_embeddings=config.tied_head,
    max_position_embeddings=32_768,
  )


def transformers_twin(config: TransformerConfig, params: dict):
  """Returns the same model with the same weights in transformers, float32."""
  import torch

  torch.set_grad_enabled(False)
  model_class, theirs_config = transformers_config(config)
  theirs = model_class(theirs_config).eval()
  host = jax.device_get(params)
  tensors = importing.to_hugging_face(host, theirs_config.model_type)
  missing, unexpected = theirs.load_state_dict(
    {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()},
    strict=False,
  )
  assert not unexpected, unexpected
  assert set(missing) <= {"lm_head.weight"}, missing
  return theirs
