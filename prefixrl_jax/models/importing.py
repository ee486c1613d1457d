"""Weights of other people: Hugging Face folders into our parameter tree.

Loading is strict: a setting we would ignore, a tensor we do not know or do not
find is an error.
"""

import itertools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath

from prefixrl_jax.models import families, transformer
from prefixrl_jax.models.families import FAMILIES, Weight
from prefixrl_jax.types import UserError


def read_config(
  folder: epath.Path, *, dtype: str, param_dtype: str, remat: str
) -> transformer.TransformerConfig:
  """Reads config.json.

  Args:
    folder: of a Hugging Face model.
    dtype, param_dtype, remat: see TransformerConfig.

  Raises:
    UserError: no folder, no config.json, or see `families.read_settings`.
  """
  theirs = _read_json(folder, "config.json")
  return transformer.TransformerConfig(
    **families.read_settings(theirs, f"{folder}/config.json"),
    dtype=dtype,
    param_dtype=param_dtype,
    remat=remat,
  )


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
  weights = FAMILIES[family].weights
  files = _tensor_files(folder)
  abstract = transformer.abstract_params(config, mesh)
  problems: list[str] = []
  wanted: set[str] = set()
  handles: dict[epath.Path, Any] = {}

  def tensor(name):
    file = files[name]
    if file not in handles:
      handles[file] = safetensors.safe_open(str(file), framework="numpy")
    return handles[file].get_slice(name)

  for ours, leaf in _flat(abstract).items():
    weight = weights[ours]
    stacked, shape = _stacked(weight, leaf.shape)
    expected = _their_shape(shape, weight)
    for place in itertools.product(*map(range, stacked)):
      name = weight.name.format(*place)
      if name in wanted:
        problems.append(f"{name} is used twice")
      wanted.add(name)
      if name not in files:
        problems.append(f"{name} is missing")
        continue
      found = tuple(tensor(name).get_shape())
      if found != expected:
        problems.append(f"{name} has shape {found}, expected {expected}")
  ignored = {weights["head"].name} if config.tied_head else set()
  problems += [
    f"{name} is unexpected" for name in sorted(files.keys() - wanted - ignored)
  ]
  if problems:
    raise UserError(
      f"{folder} does not hold the weights of a {family} model of its"
      " config.json:\n  " + "\n  ".join(problems)
    )

  def load(path, leaf):
    weight = weights[_name(path)]
    stacked, shape = _stacked(weight, leaf.shape)

    def read(index):
      bounds = [range(n)[i] for n, i in zip(leaf.shape, index)]
      places, bounds = bounds[: len(stacked)], bounds[len(stacked) :]
      parts = [
        _read(tensor(weight.name.format(*place)), bounds, shape, weight).astype(
          jnp.dtype(config.param_dtype), copy=False
        )
        for place in itertools.product(*places)
      ]
      whole = np.stack(parts) if stacked else parts[0]
      return whole.reshape([len(b) for b in (*places, *bounds)])

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, read)

  return jax.tree_util.tree_map_with_path(load, abstract)


def to_hugging_face(
  config: transformer.TransformerConfig, params: dict, family: str = "llama"
) -> dict[str, np.ndarray]:
  """Returns the weights under the family's names: what `load_params` reads.

  Args:
    config: TransformerConfig.
    params: on the host.
    family: a model_type of config.json.
  """
  tensors = {}
  for ours, value in _flat(params).items():
    weight = FAMILIES[family].weights[ours]
    stacked, shape = _stacked(weight, value.shape)
    for place in itertools.product(*map(range, stacked)):
      folded = [math.prod(axes) for axes in _groups(shape, weight)]
      matrix = np.asarray(value[place]).reshape(folded)
      tensors[weight.name.format(*place)] = (
        matrix.T if weight.inputs else matrix
      )
  return tensors


def _flat(tree) -> dict[str, Any]:
  """Returns the leaves by our names."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {_name(path): leaf for path, leaf in leaves}


def _name(path) -> str:
  return ".".join(k.key for k in path)


def _stacked(weight: Weight, shape) -> tuple[tuple, tuple]:
  """Returns the axes of layers and experts, and those of one tensor."""
  n = weight.name.count("{}")
  return tuple(shape[:n]), tuple(shape[n:])


def _groups(shape, weight: Weight) -> list[tuple]:
  """Returns our axes in groups, each of which is one axis of theirs."""
  if weight.inputs is None:
    return [(n,) for n in shape]
  groups = [tuple(shape[: weight.inputs]), tuple(shape[weight.inputs :])]
  return [group for group in groups if group]


def _their_shape(shape, weight: Weight) -> tuple[int, ...]:
  folded = tuple(math.prod(axes) for axes in _groups(shape, weight))
  return folded[::-1] if weight.inputs else folded


def _read(tensor, bounds, shape, weight: Weight) -> np.ndarray:
  """Reads what lies within bounds, one range for each axis of ours."""
  rest, folded = list(bounds), []
  for sizes in _groups(shape, weight):
    first, *inner = (rest.pop(0) for _ in sizes)
    assert [len(b) for b in inner] == [*sizes[1:]], "head_dim is never sharded"
    each = math.prod(sizes[1:])
    folded.append(slice(first.start * each, first.stop * each))
  value = tensor[tuple(folded[::-1] if weight.inputs else folded)]
  value = value.T if weight.inputs else value
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
