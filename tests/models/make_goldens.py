"""Tiny models of every family, and what transformers makes of them.

  python tests/models/make_goldens.py [FAMILY ...]

Writes goldens/*.npz, which test_families.py compares with; needs torch and
transformers. Weights are drawn from the tensors' names and shapes.
"""

import json
import pathlib
import sys
import tempfile
import zlib

import numpy as np

GOLDENS = pathlib.Path(__file__).parent / "goldens"
LENGTH, NUM_SAMPLED = 80, 64
# Of row `i`, the first so many tokens are continued; two share a trunk.
PROMPTS = ((0, 20), (0, 9), (1, 15))
_NUM_PROJECTIONS = 8

_COMMON = dict(
  vocab_size=29,
  hidden_size=36,
  num_hidden_layers=2,
  num_attention_heads=9,
  num_key_value_heads=3,
  intermediate_size=20,
  rms_norm_eps=1e-5,
  rope_theta=500.0,
  max_position_embeddings=256,
  tie_word_embeddings=False,
  bos_token_id=None,
  eos_token_id=None,
  pad_token_id=None,
)
_LLAMA3 = dict(
  rope_type="llama3",
  factor=4.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=16,
)


def _tiny(model_type, **settings):
  return _COMMON | dict(model_type=model_type) | settings


# Sizes that nothing divides by chance, windows shorter than the text.
MODELS = {
  "llama": _tiny("llama", head_dim=6, rope_scaling=_LLAMA3),
  "smollm2": _tiny("llama", tie_word_embeddings=True, num_key_value_heads=1),
  "smollm3": _tiny(
    "smollm3",
    num_hidden_layers=3,
    no_rope_layer_interval=2,
    tie_word_embeddings=True,
  ),
  "qwen2": _tiny(
    "qwen2",
    num_hidden_layers=3,
    use_sliding_window=True,
    sliding_window=11,
    max_window_layers=1,
    tie_word_embeddings=True,
  ),
  "qwen3": _tiny("qwen3", head_dim=10),
  "qwen3_moe": _tiny(
    "qwen3_moe",
    head_dim=10,
    num_experts=5,
    num_experts_per_tok=3,
    moe_intermediate_size=10,
    norm_topk_prob=True,
  ),
  "gemma2": _tiny(
    "gemma2",
    num_hidden_layers=3,
    head_dim=6,
    sliding_window=7,
    query_pre_attn_scalar=11,
    attn_logit_softcapping=2.0,
    final_logit_softcapping=3.0,
    hidden_activation="gelu_pytorch_tanh",
    tie_word_embeddings=True,
  ),
  "gemma3": _tiny(
    "gemma3_text",
    num_hidden_layers=4,
    head_dim=6,
    sliding_window=7,
    sliding_window_pattern=3,
    query_pre_attn_scalar=11,
    rope_local_base_freq=50.0,
    rope_scaling=dict(rope_type="linear", factor=8.0),
    hidden_activation="gelu_pytorch_tanh",
    tie_word_embeddings=True,
  ),
  "olmo2": _tiny("olmo2"),
  "mistral": _tiny("mistral", head_dim=6, sliding_window=13),
  "mistral_v03": _tiny("mistral", sliding_window=None),
}


def seeded(name: str) -> np.random.Generator:
  """Returns a generator that depends on a name alone."""
  return np.random.default_rng(zlib.crc32(name.encode()))


def token_rows(name: str) -> np.ndarray:
  """Returns what the model reads, int [2, LENGTH]."""
  vocab = MODELS[name]["vocab_size"]
  return seeded(name).integers(0, vocab, (2, LENGTH)).astype(np.int32)


def write_model(name: str, folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Writes the model as a Hugging Face folder; returns its tensors."""
  import jax
  from etils import epath
  from safetensors.numpy import save_file

  from prefixrl_jax.models import importing, parameters

  settings = MODELS[name]
  (folder / "config.json").write_text(json.dumps(settings))
  config = importing.read_config(
    epath.Path(folder), dtype="float32", param_dtype="float32", remat="none"
  )
  zeros = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype),
    jax.eval_shape(lambda: parameters.init(config, jax.random.key(0))),
  )
  tensors = importing.to_hugging_face(zeros, settings["model_type"])
  is_gemma = settings["model_type"].startswith("gemma")
  for tensor, zero in tensors.items():
    x = seeded(name + tensor).normal(size=zero.shape)
    if tensor.endswith("norm.weight"):
      x = 0.3 * x + (not is_gemma)
    elif zero.ndim > 1:
      x *= 1.5 * zero.shape[1] ** -0.5
      if is_gemma and "embed" in tensor:
        x *= 0.4  # scaled up, a token's own would drown what layers add
    tensors[tensor] = x.astype(np.float32)
  save_file(tensors, folder / "model.safetensors")
  return tensors


def reference(name: str, folder: pathlib.Path) -> dict:
  """Returns what transformers makes of the folder.

  Returns:
    logits [2, T, V]; greedy [prompts, NUM_SAMPLED]; gradients {tensor: array}
    of the mean log-probability of all tokens but the first.
  """
  import torch
  import transformers
  from safetensors.numpy import load_file

  model, info = transformers.AutoModelForCausalLM.from_pretrained(
    folder,
    dtype=torch.float32,
    attn_implementation="eager",
    experts_implementation="eager",  # others want sizes that 4 divides
    output_loading_info=True,
  )
  wrong = {k: v for k, v in info.items() if v and k != "conversion_errors"}
  assert not wrong, wrong
  model.eval()
  rows = torch.from_numpy(token_rows(name)).long()
  logits = model(rows).logits
  logprobs = torch.log_softmax(logits[:, :-1].float(), -1)
  logprobs.gather(-1, rows[:, 1:, None]).mean().backward()
  greedy = [
    model.generate(
      rows[i : i + 1, :n],
      attention_mask=torch.ones(1, n, dtype=torch.long),
      do_sample=False,
      max_new_tokens=NUM_SAMPLED,
      eos_token_id=None,
      pad_token_id=0,
    )[0, n:].numpy()
    for i, n in PROMPTS
  ]
  # Saved as if they were weights, so that they get a checkpoint's names.
  for parameter in model.parameters():
    parameter.data = parameter.grad
  with tempfile.TemporaryDirectory() as saved:
    model.save_pretrained(saved)
    gradients = load_file(pathlib.Path(saved) / "model.safetensors")
  return dict(
    logits=logits.detach().numpy(),
    greedy=np.stack(greedy).astype(np.int32),
    gradients=gradients,
  )


def project(gradients: dict[str, np.ndarray]) -> np.ndarray:
  """Returns each tensor's norm and sums under random signs, [tensors, 1 + 8].

  The mean square of the sums is the tensor's square norm; so it is for the
  difference of two tensors, which is what a test is after.
  """
  rows = []
  for name in sorted(gradients):
    flat = np.asarray(gradients[name], np.float64).ravel()
    signs = seeded(name).choice([-1.0, 1.0], (_NUM_PROJECTIONS, flat.size))
    rows.append([np.linalg.norm(flat), *signs @ flat])
  return np.array(rows)


def main(names: list[str]) -> None:
  GOLDENS.mkdir(exist_ok=True)
  for name in names or MODELS:
    with tempfile.TemporaryDirectory() as folder:
      write_model(name, pathlib.Path(folder))
      made = reference(name, pathlib.Path(folder))
    np.savez_compressed(
      GOLDENS / f"{name}.npz",
      settings=json.dumps(MODELS[name]),
      tokens=token_rows(name),
      logits=made["logits"],
      greedy=made["greedy"],
      gradients=project(made["gradients"]).astype(np.float32),
    )
    print(name, "samples", len(np.unique(made["greedy"])), "different tokens")


if __name__ == "__main__":
  main(sys.argv[1:])
