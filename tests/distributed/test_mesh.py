"""The mesh, the rules table and the memory plan."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from prefixrl_jax.configs import demo
from prefixrl_jax.distributed import sharding
from prefixrl_jax.distributed.mesh import arranged, make_mesh, num_slices
from prefixrl_jax.learner import update
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.optimizer import make_optimizer
from prefixrl_jax.learner.packing import Layout, pack
from prefixrl_jax.models import parameters, transformer
from prefixrl_jax.run import memory_plan
from prefixrl_jax.types import UserError


def test_the_rest_of_the_devices():
  shape = make_mesh(-1, 2, 1).shape
  assert dict(shape) == {"data": 4, "fsdp": 2, "tensor": 1, "expert": 1}


@pytest.mark.parametrize(
  "shape", [(3, 1, 1), (-1, -1, 1), (0, 1, 1), (-1, 3, 1)]
)
def test_names_a_mesh_that_does_not_fit(shape):
  with pytest.raises(UserError, match=r"config\.mesh"):
    make_mesh(*shape)


class _Chip:
  """A chip of a TPU slice, as JAX describes it."""

  platform, device_kind, core_on_chip = "tpu", "TPU v4", 0

  def __init__(self, number, coords, slice_index=0):
    self.id, self.coords, self.slice_index = number, coords, slice_index
    self.process_index = number // 4


def _chips(sides, slice_index=0):
  places = list(np.ndindex(*sides[::-1]))
  start = slice_index * len(places)
  return [
    _Chip(start + i, place[::-1], slice_index) for i, place in enumerate(places)
  ]


def test_chips_that_share_a_tensor_are_neighbours():
  found = arranged(_chips((4, 4, 4)), (1, 16, 4, 1))
  assert found.shape == (1, 16, 4, 1)
  assert {d.id for d in found.flat} == set(range(64))
  for group in found.reshape(16, 4):
    # A line along an axis of the torus, or one of its squares.
    spans = np.ptp([d.coords for d in group], axis=0)
    assert sorted(spans) in ([0, 0, 3], [0, 1, 1])


def test_slices_divide_the_data_axis():
  chips = _chips((2, 2, 2), 0) + _chips((2, 2, 2), 1)
  found = arranged(chips, (2, 4, 2, 1))
  for i, replica in enumerate(found):
    assert {d.slice_index for d in replica.flat} == {i}
  with pytest.raises(UserError, match=r"mesh\.data = 1 .* of the 2 slices"):
    make_mesh(data=1, fsdp=8, tensor=2, devices=chips)


def test_nodes_of_gpus_are_no_slices(monkeypatch):
  monkeypatch.setattr(_Chip, "platform", "gpu")
  gpus = _chips((2, 2, 1), 0) + _chips((2, 2, 1), 1)
  assert num_slices(gpus) == 1
  found = make_mesh(data=1, fsdp=8, devices=gpus)
  assert found.devices.ravel().tolist() == gpus


def test_other_devices_keep_their_order(eight_devices):
  expected = np.asarray(jax.devices()).reshape(2, 2, 2, 1)
  assert (arranged(jax.devices(), (2, 2, 2, 1)) == expected).all()
  assert (eight_devices.devices == expected).all()


def test_axes_that_do_not_divide_stay_whole(eight_devices):
  of = lambda shape, *axes: sharding.sharding(eight_devices, shape, *axes).spec
  assert of((8, 6), "rows", "heads") == PartitionSpec(
    ("data", "fsdp", "expert"), "tensor"
  )
  assert of((6, 3), "rows", "kv_heads") == PartitionSpec(None, None)


def test_devices_share_lengths_out(eight_devices):
  """Two by two share rows of the mesh out, and two a row's length."""
  assert not sharding.shares_lengths_out((4, 6))  # without a mesh
  with jax.set_mesh(eight_devices):
    assert sharding.shares_lengths_out((4, 6))
    assert sharding.shares_lengths_out((8, 6))
    assert not sharding.shares_lengths_out((6, 6))
    assert not sharding.shares_lengths_out((4, 5))
  with jax.set_mesh(make_mesh(data=4, fsdp=2)):
    assert not sharding.shares_lengths_out((8, 6))


def test_rows_are_put_where_the_table_says(eight_devices):
  batch = {"x": np.arange(32.0).reshape(2, 8, 2), "y": np.zeros(2)}
  put = sharding.put_rows(eight_devices, batch, axis=1)
  assert put["x"].sharding.shard_shape((2, 8, 2)) == (2, 2, 2)
  assert put["y"].sharding.shard_shape((2,)) == (2,)
  np.testing.assert_array_equal(put["x"], batch["x"])


def test_every_parameter_is_sharded_by_the_table(model, eight_devices):
  params = parameters.abstract_params(model, eight_devices)
  split = [
    x.sharding.shard_shape(x.shape) != x.shape for x in jax.tree.leaves(params)
  ]
  assert np.mean(split) > 0.5


def _shape(mesh, **fields):
  config = demo.get_config()
  config.update_from_flattened_dict(fields)
  names = set(transformer.TransformerConfig.__dataclass_fields__)
  model = transformer.TransformerConfig(
    **{k: v for k, v in config.model.items() if k in names}
  )
  return config, model, mesh, 2


def _plan(mesh, **fields):
  config, model, *rest = _shape(mesh, **fields)
  return memory_plan.plan(config, model, *rest), model


def test_plan_by_hand(one_device):
  plan, model = _plan(one_device)
  params = 4 * parameters.num_params(model)
  assert plan["parameters"] == params
  assert plan["optimizer"] == 2 * params
  # 3 layers x (key, value) x 4 heads x 8 x 4 bytes, for every cached token:
  # 16 rows of a trunk of 22 + 36 and 8 lanes of 36.
  # Beside them, tokens and what a lane knows: fork, token, length and limit,
  # whether it is active, a key, and of each token its number and likelihood.
  caches = 3 * 2 * 32 * 4 * 16 * (58 + 8 * 36)
  assert plan["kv caches"] == (
    caches + 16 * 58 * 4 + 16 * 8 * (4 * 4 + 1 + 8 + 36 * 8)
  )


def test_what_is_alive_in_each_phase(one_device):
  config, model, mesh, rows = _shape(one_device)
  by_phase = memory_plan.phases(config, model, mesh, rows)
  sampling = {"base policy", "sampler's parameters", "kv caches"}
  state = {"parameters", "optimizer"}
  within = {"gradients", "activations", "logits"}
  assert {phase: set(parts) for phase, parts in by_phase.items()} == {
    "screen": sampling,
    "collect": sampling,
    "train": sampling | state | within,
    "curve": sampling | state,
    "evaluate": sampling | {"parameters"},
  }
  params = 4 * parameters.num_params(model)
  assert by_phase["train"]["base policy"] == params
  # Of a micro-batch, their sum, and that of prefixed trees.
  assert by_phase["train"]["gradients"] == 3 * params


def test_arms_that_are_run_decide_what_training_needs(one_device):
  """Second sums of gradients, critics with a trunk, larger groups."""
  phase = lambda arms, **fields: memory_plan.phases(
    *_shape(one_device, run_arms=arms, **fields)
  )["train"]
  plain = phase(("rl",))
  assert phase(("ppo",)) == plain  # a head is next to nothing
  alone = {"learner.norms_by_kind": False}
  mixed = phase(("rl", "prefixrl"))
  assert mixed["gradients"] == 1.5 * plain["gradients"]
  assert phase(("rl", "prefixrl"), **alone) == plain
  with_trunk = phase(("rl", "ppo"), **{"arms.ppo.learner.critic.kind": "trunk"})
  for name in ("parameters", "optimizer", "gradients", "activations"):
    assert with_trunk[name] == 2 * plain[name]
  assert phase(("rl_n64",))["kv caches"] > 2 * plain["kv caches"]
  assert phase(("off_policy",))["kv caches"] < plain["kv caches"]


def test_plan_shrinks_with_shards(one_device, eight_devices):
  whole, _ = _plan(one_device)
  part, _ = _plan(eight_devices)
  # data x fsdp x tensor, of which 4 heads have 2 each
  caches = 3 * 2 * 32 * 4 * 16 * (58 + 8 * 36)
  rows_alone = whole["kv caches"] - caches  # have no heads
  assert part["kv caches"] == caches / 8 + rows_alone / 4
  assert part["parameters"] < whole["parameters"] / 3  # fsdp x tensor


def test_what_cannot_fit_is_refused_by_name(one_device):
  plan, _ = _plan(one_device, **{"collect.lanes": 10**8})
  shown = []
  with pytest.raises(UserError, match=r"largest part is kv caches"):
    memory_plan.check(plan, 16e9, shown.append, "collect")
  assert "TiB" in shown[0]


@pytest.mark.parametrize(
  ("field", "phase"),
  [
    ("screen.lanes", "screen"),
    ("collect.rows", "collect"),
    ("train.prompts_per_step", "train"),
    ("evals.lanes", "evaluate"),
  ],
)
def test_every_sampler_s_caches_are_planned(one_device, field, phase):
  """And who has too many is told where."""
  shown = []
  config = demo.get_config()
  config.update_from_flattened_dict({field: 10**7})
  _, model = _plan(one_device)
  section = field.split(".")[0]
  with pytest.raises(UserError, match=rf"in {phase}, .*\(config\.{section}"):
    memory_plan.fit(config, model, one_device, shown.append, device_bytes=1e10)
  assert f"the most of all in {phase}" in shown[0]


def test_what_is_revealed_needs_caches_too(one_device):
  by_phase = memory_plan.phases(
    *_shape(one_device, **{"evals.fractions": (0.5,)})
  )
  less = memory_plan.phases(*_shape(one_device, **{"evals.fractions": ()}))
  caches = lambda phases: phases["evaluate"]["kv caches"]
  # 16 rows, and half of 36 tokens: keys and values, and the tokens.
  assert caches(by_phase) - caches(less) == 16 * 18 * (3 * 2 * 32 * 4 + 4)


def _fit(mesh, monkeypatch, has, **fields):
  """What the plan settles on devices of so many bytes."""
  config = demo.get_config()
  config.update_from_flattened_dict(
    {"model.remat": "auto", "learner.rows_per_microbatch": 0} | fields
  )
  model = dataclasses.replace(_plan(mesh)[1], remat=config.model.remat)
  monkeypatch.setattr(memory_plan, "_device_bytes", lambda _: has)
  settled, rows = memory_plan.fit(config, model, mesh, lambda _: None)
  return settled.remat, rows


def test_what_is_left_open_is_settled_by_the_plan(
  one_device, eight_devices, monkeypatch
):
  config, (_, model) = demo.get_config(), _plan(one_device)
  need = lambda remat, rows: sum(
    memory_plan.plan(
      config, dataclasses.replace(model, remat=remat), one_device, rows
    ).values()
  )
  fit = functools.partial(_fit, one_device, monkeypatch)
  assert fit(1e12) == ("none", 8)
  assert fit(need("none", 4)) == ("none", 4)
  assert fit(need("none", 1)) == ("none", 1)
  # Layers are recomputed only where one row does not fit without.
  assert fit(need("none", 1) - 1)[0] == "full"
  assert fit(need("full", 1)) == ("full", 1)
  with pytest.raises(UserError, match=r"memory plan needs"):
    fit(need("full", 1) - 1)
  # Of long rows fewer, whatever there is room for.
  assert fit(1e12, **{"learner.row_length": 2**14}) == ("none", 2)
  assert fit(1e12, **{"learner.row_length": 2**16}) == ("none", 1)
  # What is not open stays, but for whole rows a device.
  assert fit(1e12, **{"learner.rows_per_microbatch": 2}) == ("none", 2)
  assert _fit(
    eight_devices, monkeypatch, 1e12, **{"learner.rows_per_microbatch": 2}
  ) == ("none", 4)


@pytest.mark.parametrize(
  ("remat", "row_length"), [("none", 512), ("none", 2048), ("full", 2048)]
)
def test_plan_of_the_update_is_what_the_compiler_says(
  one_device, remat, row_length
):
  config = demo.get_config()
  config.learner.row_length = row_length
  _, model = _plan(one_device)
  model = dataclasses.replace(model, remat=remat, width=128, scan_unroll=1)
  planned = memory_plan.plan(config, model, one_device, 1)
  optimizer = make_optimizer(
    learning_rate=1.0,
    warmup_steps=0,
    decay_steps=0,
    **config.learner.optimizer,
  )
  state = update.abstract_state(
    parameters.abstract_params(model, one_device), optimizer
  )
  step = update.make_update(
    model,
    optimizer,
    state,
    make_loss("policy_gradient"),
    temperature=1.0,
    chunk_length=config.learner.logits_chunk_length,
    mixed=True,
  )
  with jax.set_mesh(one_device):
    batch = sharding.put_rows(
      one_device, pack([], Layout(row_length, 1, 1)), axis=1
    )
    sizes = step.lower(state, batch, None).compile().memory_analysis()
  names = ("parameters", "optimizer", "gradients", "activations", "logits")
  np.testing.assert_allclose(
    sum(planned[name] for name in names),
    sizes.argument_size_in_bytes + sizes.temp_size_in_bytes,
    rtol=0.15,
  )
