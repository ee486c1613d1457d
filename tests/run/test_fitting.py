"""What fits a chip, and is fastest by a count by hand; nothing is compiled."""

import dataclasses
import math

import jax
import pytest
import tiny_run

from prefixrl_jax.distributed import ahead
from prefixrl_jax.distributed.chips import CHIPS
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner.packing import Layout
from prefixrl_jax.run import by_hand, duration, fitting, memory_plan
from prefixrl_jax.run.session import demo_model, open_engine
from prefixrl_jax.types import UserError

_STOP = tiny_run.TOKENIZER.stop_tokens


def _config(**fields):
  config = tiny_run.config()
  config.run_arms = ("rl",)
  config.update_from_flattened_dict(
    {
      "model.width": 64,
      "model.mlp_width": 128,
      "model.num_heads": 4,
      "model.num_kv_heads": 2,
      "model.head_dim": 16,
      "train.prompts_per_step": 8,
      "screen.rows": 16,
      "evals.fractions": (),
    }
    | fields
  )
  return config


def _search(config, devices=4, **chip):
  chip = dataclasses.replace(CHIPS["v5e"], **chip)
  model = demo_model(config.model)
  return fitting.search(config, model, jax.devices()[:devices], chip, _STOP)


def test_meshes_divide_devices_heads_and_a_step_s_prompts():
  config = _config(**{"train.prompts_per_step": 4})
  model = demo_model(config.model)
  found = [*fitting.meshes(8, config, model)]
  # Two kv heads: tensor is 1 or 2, and eight shards would have four prompts.
  assert {tuple(mesh.values()) for mesh in found} == {
    (4, 1, 2, 1),
    (2, 2, 2, 1),
    (1, 4, 2, 1),
  }
  experts = dataclasses.replace(model, num_experts=2, experts_per_token=1)
  found = [*fitting.meshes(8, config, experts)]
  assert all(math.prod(mesh.values()) == 8 for mesh in found)
  assert {mesh["expert"] for mesh in found} == {1, 2}


def test_every_mesh_that_fits_is_there_once_and_the_fastest_first():
  config = _config()
  found = _search(config)
  shapes = [
    tuple(c.settings[f"mesh.{axis}"] for axis in fitting.MESH_AXES)
    for c in found
  ]
  assert sorted(shapes) == sorted(
    tuple(mesh.values())
    for mesh in fitting.meshes(4, config, demo_model(config.model))
  )
  assert [c.seconds for c in found] == sorted(c.seconds for c in found)
  # There is room: nothing is recomputed, all prompts are sampled at a time.
  assert all(c.settings["model.remat"] == "none" for c in found)
  assert all(c.settings["train.rows"] == 0 for c in found)


def test_where_links_are_slow_parameters_are_not_shared():
  """And what is not shared has to be sent least: replicas, one sum."""
  fast = _search(_config(), interconnect=1e15, bandwidth=1e9)[0]
  slow = _search(_config(), interconnect=1e3)[0]
  # A decode step reads half of the weights where two devices share a layer.
  assert fast.settings["mesh.tensor"] == 2
  assert slow.settings["mesh.tensor"] == 1


def test_slices_divide_the_data_axis_and_their_network_is_slow(monkeypatch):
  """What crosses it is a sum of gradients."""
  one = {str(c): c.seconds for c in _search(_config(), bandwidth=1e15)}
  monkeypatch.setattr(fitting, "num_slices", lambda devices: 2)
  two = {str(c): c.seconds for c in _search(_config(), bandwidth=1e15)}
  assert len(two) == 3  # of six meshes: 4, 2 x fsdp, 2 x tensor
  assert all("mesh.data=1" not in choice for choice in two)
  assert all(seconds > one[choice] for choice, seconds in two.items())


def test_what_has_no_room_is_made_smaller():
  """Fewer rows at a time, of a micro-batch too; the plan then fits."""
  config = _config(**{"rollouts.max_completion_length": 512})
  most = max(c.bytes for c in _search(config, devices=2))
  tight = _search(config, devices=2, memory=most / 6)
  assert all(choice.bytes <= most / 6 for choice in tight)
  chosen = tight[0].settings
  assert 0 < chosen["train.rows"] < config.train.prompts_per_step
  assert chosen["evals.rows"] < config.evals.rows
  assert chosen["learner.rows_per_microbatch"] == 2  # one of a device
  with pytest.raises(UserError, match=r"nothing fits 2 .*memory plan needs"):
    _search(config, devices=2, memory=1e4)


def test_adapters_of_absent_devices_are_not_drawn(monkeypatch):
  """What a program would return is known by its shapes."""
  results, call = [], ahead.Program.__call__

  def calling(self, *args, **kwargs):
    results.append(call(self, *args, **kwargs))
    return results[-1]

  monkeypatch.setattr(ahead.Program, "__call__", calling)
  assert _search(_config(**{"lora.rank": 2}), devices=2)
  leaves = jax.tree.leaves(results)
  assert leaves
  assert not any(isinstance(x, jax.Array) for x in leaves)


def test_a_choice_s_settings_are_what_was_planned():
  """Given by hand, they are the plan and the step that the search says."""
  config = _config()
  choice = _search(config)[0]
  config.update_from_flattened_dict(choice.settings)
  assert str(choice).startswith("--config.mesh.data=")
  mesh = make_mesh(**config.mesh, devices=jax.devices()[:4])
  model = demo_model(config.model)
  engine = open_engine(
    config,
    model=model,
    mesh=mesh,
    stop_tokens=_STOP,
    show=lambda _: None,
    device_bytes=1e12,
  )
  assert model.remat == choice.settings["model.remat"]
  rows = choice.settings["learner.rows_per_microbatch"]
  assert engine.rows_per_microbatch == rows
  plan = memory_plan.plan(config, model, mesh, rows)
  assert sum(plan.values()) == choice.bytes
  with ahead.compiling(ahead.Compiler()) as compiler:
    rows = fitting.programs(engine, CHIPS["v5e"])
    step = duration.steps(engine, rows, CHIPS["v5e"])["rl"]
  assert step["step"] == choice.seconds
  assert compiler.compiled == []


@pytest.mark.parametrize(("experts", "sums"), [(0, 2 / 2), (8, 2 * 3 / 4)])
def test_gradients_are_summed_by_those_that_have_the_same_weights(
  experts, sums
):
  """Two by two devices; those that share experts have not the same ones."""
  shared = dict(data=2, expert=2) if experts else dict(data=2, tensor=2)
  config = _config(**{f"mesh.{axis}": size for axis, size in shared.items()})
  model = dataclasses.replace(
    demo_model(config.model),
    num_experts=experts,
    experts_per_token=min(experts, 1),
  )
  engine = open_engine(
    config,
    model=model,
    mesh=make_mesh(**shared, devices=jax.devices()[:4]),
    stop_tokens=_STOP,
    show=lambda _: None,
    device_bytes=1e12,
  )
  sent = fitting.Sent(engine, CHIPS["v5e"])
  of_all = by_hand.weights(model, engine.mesh)["all"]
  size = jax.numpy.dtype(model.dtype).itemsize
  # Of a device's half of the experts two products' weights, a sum of two.
  of_experts = model.num_layers * experts / 2 * 2 * 64 * 128 * size
  expected = of_experts * 2 / 2 + (of_all - of_experts) * sums
  gathered, _ = sent.update(Layout(32, 4, 1), turns=1)
  assert gathered == pytest.approx(expected)
