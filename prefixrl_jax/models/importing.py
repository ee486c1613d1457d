"""Weights of other people: Hugging Face folders into our parameter tree.

Loading is strict: a setting we would ignore, a tensor we do not know or do not
find is an error.
"""

import collections
import gc
import itertools
import math
import re
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from prefixrl_jax.models import families, folders, parameters
from prefixrl_jax.models.decoder_config import TransformerConfig
from prefixrl_jax.models.families import FAMILIES
from prefixrl_jax.models.weights import Weight
from prefixrl_jax.types import UserError

# Bytes of one read, so that a shard and what it is made from are never both
# whole on the host.
READ_BYTES = 1 << 23
# Buffers that some programs save; they are computed from config.json.
_COMPUTED = re.compile(
  r"(?:^|\.)rotary_emb(?:_local|_global)?"
  r"\.(?:original_)?(?:inv_freq|cos_cached|sin_cached)$"
)
_DTYPES = ("F64", "F32", "F16", "BF16")


class Tensor(NamedTuple):
  """One of their tensors: all of a parameter, or one layer or expert of it.

  Attributes:
    name: theirs.
    ours: the parameter's.
    place: its index among the layers and experts.
    shape: theirs.
  """

  name: str
  ours: str
  place: tuple[int, ...]
  shape: tuple[int, ...]


def read_config(
  folder: epath.Path, *, dtype: str, param_dtype: str, remat: str
) -> TransformerConfig:
  """Reads config.json.

  Args:
    folder: of a Hugging Face model.
    dtype, param_dtype, remat: see TransformerConfig.

  Raises:
    UserError: no folder, no config.json, or see `families.config_fields`.
  """
  theirs = folders.read_json(folder, "config.json")
  return config_of(
    theirs,
    f"{folder}/config.json",
    dtype=dtype,
    param_dtype=param_dtype,
    remat=remat,
  )


def config_of(
  theirs: dict[str, Any],
  source: str,
  *,
  dtype: str,
  param_dtype: str,
  remat: str,
) -> TransformerConfig:
  """Returns what a config.json says.

  Args:
    theirs: what it holds.
    source: of it, for errors.
    dtype, param_dtype, remat: see TransformerConfig.

  Raises:
    UserError: see `families.config_fields`.
  """
  return TransformerConfig(
    **families.config_fields(theirs, source),
    dtype=dtype,
    param_dtype=param_dtype,
    remat=remat,
  )


def load_weights(folder: epath.Path, config: TransformerConfig, mesh) -> dict:
  """Loads the weights onto the mesh, each process its own slices.

  The host holds one device's shard of one parameter at a time.

  Args:
    folder: of a Hugging Face model, safetensors in one file or several.
    config: from `read_config`.
    mesh: parameters are sharded on it as the rules table says.

  Raises:
    UserError: names every tensor that is missing, unexpected, there twice,
      wanted twice, misshapen or of a type that is not read.
  """
  family = folders.read_family(folder)
  weights = FAMILIES[family].weights
  abstract = parameters.abstract_params(config, mesh)
  files, problems = folders.open_files(folder)
  stored = stored_names(weights, config.tied_head, files)
  ignored = {weights["head"].name} if config.tied_head else set()
  wanted = list(tensors(abstract, family))
  problems += _find_problems(wanted, files, stored, ignored)
  if problems:
    raise UserError(
      f"{folder} does not hold the weights of a {family} model of its"
      " config.json:\n  " + "\n  ".join(problems)
    )

  def tensor_of(name):
    name = stored.get(name, name)
    return files[name].get_slice(name)

  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: _load(
      tensor_of, weights[parameters.name_of(path)], leaf
    ),
    abstract,
  )


def _find_problems(
  wanted: list[Tensor],
  files: Mapping[str, Any],
  stored: Mapping[str, str],
  ignored: set[str],
) -> list[str]:
  """Returns what is wrong with the tensors that the files have.

  Args:
    wanted: what the model needs.
    files: tensor name -> open file.
    stored: from `stored_names`.
    ignored: tensors that may be there and are not read.
  """
  problems = []
  users: dict[str, str] = {}
  for name, ours, _, shape in wanted:
    if name in users:
      problems.append(f"{name} is used twice, for {users[name]} and {ours}")
    users[name] = ours
    source = stored.get(name, name)
    if source not in files:
      problems.append(f"{name} is missing")
      continue
    tensor = files[source].get_slice(source)
    found = tuple(tensor.get_shape())
    if found != shape:
      problems.append(f"{name} has shape {found}, expected {shape}")
    if tensor.get_dtype() not in _DTYPES:
      problems.append(
        f"{name} is of type {tensor.get_dtype()}, which is none of"
        f" {', '.join(_DTYPES)}"
      )
  return problems + [
    f"{name} is unexpected"
    for name in sorted(files.keys() - users.keys() - ignored)
    if not _COMPUTED.search(name)
  ]


def _load(tensor_of: Callable[[str], Any], weight: Weight, like) -> jax.Array:
  """Loads a parameter, one device's shard after another.

  Args:
    tensor_of: their name -> an open tensor that can be sliced.
    weight: where the parameter comes from.
    like: its shape, dtype and sharding.
  """
  stacked, shape = _stacked(weight, like.shape)

  def read(bounds):
    value = np.empty([len(b) for b in bounds], like.dtype)
    places, inner = bounds[: len(stacked)], bounds[len(stacked) :]
    for place in itertools.product(*places):
      tensor = tensor_of(weight.name.format(*place))
      at = tuple(i - b.start for i, b in zip(place, places))
      _read(tensor, inner, shape, weight, value[at])
    return value

  def put(bounds, devices):
    value = read(bounds)
    copies = [jax.device_put(value, device) for device in devices]
    jax.block_until_ready(copies)
    if value.nbytes > READ_BYTES:
      alive = weakref.ref(value)
      del value
      _wait_for_end(alive)
    return copies

  # Devices that hold copies of one slice get it from one reading.
  slices = collections.defaultdict(list)
  indices = like.sharding.addressable_devices_indices_map(like.shape)
  for device, index in indices.items():
    bounds = tuple(range(n)[i] for n, i in zip(like.shape, index))
    slices[bounds].append(device)
  return jax.make_array_from_single_device_arrays(
    like.shape,
    like.sharding,
    [shard for item in slices.items() for shard in put(*item)],
  )


def stored_names(
  weights: Mapping[str, Weight], tied: bool, there: Collection[str]
) -> dict[str, str]:
  """Returns the names of tensors that a folder has under another name.

  Of a tied model some programs save the head alone; it is the embedding too.

  Args:
    weights: of the family.
    tied: whether head and embedding are one.
    there: the names that the folder has.
  """
  embedding, head = weights["embedding"].name, weights["head"].name
  if tied and embedding not in there and head in there:
    return {embedding: head}
  return {}


def to_hugging_face(
  params: dict, family: str = "llama"
) -> dict[str, np.ndarray]:
  """Returns the weights under the family's names: what `load_weights` reads.

  Args:
    params: on the host.
    family: a model_type of config.json.
  """
  ours = parameters.by_name(params)
  return {
    t.name: folded(
      np.asarray(ours[t.ours][t.place]), FAMILIES[family].weights[t.ours]
    )
    for t in tensors(params, family)
  }


def tensors(params: dict, family: str) -> Iterator[Tensor]:
  """Yields the family's tensors, parameter by parameter.

  Args:
    params: arrays or shapes.
    family: a model_type of config.json.
  """
  for ours, leaf in parameters.by_name(params).items():
    weight = FAMILIES[family].weights[ours]
    stacked, shape = _stacked(weight, leaf.shape)
    theirs = _their_shape(shape, weight)
    for place in itertools.product(*map(range, stacked)):
      yield Tensor(weight.name.format(*place), ours, place, theirs)


def folded(value, weight: Weight):
  """Returns one layer's or expert's part of ours as their tensor.

  Args:
    value: [*inputs, *outputs], or a vector with its axes.
    weight: of the parameter.

  Returns:
    [outputs, inputs], or [outputs].
  """
  value = value.reshape(
    [math.prod(axes) for axes in _groups(value.shape, weight)]
  )
  return value.T if weight.inputs else value


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


def _read(tensor, bounds, shape, weight: Weight, out: np.ndarray) -> None:
  """Reads what lies within bounds, one range for each axis of ours, into out.

  Converts to out's dtype on the way.
  """
  rest, theirs = list(bounds), []
  for sizes in _groups(shape, weight):
    first, *inner = (rest.pop(0) for _ in sizes)
    assert [len(b) for b in inner] == [*sizes[1:]], "head_dim is never sharded"
    each = math.prod(sizes[1:])
    theirs.append(range(first.start * each, first.stop * each))
  out = out.reshape([len(b) for b in theirs])
  if weight.inputs:
    out, theirs = out.T, theirs[::-1]
  whole = [slice(b.start, b.stop) for b in theirs[1:]]
  step = max(1, READ_BYTES // max(1, out[:1].nbytes))
  for i in range(0, len(out), step):
    rows = theirs[0][i : i + step]
    out[i : i + step] = tensor[(slice(rows.start, rows.stop), *whole)]


def _wait_for_end(alive: weakref.ref) -> None:
  """Waits until JAX has let go of an array that it has copied.

  It does so some time after the copy is ready, and when Python collects
  garbage; the next shard would be there by then. On a CPU it keeps an array
  that happens to be aligned, instead of a copy.
  """
  for _ in range(20):
    gc.collect(0)
    if alive() is None:
      return
    time.sleep(1e-3)
