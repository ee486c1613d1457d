"""Weights for other people: our parameter tree into a Hugging Face folder.

What is written has the names, files and settings that the source had, so that
whatever opens the source opens it.
"""

import collections
import functools
import itertools
import json
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from prefixrl_jax.distributed import cluster, sharding
from prefixrl_jax.models import folders, importing, parameters
from prefixrl_jax.models.decoder_config import Lora
from prefixrl_jax.models.families import FAMILIES
from prefixrl_jax.models.importing import Tensor
from prefixrl_jax.storage.files import (
  read_json,
  whole_folder,
  write_bytes,
  write_chunks,
  write_text,
)
from prefixrl_jax.types import UserError

_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def export(
  folder: epath.Path,
  source: epath.Path,
  params: dict,
  *,
  dtype: str,
  max_bytes: int,
  card: str = "",
) -> None:
  """Writes the parameters as a Hugging Face folder, which is whole or absent.

  The host holds one tensor at a time. All processes take part, the first one
  writes.

  Args:
    folder: is replaced.
    source: the folder that the model came from; tokenizer and settings are
      taken from there.
    params: on the mesh.
    dtype: of what is written.
    max_bytes: of a weight file; a tensor that is larger has one to itself.
    card: the text of README.md; empty: none is written.
  """
  family = folders.read_family(source)
  tensors = list(importing.tensors(params, family))
  itemsize = jnp.dtype(dtype).itemsize
  sizes = {t.name: itemsize * math.prod(t.shape) for t in tensors}
  before = folders.tensor_files(source)
  weights = FAMILIES[family].weights
  tied = all(t.ours != "head" for t in tensors)
  for name, other in importing.stored_names(weights, tied, before).items():
    before[name] = before[other]
  files = _divide(sizes, tensors, before, max_bytes)
  ours = parameters.by_name(params)
  everywhere = sharding.replicated(next(iter(ours.values())).sharding.mesh)

  def read(tensor):
    weight = FAMILIES[family].weights[tensor.ours]
    value = ours[tensor.ours]
    return _gathered(value, tensor.place, weight, dtype, everywhere)

  if not cluster.is_first():
    with cluster.alone():  # as the first one is, below
      for tensor in itertools.chain.from_iterable(files.values()):
        read(tensor).block_until_ready()
    return
  with cluster.alone(), whole_folder(folder) as temporary:
    for path in itertools.chain.from_iterable(
      map(source.glob, folders.SIDE_FILES)
    ):
      if path.is_file():
        copy = temporary / path.relative_to(source)
        write_bytes(copy, path.read_bytes())
    _write_card(temporary, card)
    settings = read_json(source / "config.json")
    # Older readers know the one, newer ones write the other.
    key = "dtype" if "dtype" in settings else "torch_dtype"
    _write_json(temporary / "config.json", settings | {key: dtype})
    for file, members in files.items():
      write_chunks(temporary / file, _chunks(members, dtype, read))
    if len(files) > 1:
      where = {t.name: file for file, members in files.items() for t in members}
      _write_json(
        temporary / folders.INDEX,
        {
          "metadata": {"total_size": sum(sizes.values())},
          "weight_map": dict(sorted(where.items())),
        },
      )


def export_adapters(
  folder: epath.Path,
  source: epath.Path,
  adapters: dict,
  lora: Lora,
  *,
  base: str,
  revision: str | None = None,
  card: str = "",
) -> None:
  """Writes adapters as the library peft does; the folder is whole or absent.

  Args:
    folder: is replaced.
    source: the folder that the base model came from.
    adapters: on the mesh.
    lora: their settings.
    base: where whoever opens them finds the base model.
    revision: of the base model, if that is a repository of the hub.
    card: the text of README.md; empty: none is written.
  """
  family = FAMILIES[folders.read_family(source)]
  everywhere = sharding.replicated(jax.tree.leaves(adapters)[0].sharding.mesh)
  whole = jax.jit(lambda x: x, out_shardings=everywhere)(adapters)
  if not cluster.is_first():
    return
  tensors = {}
  for name in lora.targets:
    weight = family.weights[f"layers.{name}"]
    a, b = (np.asarray(whole[name][x].addressable_data(0)) for x in "ab")
    for i in range(len(a)):
      module = weight.name.format(i).removesuffix(".weight")
      stem = f"base_model.model.{module}"
      # Theirs multiply from the left.
      tensors[f"{stem}.lora_A.weight"] = a[i].reshape(-1, lora.rank).T
      tensors[f"{stem}.lora_B.weight"] = b[i].reshape(lora.rank, -1).T
  modules = {
    family.weights[f"layers.{name}"].name.split(".")[-2]
    for name in lora.targets
  }
  settings = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "revision": revision,
    "r": lora.rank,
    "lora_alpha": lora.alpha,
    "lora_dropout": 0.0,
    "target_modules": sorted(modules),
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
  }
  with cluster.alone(), whole_folder(folder) as temporary:
    _write_card(temporary, card)
    _write_json(temporary / "adapter_config.json", settings)
    contiguous = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    write_bytes(
      temporary / "adapter_model.safetensors",
      safetensors.numpy.save(contiguous, metadata={"format": "pt"}),
    )


def check_empty(folder: epath.Path) -> None:
  """Raises UserError if there is something where the folder is to be."""
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(
      f"config.export.directory: {folder} exists, is not empty and is no"
      " earlier export of this run; name another folder or remove it."
    )


def _divide(
  sizes: dict[str, int],
  tensors: list[Tensor],
  source: dict[str, str],
  max_bytes: int,
) -> dict[str, list[Tensor]]:
  """Returns file -> tensors: one file, the source's, or as few as will do."""
  if sum(sizes.values()) <= max_bytes:
    return {"model.safetensors": tensors}
  as_before = collections.defaultdict(list)
  for tensor in tensors:
    as_before[source[tensor.name]].append(tensor)
  total_of = lambda members: sum(sizes[t.name] for t in members)
  if max(map(total_of, as_before.values())) <= max_bytes:
    return dict(sorted(as_before.items()))
  parts: list[list[Tensor]] = []
  room = 0
  for tensor in sorted(tensors, key=lambda t: t.place):  # layer by layer
    if sizes[tensor.name] > room:
      parts.append([])
      room = max_bytes
    parts[-1].append(tensor)
    room -= sizes[tensor.name]
  return {
    f"model-{i:05d}-of-{len(parts):05d}.safetensors": part
    for i, part in enumerate(parts, 1)
  }


@functools.partial(jax.jit, static_argnames=("weight", "dtype", "everywhere"))
def _gathered(value, place, weight, dtype, everywhere):
  """Returns one tensor of theirs, whole on every device."""
  part = importing.folded(value[place] if place else value, weight)
  return jax.lax.with_sharding_constraint(part.astype(dtype), everywhere)


def _chunks(tensors: list[Tensor], dtype: str, read) -> Iterator:
  """Yields a safetensors file: length of the header, header, tensors."""
  header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
  end = 0
  for tensor in tensors:
    start, end = end, end + jnp.dtype(dtype).itemsize * math.prod(tensor.shape)
    header[tensor.name] = {
      "dtype": _NAMES[dtype],
      "shape": tensor.shape,
      "data_offsets": (start, end),
    }
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  yield len(text).to_bytes(8, "little") + text
  for tensor in tensors:
    value = np.asarray(read(tensor).addressable_data(0))
    # On the host, bfloat16 is no type that a file takes.
    yield np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _write_card(folder: epath.Path, card: str) -> None:
  if card:
    write_text(folder / "README.md", card)


def _write_json(path: epath.Path, value: dict) -> None:
  text = json.dumps(value, indent=2, ensure_ascii=False)
  write_text(path, text + "\n")
