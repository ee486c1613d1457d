"""An embedded task's base model: our own parameter tree in one file."""

import jax
import safetensors.numpy
from etils import epath

from prefixrl_jax.distributed import sharding
from prefixrl_jax.models import parameters
from prefixrl_jax.models.decoder_config import TransformerConfig
from prefixrl_jax.storage.files import write_bytes
from prefixrl_jax.types import UserError


def save(path: epath.Path, params: dict) -> None:
  """Writes a small parameter tree as one safetensors file, atomically."""
  leaves = parameters.by_name(params)
  arrays = {name: sharding.fetch(leaf) for name, leaf in leaves.items()}
  write_bytes(path, safetensors.numpy.save(arrays))


def read(path: epath.Path) -> dict:
  """Returns what `save` wrote, as numpy arrays.

  Raises:
    UserError: there is no such file, or it is of another format.
  """
  if not path.exists():
    raise UserError(
      f"there is no base model {path}; run --stage=pretrain with"
      " config.model.base='' to make one."
    )
  try:
    leaves = safetensors.numpy.load(path.read_bytes())
  except safetensors.SafetensorError as e:
    raise UserError(f"{path} is no safetensors file ({e}).") from e
  params: dict = {}
  for name, value in leaves.items():
    *folders, leaf = name.split(".")
    node = params
    for folder in folders:
      node = node.setdefault(folder, {})
    node[leaf] = value
  return params


def load(
  path: epath.Path, model: TransformerConfig, mesh: jax.sharding.Mesh
) -> dict:
  """Returns a base model's parameters, on the mesh.

  Args:
    path: a file of `save`, of any type of numbers.
    model: its shape.
    mesh: that its parameters are sharded over.

  Raises:
    UserError: there is no such file, or it is of another format or shape.
  """
  params = read(path)
  wanted = parameters.abstract_params(model, mesh)
  there, here = (
    {name: leaf.shape for name, leaf in parameters.by_name(tree).items()}
    for tree in (params, wanted)
  )
  for name in sorted(there.keys() | here.keys()):
    if there.get(name) != here.get(name):
      raise UserError(
        f"{path} does not have the shape of config.model: its {name} has shape"
        f" {there.get(name)}, config.model asks for {here.get(name)}."
      )
  # A file that is shipped has half the bytes.
  params = jax.tree.map(lambda x, like: x.astype(like.dtype), params, wanted)
  return parameters.put_params(model, mesh, params)
