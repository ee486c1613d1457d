"""A base model's file, and what identifies weights."""

import jax
import numpy as np
import pytest
from etils import epath

from prefixrl_jax.models import base_file, parameters
from prefixrl_jax.types import UserError


def test_parameters_survive_safetensors(tmp_path, params):
  path = epath.Path(tmp_path) / "base.safetensors"
  base_file.save(path, params)
  loaded = base_file.read(path)
  assert jax.tree.structure(loaded) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  assert parameters.weight_hash(loaded) == parameters.weight_hash(params)


def test_they_come_back_sharded_and_in_the_type_of_the_model(
  tmp_path, model, params, eight_devices
):
  path = epath.Path(tmp_path) / "base.safetensors"
  base_file.save(path, jax.tree.map(lambda x: x.astype(np.float16), params))
  loaded = base_file.load(path, model, eight_devices)

  def same(here, there, like):
    assert (here.dtype, here.sharding) == (like.dtype, like.sharding)
    np.testing.assert_array_equal(here, there.astype(np.float16))

  wanted = parameters.abstract_params(model, eight_devices)
  jax.tree.map(same, loaded, params, wanted)


def test_weight_hash_sees_one_changed_value(model, params, eight_devices):
  placed = parameters.put_params(model, eight_devices, params)
  assert parameters.weight_hash(placed) == parameters.weight_hash(params)
  name = next(iter(params))
  other = params | {name: jax.tree.map(lambda x: x.at[0].add(1), params[name])}
  assert parameters.weight_hash(other) != parameters.weight_hash(params)


def test_missing_base_model_is_named(tmp_path):
  with pytest.raises(UserError, match=r"no base model .*none\.safetensors"):
    base_file.read(epath.Path(tmp_path) / "none.safetensors")
