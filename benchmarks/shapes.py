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
MODELS = {"smol": SMOL, "tiny": TINY}


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


def transformers_twin(config: TransformerConfig, params: dict):
  """Returns the same model with the same weights in transformers, float32."""
  import torch
  import transformers

  torch.set_grad_enabled(False)
  theirs = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
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
    )
  ).eval()
  tensors = importing.to_hugging_face(jax.device_get(params))
  missing, unexpected = theirs.load_state_dict(
    {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()},
    strict=False,
  )
  assert not unexpected, unexpected
  assert set(missing) <= {"lm_head.weight"}, missing
  return theirs
