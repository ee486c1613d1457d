"""Where a Hugging Face model's folder is, and which files it has."""

import collections
import re
from collections.abc import Collection
from typing import Any

import safetensors
from etils import epath

from prefixrl_jax.text import folder_tokenizer
from prefixrl_jax.types import UserError, one_line

# What a model's folder has beside its weights, as far as anybody needs it.
SIDE_FILES = (
  "config.json",
  "generation_config.json",
  "tokenizer*",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template*",
  "additional_chat_templates/*",
  "vocab*",
  "merges.txt",
  "spiece.model",
  "sentencepiece.bpe.model",
)
INDEX = "model.safetensors.index.json"


def find_folder(
  name: str, files: Collection[str] = (*SIDE_FILES, "model*.safetensors", INDEX)
) -> epath.Path:
  """Returns a model's folder, fetched from the Hugging Face hub if need be.

  Args:
    name: a folder, or "organisation/model", or "organisation/model@revision".
    files: that are fetched, patterns of their names.

  Raises:
    UserError: there is no such folder, and the hub has none or is not reached.
  """
  if epath.Path(name).is_dir():
    return epath.Path(name)
  missing = f"config.model.folder: there is no folder {name}"
  if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", name):
    raise UserError(f"{missing}.")
  import huggingface_hub  # only those who need it wait for it

  repository, _, revision = name.partition("@")
  at = f" --revision {revision}" if revision else ""
  try:
    return epath.Path(
      huggingface_hub.snapshot_download(
        repository,
        revision=revision or None,
        allow_patterns=[*files],
      )
    )
  except Exception as e:  # whatever the network and the hub may cause
    reason = one_line(e)
    raise UserError(
      f"{missing}, and the Hugging Face hub did not give {name} ({reason})."
      " Where the hub can be reached run"
      f" `hf download {repository}{at} --local-dir FOLDER`"
      " (after `hf auth login` if the model is gated), bring the folder here"
      " and set --config.model.folder=FOLDER."
    ) from None


def tensor_files(folder: epath.Path) -> dict[str, str]:
  """Returns tensor name -> file, as the index says if there is one.

  Raises:
    UserError: no weights, or files that are missing or not whole.
  """
  single = folder / "model.safetensors"
  if (folder / INDEX).exists():
    index = read_json(folder, INDEX)["weight_map"]
    absent = sorted({f for f in index.values() if not (folder / f).exists()})
    if absent:
      raise UserError(
        f"{folder / INDEX} names files that are not there: {', '.join(absent)}."
      )
    return index
  if single.exists():
    return dict.fromkeys(_open(single).keys(), single.name)
  hint = ""
  if list(folder.glob("*.bin")):
    hint = (
      " The .bin files there are pickles and are not read: save the model"
      " again with safe_serialization=True."
    )
  raise UserError(f"{folder} has no model.safetensors.{hint}")


def open_files(folder: epath.Path) -> tuple[dict[str, Any], list[str]]:
  """Returns tensor name -> open file, and where files and index disagree.

  Raises:
    UserError: see `tensor_files`; or a file that is not whole.
  """
  index = tensor_files(folder)
  opened = {file: _open(folder / file) for file in sorted({*index.values()})}
  found = collections.defaultdict(list)
  for file, tensors_there in opened.items():
    for name in tensors_there.keys():  # noqa: SIM118 - it is no dict
      found[name].append(file)
  problems = [
    f"{name} is there twice, in {' and '.join(files)}"
    for name, files in found.items()
    if len(files) > 1
  ]
  problems += [
    f"{name} is not in {file}, where {INDEX} has it"
    for name, file in index.items()
    if file not in found[name]
  ]
  files = {name: opened[f[0]] for name, f in found.items() if f}
  return files, problems


def _open(file: epath.Path):
  try:
    return safetensors.safe_open(str(file), framework="numpy")
  except safetensors.SafetensorError as e:
    raise UserError(
      f"{file} is not a complete safetensors file: {e}."
    ) from None


def read_family(folder: epath.Path) -> str:
  """Returns config.json's model_type.

  Raises:
    UserError: no folder, or no config.json that can be read.
  """
  return read_json(folder, "config.json")["model_type"]


def read_json(folder: epath.Path, name: str) -> dict[str, Any]:
  """Returns the JSON object in a file of a model's folder.

  Raises:
    UserError: no folder, no file, or no JSON object in it.
  """
  if not folder.exists():
    raise UserError(
      f"there is no model folder {folder}; set config.model.folder to a"
      " Hugging Face folder (config.json, model.safetensors, tokenizer.json)."
    )
  path = folder / name
  if not path.exists():
    raise UserError(f"{path} is missing.")
  return folder_tokenizer.read_json_if_any(path)
