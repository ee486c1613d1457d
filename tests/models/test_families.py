"""Every family equals transformers: logits, log-probabilities, gradients.

References are goldens/*.npz, made by make_goldens.py, and what transformers
says here and now where it is installed.
"""

import functools
import json
import pathlib
import tempfile
import warnings

import jax
import jax.numpy as jnp
import make_goldens
import numpy as np
import pytest
from etils import epath
from make_goldens import GOLDENS, MODELS, NUM_SAMPLED, PROMPTS
from safetensors.numpy import load_file, save_file

from prefixrl_jax.distributed.mesh import make_mesh
from prefixrl_jax.learner import losses
from prefixrl_jax.learner.logprobs import action_logprobs
from prefixrl_jax.learner.packing import Lane, Layout, Tree, pack
from prefixrl_jax.models import (
  importing,
  transformer,
  tree_attention,
)
from prefixrl_jax.rollouts.requests import Request
from prefixrl_jax.rollouts.sampler import Sampler
from prefixrl_jax.types import UserError

_READ = dict(dtype="float32", param_dtype="float32", remat="none")
_each_family = pytest.mark.parametrize("name", MODELS)


@functools.cache
def _folder(name):
  """A folder that lives as long as the process, and its tensors."""
  folder = tempfile.TemporaryDirectory()
  tensors = make_goldens.write_model(name, pathlib.Path(folder.name))
  return folder, tensors


@functools.cache
def _loaded(name):
  mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
  folder = epath.Path(_folder(name)[0].name)
  config = importing.read_config(folder, **_READ)
  return config, importing.load_weights(folder, config, mesh), mesh


def _whole_rows(tokens):
  """Rows whose tokens, but for the first, were all sampled."""
  zeros = np.zeros(tokens.shape[1] - 1, np.float32)
  trees = [Tree(r[:1], [Lane(1, r[1:], zeros, zeros)], False) for r in tokens]
  layout = Layout(tokens.shape[1], len(tokens), 1)
  return jax.tree.map(lambda x: x[0], pack(trees, layout))


@functools.cache
def _learned(name):
  """Logits of a forward pass; log-probabilities, gradients of the learner."""
  config, params, mesh = _loaded(name)
  rows = _whole_rows(make_goldens.token_rows(name))

  def mean_logprob(params):
    attend, _ = tree_attention.for_layers(config, rows)
    logprobs, *_ = action_logprobs(
      config,
      params,
      rows=rows,
      temperature=1.0,
      chunk_length=32,
      attend=attend,
    )
    params = jax.lax.stop_gradient(params)
    hidden, _ = transformer.forward(
      config, params, rows.tokens, rows.position, attend
    )
    logits = transformer.logits(config, params, hidden)
    return logprobs.sum() / rows.action_mask.sum(), (logits, logprobs)

  with jax.set_mesh(mesh):
    (_, (logits, logprobs)), grads = jax.jit(
      jax.value_and_grad(mean_logprob, has_aux=True)
    )(params)
  grads = importing.to_hugging_face(
    jax.device_get(grads), MODELS[name]["model_type"]
  )
  return np.asarray(logits), np.asarray(logprobs), grads


def _golden(name):
  """Stored: gradients as projections."""
  with np.load(GOLDENS / f"{name}.npz") as stored:
    golden = dict(stored)
  assert json.loads(str(golden["settings"])) == MODELS[name], (
    "the model is not the golden's: run make_goldens.py"
  )
  np.testing.assert_array_equal(golden["tokens"], make_goldens.token_rows(name))
  return golden


@functools.cache
def _live(name):
  """Here and now: gradients whole."""
  pytest.importorskip("torch", reason="torch is not installed")
  pytest.importorskip("transformers", reason="transformers is not installed")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return make_goldens.reference(name, pathlib.Path(_folder(name)[0].name))


@pytest.mark.parametrize("source", [_golden, _live])
@_each_family
def test_logits_and_logprobs(name, source):
  theirs = source(name)["logits"]
  logits, logprobs, _ = _learned(name)
  np.testing.assert_allclose(logits, theirs, atol=1e-4)
  tokens = make_goldens.token_rows(name)[:, 1:, None]
  expected = jax.nn.log_softmax(theirs[:, :-1])
  expected = np.take_along_axis(expected, tokens, -1)[..., 0]
  np.testing.assert_allclose(logprobs[:, 1:], expected, atol=1e-4)


@pytest.mark.parametrize("source", [_golden, _live])
@_each_family
def test_gradients(name, source):
  theirs = source(name)["gradients"]
  ours = _learned(name)[2]
  if isinstance(theirs, dict):
    assert theirs.keys() == ours.keys()
    for tensor, expected in theirs.items():
      error = np.linalg.norm(ours[tensor] - expected)
      assert error <= 1e-3 * np.linalg.norm(expected), tensor
  else:
    difference = make_goldens.project(ours) - theirs
    error = np.sqrt(np.mean(np.square(difference[:, 1:]), axis=1))
    wrong = error > 1e-3 * theirs[:, 0]
    assert not wrong.any(), [n for n, w in zip(sorted(ours), wrong) if w]


@functools.cache
def _sampled(name):
  config, params, mesh = _loaded(name)
  sampler = Sampler(
    config,
    mesh,
    rows=1,
    lanes=2,
    trunk_length=24,
    completion_length=NUM_SAMPLED,
    steps_per_dispatch=NUM_SAMPLED,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    stop_tokens=(),
  )
  sampler.load(params)
  tokens = make_goldens.token_rows(name)
  groups = sampler.sample(
    [Request(tokens[i, :n], 1, i, 0) for i, n in PROMPTS],
    purpose="evaluation",
    seed=0,
  )
  return np.stack([group[0].tokens for group in groups])


@pytest.mark.parametrize("source", [_golden, _live])
@_each_family
def test_greedy_decoding(name, source, change_backend):
  if _loaded(name)[0].windows != (None,):
    # They cut through several blocks of trunk and of lane.
    change_backend(key_block=16, whole_cache=0)
  np.testing.assert_array_equal(_sampled(name), source(name)["greedy"])


@_each_family
def test_weights_make_the_round_trip(name, eight_devices):
  config, _, _ = _loaded(name)
  folder, tensors = _folder(name)
  path = epath.Path(folder.name)
  params = importing.load_weights(path, config, eight_devices)
  ours = importing.to_hugging_face(
    jax.device_get(params), MODELS[name]["model_type"]
  )
  stored = load_file(path / "model.safetensors")
  assert ours.keys() == stored.keys() == tensors.keys()
  for tensor, value in stored.items():
    np.testing.assert_array_equal(ours[tensor], value, err_msg=tensor)


def test_names_every_wrong_tensor_of_a_family(tmp_path, one_device):
  """Biases, heads folded, and experts by their number."""
  for name, tensor in (
    ("qwen2", "model.layers.1.self_attn.k_proj.bias"),
    ("qwen3_moe", "model.layers.1.mlp.experts.4.up_proj.weight"),
  ):
    tensors = make_goldens.write_model(name, tmp_path)
    path = epath.Path(tmp_path)
    config = importing.read_config(path, **_READ)
    value = tensors.pop(tensor)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"{MODELS[name]['model_type']} model"):
      importing.load_weights(path, config, one_device)
    tensors[tensor] = np.zeros((1, *value.shape), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"{tensor} has shape"):
      importing.load_weights(path, config, one_device)


def test_a_tree_equals_its_sequences(rng):
  """With windows and soft-caps; windows reach from lanes into trunks."""
  config, params, _ = _loaded("gemma2")
  token = lambda n: rng.integers(0, config.vocab_size, n).astype(np.int32)
  draw = lambda n: rng.normal(size=n).astype(np.float32)
  lane = lambda fork, n: Lane(fork, token(n), draw(n), draw(n))
  trees = [
    Tree(token(14), [lane(14, 9), lane(9, 5), lane(2, 12)], False),
    Tree(token(5), [lane(5, 10), lane(4, 3)], False),
  ]
  alone = [
    Tree(tree.trunk[: lane.fork], [lane], False)
    for tree in trees
    for lane in tree.lanes
  ]

  def loss(params, rows):
    attend, _ = tree_attention.for_layers(config, rows)
    logprobs, *_ = action_logprobs(
      config,
      params,
      rows=rows,
      temperature=0.8,
      chunk_length=16,
      attend=attend,
    )
    return -losses.masked_sum(rows.advantages * logprobs, rows.action_mask)

  run = jax.jit(jax.value_and_grad(loss))
  first = lambda batch: jax.tree.map(lambda x: jnp.asarray(x[0]), batch)
  packed, grads = run(params, first(pack(trees, Layout(80, 1, 1))))
  apart, expected = run(params, first(pack(alone, Layout(32, 5, 1))))
  np.testing.assert_allclose(packed, apart, rtol=1e-5)
  # Sums of a tensor's gradients cancel: their errors are those of its size.
  error = lambda x, y: np.linalg.norm(x - y) / np.linalg.norm(y)
  assert max(jax.tree.leaves(jax.tree.map(error, grads, expected))) < 1e-5
