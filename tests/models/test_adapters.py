"""Adapters beside the weights are adapters added in, here and in peft."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import make_goldens
import numpy as np
import pytest
from etils import epath
from optimizers import plain_adamw
from safetensors.numpy import load_file

from benchmarks.shapes import SMOL
from prefixrl_jax.distributed import sharding
from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner import update
from prefixrl_jax.learner.losses import make_loss
from prefixrl_jax.learner.packing import Lane, Layout, Tree, pack
from prefixrl_jax.models import (
  adapters,
  attention,
  exporting,
  importing,
  parameters,
  transformer,
)
from prefixrl_jax.run import memory_plan
from prefixrl_jax.types import UserError


def _with_lora(model, rank=3, alpha=6.0, targets="all"):
  settings = dict(rank=rank, alpha=alpha, targets=targets)
  return adapters.with_lora(settings, model)


def _random(model, mesh, seed=0):
  """Adapters that do something."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jax.device_put(
      rng.normal(0, 0.2, x.shape).astype(np.float32), x.sharding
    ),
    adapters.abstract(model, mesh),
  )


def _logits(model, params, tokens):
  mask = jnp.tri(tokens.shape[1], dtype=bool)[None]
  hidden, _ = transformer.forward(
    model,
    params,
    tokens,
    jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
    lambda q, k, v, _: attention.dense_attention(q, k, v, mask),
  )
  return transformer.logits(model, params, hidden)


def _tokens(rng, model):
  return rng.integers(0, model.vocab_size, (2, 9)).astype(np.int32)


@pytest.mark.parametrize("targets", ["all", "attention", "query+mlp"])
def test_beside_the_weights_is_added_in(
  model, params, one_device, rng, targets
):
  lora = _with_lora(model, targets=targets)
  trained = _random(lora, one_device)
  policy = adapters.policy_params(lora, params, trained)
  whole = adapters.merge(lora, params, trained)
  tokens = _tokens(rng, model)
  beside = _logits(lora, policy, tokens)
  assert not np.allclose(beside, _logits(model, params, tokens), atol=0.1)
  np.testing.assert_allclose(beside, _logits(model, whole, tokens), atol=1e-5)
  # The sampler's weights, too; the base is as it was.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    parameters.unstack(lora, policy),
    parameters.unstack(model, whole),
  )
  assert whole["layers"]["down"] is not params["layers"]["down"] or (
    targets == "attention"
  )


def test_gradients_are_those_of_the_weights_by_hand(
  model, params, one_device, rng
):
  """W + s A B: dA = s dW Bᵀ, dB = s Aᵀ dW."""
  lora = _with_lora(model)
  trained = _random(lora, one_device)
  tokens = _tokens(rng, model)
  score = lambda logits: jnp.mean(jax.nn.log_softmax(logits)[..., 0])
  of_trained = jax.grad(
    lambda x: score(
      _logits(lora, adapters.policy_params(lora, params, x), tokens)
    )
  )(trained)
  of_weights = jax.grad(lambda x: score(_logits(model, x, tokens)))(
    adapters.merge(lora, params, trained)
  )["layers"]
  for name, adapter in trained.items():
    a, b = (np.asarray(adapter[x], np.float64) for x in "ab")
    n, r = len(a), lora.lora.rank
    a, b = a.reshape(n, -1, r), b.reshape(n, r, -1)
    of_weight = np.asarray(of_weights[name]).reshape(n, a.shape[1], -1)
    for got, want in (
      (of_trained[name]["a"], 2 * of_weight @ b.swapaxes(1, 2)),
      (of_trained[name]["b"], 2 * a.swapaxes(1, 2) @ of_weight),
    ):
      np.testing.assert_allclose(
        np.asarray(got).reshape(want.shape), want, atol=1e-6, rtol=1e-4
      )


def _step(model, mesh, params, trained, kl_coefficient=0.1):
  optimizer = plain_adamw(clip_norm=1.0)
  state = update.abstract_state(
    adapters.abstract_trained(model, mesh), optimizer
  )
  step = update.make_update(
    model,
    optimizer,
    state,
    make_loss("policy_gradient", kl_coefficient=kl_coefficient),
    temperature=1.0,
    chunk_length=4,
  )
  rng = np.random.default_rng(1)
  token = lambda n: rng.integers(0, model.vocab_size, n).astype(np.int32)
  lane = lambda n: Lane(
    4, token(n), np.full(n, -1, np.float32), rng.normal(size=n)
  )
  trees = [Tree(token(4), [lane(3), lane(5)], False) for _ in range(4)]
  rows = sharding.num_row_shards(mesh)
  with jax.set_mesh(mesh):
    batch = sharding.put_rows(mesh, pack(trees, Layout(16, rows, 4)), axis=1)
    started = update.make_init(optimizer, state)(trained)
    return step(started, batch, params)


def test_sharded_equals_unsharded(model, params, one_device, eight_devices):
  lora = _with_lora(model)
  states = {}
  for mesh in (one_device, eight_devices):
    base = parameters.put_params(model, mesh, params)
    states[mesh.size], metrics = _step(lora, mesh, base, _random(lora, mesh))
    assert metrics["kl"] > 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    *map(jax.device_get, (states[1].params, states[8].params)),
  )


def test_only_adapters_move(model, params, one_device):
  lora = _with_lora(model)
  start = adapters.init(lora, params, one_device, seed=0)
  assert all(not np.any(x["b"]) for x in start.values())
  kept = jax.device_get(params)
  state, metrics = _step(lora, one_device, params, start)
  assert metrics["kl"] == 0  # adapters that do nothing are the base
  jax.tree.map(np.testing.assert_array_equal, kept, jax.device_get(params))
  assert all(np.any(x["b"]) for x in state.params.values())
  # Two moments a parameter, and counters.
  sizes = sum(x.size for x in jax.tree.leaves(state.opt_state))
  assert 0 <= sizes - 2 * adapters.num_params(lora) < 8


@pytest.mark.parametrize(
  ("rank", "targets", "per_cent"),
  [(8, "all", 1.82), (16, "all", 3.63), (16, "attention", 1.37)],
)
def test_share_of_the_optimizer_state(rank, targets, per_cent):
  lora = _with_lora(SMOL, rank, targets=targets)
  share = adapters.num_params(lora) / parameters.num_params(SMOL)
  assert 100 * share == pytest.approx(per_cent, abs=0.005)


def test_memory_plan(one_device):
  from prefixrl_jax.configs import demo

  config = demo.get_config()
  plan = lambda model: memory_plan.plan(config, model, one_device, 1)
  full, lora = plan(SMOL), plan(_with_lora(SMOL, 8))
  num_adapted = adapters.num_params(_with_lora(SMOL, 8))
  assert lora["base policy"] == full["parameters"] == full["base policy"]
  assert lora["parameters"] == 4 * num_adapted
  assert lora["optimizer"] == 8 * num_adapted
  assert lora["gradients"] < 0.02 * full["gradients"]
  assert lora["activations"] < 1.2 * full["activations"]


@pytest.mark.parametrize(
  ("moe", "targets", "message"),
  [
    (False, "q_proj", r"no 'q_proj' .* known: all, attention, mlp, query"),
    (False, "query+", r"there is no ''"),
    (True, "mlp", r"no 'mlp' .* query, key, value, output, with \+"),
  ],
)
def test_targets_that_are_not_there(model, moe, targets, message):
  if moe:
    model = dataclasses.replace(model, num_experts=4, experts_per_token=2)
  with pytest.raises(UserError, match=message):
    _with_lora(model, targets=targets)


def test_rank_0_is_off(model):
  assert _with_lora(model, rank=0) is model


# -- as others see it ----------------------------------------------------------


def _exported(tmp_path, name, mesh):
  """A folder of adapters, the base model they belong to, and both in one."""
  source = tmp_path / "source"
  source.mkdir()
  make_goldens.write_model(name, source)
  source = epath.Path(source)
  plain = importing.read_config(
    source, dtype="float32", param_dtype="float32", remat="none"
  )
  lora = _with_lora(plain)
  trained = _random(lora, mesh)
  base = importing.load_weights(source, plain, mesh)
  exporting.export_adapters(
    epath.Path(tmp_path) / "peft", source, trained, lora.lora, base=str(source)
  )
  return lora, adapters.policy_params(lora, base, trained)


def test_peft_folder_by_hand(tmp_path, eight_devices):
  lora, policy = _exported(tmp_path, "qwen2", eight_devices)
  settings = json.loads((tmp_path / "peft/adapter_config.json").read_text())
  assert (settings["r"], settings["lora_alpha"]) == (3, 6.0)
  assert len(settings["target_modules"]) == 7
  tensors = load_file(tmp_path / "peft/adapter_model.safetensors")
  assert len(tensors) == lora.num_layers * 7 * 2
  weights = load_file(tmp_path / "source/model.safetensors")
  whole = importing.to_hugging_face(
    jax.device_get(adapters.merge(lora, *_apart(policy))), "qwen2"
  )
  for name, weight in weights.items():
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    if f"{stem}.lora_A.weight" in tensors:
      b, a = tensors[f"{stem}.lora_B.weight"], tensors[f"{stem}.lora_A.weight"]
      weight = weight + 2 * b @ a
    np.testing.assert_allclose(whole[name], weight, atol=1e-6, err_msg=name)


def _apart(policy):
  base = dict(policy)
  trained = base.pop("adapters")
  return base, trained


# How peft uses transformers is its own affair.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_peft_opens_it(tmp_path, name):
  torch = pytest.importorskip("torch", reason="torch is not installed")
  transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed"
  )
  peft = pytest.importorskip("peft", reason="peft is not installed")
  mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
  lora, policy = _exported(tmp_path, name, mesh)
  base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "source")
  theirs = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
  tokens = make_goldens.token_rows(name)[:, :8]
  with torch.no_grad():
    expected = theirs(torch.from_numpy(tokens).long()).logits.numpy()
  np.testing.assert_allclose(
    _logits(lora, policy, tokens), expected, atol=1e-4, rtol=1e-4
  )
