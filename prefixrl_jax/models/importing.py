"""Weights of other people: Hugging Face folders into our parameter tree.

A family is a row of settings and a table of weight names. Loading is strict:
a setting we would ignore, a tensor we do not know or do not find is an error.
"""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath

from prefixrl_jax.models import transformer
from prefixrl_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class _Weight:
  """Where a parameter of ours comes from.

  Theirs is [outputs, inputs]; ours is [inputs, outputs] with heads apart.
  `{}` in the name is the layer.
  """

  name: str
  transposed: bool = True


_LLAMA_WEIGHTS = {
  "embedding": _Weight("model.embed_tokens.weight", transposed=False),
  "head": _Weight("lm_head.weight"),
  "final_norm.scale": _Weight("model.norm.weight", transposed=False),
  "layers.attention_norm.scale": _Weight(
    "model.layers.{}.input_layernorm.weight", transposed=False
  ),
  "layers.mlp_norm.scale": _Weight(
    "model.layers.{}.post_attention_layernorm.weight", transposed=False
  ),
  "layers.query": _Weight("model.layers.{}.self_attn.q_proj.weight"),
  "layers.key": _Weight("model.layers.{}.self_attn.k_proj.weight"),
  "layers.value": _Weight("model.layers.{}.self_attn.v_proj.weight"),
  "layers.output": _Weight("model.layers.{}.self_attn.o_proj.weight"),
  "layers.gate": _Weight("model.layers.{}.mlp.gate_proj.weight"),
  "layers.up": _Weight("model.layers.{}.mlp.up_proj.weight"),
  "layers.down": _Weight("model.layers.{}.mlp.down_proj.weight"),
}

# Family (config.json's model_type) -> weight names, and the values that
# settings must have because the decoder does nothing else.
_FAMILIES: dict[str, tuple[dict[str, _Weight], dict[str, tuple]]] = {
  "llama": (
    _LLAMA_WEIGHTS,
    {
      "hidden_act": ("silu",),
      "attention_bias": (False, None),
      "mlp_bias": (False, None),
      "rope_scaling": (None,),
      "quantization_config": (None,),
      "sliding_window": (None,),
      "partial_rotary_factor": (1.0, None),
      "pretraining_tp": (1, None),
    },
  ),
}


def read_config(
  folder: epath.Path, *, dtype: str, param_dtype: str, remat: str
) -> transformer.TransformerConfig:
  """Reads config.json.

  Args:
    folder: of a Hugging Face model.
    dtype, param_dtype, remat: see TransformerConfig.

  Raises:
    UserError: no folder, no config.json, an unknown family, or a setting that
      changes the computation in a way the decoder does not know.
  """
  theirs = _read_json(folder, "config.json")
  family = theirs.get("model_type")
  if family not in _FAMILIES:
    raise UserError(
      f"{folder}/config.json: model_type {family!r} is not known; known are"
      f" {', '.join(_FAMILIES)}."
    )
  for name, allowed in _FAMILIES[family][1].items():
    if theirs.get(name) not in allowed:
      raise UserError(
        f"{folder}/config.json: {name} = {theirs[name]!r} is not supported for"
        f" {family}; it must be {allowed[0]!r}."
      )
  # Newer transformers keep the base under rope_parameters.
  rope = theirs.get("rope_parameters") or {}
  if rope.get("rope_type", "default") != "default":
    raise UserError(
      f"{folder}/config.json: rope_type {rope['rope_type']!r} is not"
      " supported; it must be 'default'."
    )
  try:
    heads = theirs["num_attention_heads"]
    return transformer.TransformerConfig(
      num_layers=theirs["num_hidden_layers"],
      width=theirs["hidden_size"],
      num_heads=heads,
      num_kv_heads=theirs.get("num_key_value_heads") or heads,
      head_dim=theirs.get("head_dim") or theirs["hidden_size"] // heads,
      mlp_width=theirs["intermediate_size"],
      vocab_size=theirs["vocab_size"],
      mlp="gated_silu",
      rope_base=float(
        rope.get("rope_theta") or theirs.get("rope_theta") or 10_000.0
      ),
      norm_eps=theirs["rms_norm_eps"],
      tied_head=theirs.get("tie_word_embeddings", False),
      dtype=dtype,
      param_dtype=param_dtype,
      remat=remat,
    )
  except KeyError as e:
    raise UserError(f"{folder}/config.json lacks {e}.") from None


def load_params(
  folder: epath.Path, config: transformer.TransformerConfig, mesh
) -> dict:
  """Loads the weights onto the mesh, each process its own slices.

  Args:
    folder: of a Hugging Face model, safetensors in one file or several.
    config: from `read_config`.
    mesh: where the rules table puts them.

  Raises:
    UserError: names every missing, unexpected and misshapen tensor.
  """
  family = _read_json(folder, "config.json")["model_type"]
  weights = _FAMILIES[family][0]
  files = _tensor_files(folder)
  abstract = transformer.abstract_params(config, mesh)
  flat = {
    ".".join(k.key for k in path): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]
  }
  problems: list[str] = []
  wanted: set[str] = set()
  handles: dict[epath.Path, Any] = {}

  def tensor(name):
    file = files[name]
    if file not in handles:
      handles[file] = safetensors.safe_open(str(file), framework="numpy")
    return handles[file].get_slice(name)

  for ours, leaf in flat.items():
    stacked = ours.startswith("layers.")
    shape = leaf.shape[1:] if stacked else leaf.shape
    for i in range(config.num_layers if stacked else 1):
      name = weights[ours].name.format(i)
      wanted.add(name)
      if name not in files:
        problems.append(f"{name} is missing")
        continue
      expected = _their_shape(ours, shape, weights[ours])
      found = tuple(tensor(name).get_shape())
      if found != expected:
        problems.append(f"{name} has shape {found}, expected {expected}")
  ignored = {"lm_head.weight"} if config.tied_head else set()
  problems += [
    f"{name} is unexpected" for name in sorted(files.keys() - wanted - ignored)
  ]
  if problems:
    raise UserError(
      f"{folder} does not hold the weights of a {family} model of its"
      " config.json:\n  " + "\n  ".join(problems)
    )

  def load(ours, leaf):
    stacked = ours.startswith("layers.")
    shape = leaf.shape[1:] if stacked else leaf.shape
    dtype = jnp.dtype(config.param_dtype)

    def read(index):
      if not stacked:
        return _read(
          tensor(weights[ours].name), index, shape, weights[ours], ours
        ).astype(dtype)
      layers = range(config.num_layers)[index[0]]
      return np.stack(
        [
          _read(
            tensor(weights[ours].name.format(i)),
            index[1:],
            shape,
            weights[ours],
            ours,
          ).astype(dtype)
          for i in layers
        ]
      )

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, read)

  loaded = {ours: load(ours, leaf) for ours, leaf in flat.items()}
  paths, tree = jax.tree_util.tree_flatten_with_path(abstract)
  return jax.tree.unflatten(
    tree, [loaded[".".join(k.key for k in path)] for path, _ in paths]
  )


def to_hugging_face(
  config: transformer.TransformerConfig, params: dict, family: str = "llama"
) -> dict[str, np.ndarray]:
  """Returns the weights under the family's names: what `load_params` reads.

  Args:
    config: TransformerConfig.
    params: on the host.
    family: a model_type of config.json.
  """
  weights = _FAMILIES[family][0]
  tensors = {}
  for path, value in jax.tree_util.tree_flatten_with_path(params)[0]:
    ours = ".".join(k.key for k in path)
    stacked = ours.startswith("layers.")
    for i, one in enumerate(value if stacked else [value]):
      matrix = np.asarray(one).reshape(_matrix_shape(ours, one.shape))
      tensors[weights[ours].name.format(i)] = (
        matrix.T if weights[ours].transposed else matrix
      )
  return tensors


def _matrix_shape(ours: str, shape) -> tuple[int, ...]:
  """Ours with the heads' axes folded: [inputs, outputs]."""
  if len(shape) < 3:
    return tuple(shape)
  if ours == "layers.output":  # [N, H, D]
    return (shape[0] * shape[1], shape[2])
  return (shape[0], shape[1] * shape[2])  # [D, N, H]


def _their_shape(ours, shape, weight) -> tuple[int, ...]:
  folded = _matrix_shape(ours, shape)
  return folded[::-1] if weight.transposed else folded


def _read(tensor, index, shape, weight, ours) -> np.ndarray:
  """Reads the slice `index` of our array [inputs, outputs, with heads]."""
  bounds = [range(n)[i] for n, i in zip(shape, index)]
  if len(shape) == 3:
    pair = (0, 1) if ours == "layers.output" else (1, 2)
    heads, dims = bounds[pair[0]], bounds[pair[1]]
    assert len(dims) == shape[pair[1]], "head_dim is never sharded"
    folded = range(heads.start * len(dims), heads.stop * len(dims))
    rest = bounds[3 - sum(pair)]
    matrix = [folded, rest] if pair == (0, 1) else [rest, folded]
  else:
    matrix = bounds
  slices = tuple(slice(b.start, b.stop) for b in matrix)
  value = tensor[slices[::-1] if weight.transposed else slices]
  value = value.T if weight.transposed else value
  return value.reshape([len(b) for b in bounds])


def _tensor_files(folder: epath.Path) -> dict[str, epath.Path]:
  """Returns tensor name -> file."""
  single = folder / "model.safetensors"
  if (folder / "model.safetensors.index.json").exists():
    index = _read_json(folder, "model.safetensors.index.json")["weight_map"]
    files = {name: folder / file for name, file in index.items()}
    absent = sorted({str(f) for f in files.values() if not f.exists()})
    if absent:
      raise UserError(
        f"{folder}/model.safetensors.index.json names files that are not"
        f" there: {', '.join(absent)}."
      )
    return files
  if single.exists():
    with safetensors.safe_open(str(single), framework="numpy") as f:
      return dict.fromkeys(f.keys(), single)
  hint = ""
  if list(folder.glob("*.bin")):
    hint = (
      " The .bin files there are pickles and are not read: save the model"
      " again with safe_serialization=True."
    )
  raise UserError(f"{folder} has no model.safetensors.{hint}")


def _read_json(folder: epath.Path, name: str) -> dict[str, Any]:
  if not folder.exists():
    raise UserError(
      f"there is no model folder {folder}; set config.model.folder to a"
      " Hugging Face folder (config.json, model.safetensors, tokenizer.json)."
    )
  path = folder / name
  if not path.exists():
    raise UserError(f"{path} is missing.")
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as e:
    raise UserError(f"{path} is not JSON: {e}.") from None
